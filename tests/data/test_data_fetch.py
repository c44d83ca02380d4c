"""Fetching QM9 from a server on this machine that has a small archive of the published layout."""

import hashlib
import http.server
import io
import socket
import tarfile
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from molkit import cli
from molkit.data import qm9_original
from molkit.data.fetch import RemoteFile, download
from molkit.data.qm9 import PROPERTY_UNITS, load_qm9, qm9_full_properties, qm9_index, split_of_qm9
from molkit.data.qm9_original import Qm9Release, fetch_qm9, parse_record, read_archive, read_uncharacterized
from molkit.errors import ChecksumMismatch, InvalidInput, NetworkUnavailable
from molkit.molecule import Molecule

NUM_MOLECULES, LEFT_OUT, NUM_TRAIN = 40, (7, 13, 22), 28
ARCHIVE, LIST, ATOMS = "dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt", "atomref.txt"

METHANE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t"
    "-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)


def molecule_of(number: int) -> Molecule:
    """Small made-up molecules; every fifth one carries fluorine."""
    random = np.random.default_rng(number)
    size = int(random.integers(3, 12))
    numbers = random.choice([1, 6, 7, 8], size)
    numbers[0] = 9 if number % 5 == 0 else numbers[0]
    return Molecule(numbers, random.normal(0.0, 1.5, (size, 3)))


def record_of(number: int) -> str:
    """One record as the archive writes it, with an exponent in its odd notation."""
    molecule = molecule_of(number)
    properties = "\t".join(f"{number + column / 100:.2f}" for column in range(14)) + "\t2.5*^-6"
    atoms = [
        f"{symbol}\t{x:.10f}\t {y:.10f}\t {z:.10f}\t-0.1\n"
        for symbol, (x, y, z) in zip(molecule.symbols, molecule.positions, strict=True)
    ]
    tail = f"100.\t200.\nC{number}\tCC\t\nInChI=1\tInChI=1\n"
    return f"{molecule.num_atoms}\ngdb {number}\t{properties}\t\n{''.join(atoms)}{tail}"


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def good_archive() -> bytes:
    order = np.random.default_rng(0).permutation(np.arange(1, NUM_MOLECULES + 1)).tolist()
    return tar_of([(tarfile.TarInfo(f"dsgdb9nsd_{n:06d}.xyz"), record_of(n).encode()) for n in order])


def published_list() -> bytes:
    rows = "".join(f"      {n}        NC(=N)C#N        NC(=N)C#N           6.036217\n" for n in LEFT_OUT)
    rule = "=" * 60 + "\n"
    return f"\nList of molecules among the 40\n{rule}#  Index  SMILES  SMILES\n{rule}{rows}{rule}3 compounds\n".encode()


def published_atoms() -> bytes:
    values = {"H": -0.500273, "C": -37.846772, "N": -54.583861, "O": -75.064579, "F": -99.71873}
    rows = "".join(f"   {s}     0.000000   {u0}  -1.0  -1.0  -1.0   2.981\n" for s, u0 in values.items())
    return f"=====\n  Ele-    ZPVE         U (0 K)\n  ment   Hartree\n=====\n{rows}=====\n".encode()


@dataclass
class Web:
    """What the server holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    address: str = ""
    cut_after: int | None = None  # bytes of a body after which the connection is dropped
    drops_left: int = 10**6
    ranges_honoured: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def web():
    state = Web({ARCHIVE: good_archive(), LIST: published_list(), ATOMS: published_atoms()})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name, span = self.path.lstrip("/"), self.headers.get("Range")
            state.asked.append((name, span))
            if name not in state.files:
                self.send_error(404)
                return
            content, start = state.files[name], 0
            if span and state.ranges_honoured:
                start = int(span.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.cut_after is not None and state.drops_left > 0 and len(body) > state.cut_after:
                body = body[: state.cut_after]
                state.drops_left -= 1
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}/"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def release_of(web: Web) -> Qm9Release:
    """A release whose published sizes and checksums are those of the files the server holds now."""

    def remote(name: str) -> RemoteFile:
        content = web.files[name]
        return RemoteFile(
            name=name,
            urls=(web.address + name,),
            num_bytes=len(content),
            md5=hashlib.md5(content).hexdigest(),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    return Qm9Release(
        archive=remote(ARCHIVE),
        uncharacterized=remote(LIST),
        atom_references=remote(ATOMS),
        num_molecules=NUM_MOLECULES,
        num_uncharacterized=len(LEFT_OUT),
        num_train=NUM_TRAIN,
    )


@pytest.fixture
def release(web, monkeypatch):
    """The command line believes that the small set is the published one."""
    small = release_of(web)
    monkeypatch.setattr(qm9_original, "PUBLISHED", small)
    return small


def on_disk(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fetch(folder, capsys, *options: str) -> tuple[int, str, str]:
    """Exit code, output and last line of the errors of the command."""
    code = cli.run(["data", "fetch", "qm9", "--out", str(folder), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.strip().splitlines()[-1] if captured.err.strip() else ""


COMPLETE = {f"original/{ARCHIVE}", f"original/{LIST}", f"original/{ATOMS}", "qm9_full.npz", "qm9_full.npz.sha256"}


def test_a_good_archive_becomes_a_packed_set_with_five_elements_and_all_properties(tmp_path, release, capsys):
    code, out, _ = fetch(tmp_path, capsys)

    assert code == 0 and "37 molecules" in out and on_disk(tmp_path) == COMPLETE
    molecules, index = (
        load_qm9(split="all", source="full", root=tmp_path),
        qm9_index(split="all", source="full", root=tmp_path),
    )
    assert index.tolist() == [n for n in range(1, NUM_MOLECULES + 1) if n not in LEFT_OUT]
    for molecule, number in zip(molecules, index.tolist(), strict=True):
        expected = molecule_of(number).centred()
        assert molecule.symbols == expected.symbols
        assert np.abs(molecule.positions - expected.positions).max() <= 1.26e-4
    assert 9 in molecules.atomic_numbers
    properties = qm9_full_properties(split="all", root=tmp_path)
    np.testing.assert_allclose(properties["mu"], index + 0.03)
    np.testing.assert_allclose(properties["Cv"], 2.5e-6)


def test_the_fetched_set_is_split_by_the_published_rule(tmp_path, release):
    fetch_qm9(tmp_path, release=release)
    expected = split_of_qm9(np.array(LEFT_OUT), num_molecules=NUM_MOLECULES, num_train=NUM_TRAIN)
    for split, members in expected.items():
        assert qm9_index(split=split, source="full", root=tmp_path).tolist() == sorted(members.tolist())


def test_a_second_fetch_asks_the_network_for_nothing(tmp_path, release, web, capsys):
    fetch(tmp_path, capsys)
    web.asked.clear()
    code, out, _ = fetch(tmp_path, capsys)
    assert code == 0 and "is there already" in out and not web.asked

    (tmp_path / "qm9_full.npz").write_bytes(b"damaged")
    code, out, _ = fetch(tmp_path, capsys)
    assert code == 0 and "written" in out and not web.asked
    assert len(load_qm9(split="all", source="full", root=tmp_path)) == 37


def test_the_same_archive_gives_the_same_bytes(tmp_path, release):
    one, two = (fetch_qm9(tmp_path / name, release=release) for name in ("a", "b"))
    assert one.sha256 == two.sha256


def test_a_connection_that_breaks_is_taken_up_where_it_stopped(tmp_path, release, web, capsys):
    web.cut_after, web.drops_left = 2_000, 2
    code, _, _ = fetch(tmp_path, capsys)
    assert code == 0 and on_disk(tmp_path) == COMPLETE
    assert (ARCHIVE, "bytes=2000-") in web.asked and (ARCHIVE, "bytes=4000-") in web.asked


def test_an_interrupted_fetch_keeps_its_part_and_the_next_one_goes_on(tmp_path, release, web, capsys):
    web.cut_after = 1_000
    code, _, line = fetch(tmp_path, capsys)
    part = tmp_path / "original" / f"{ARCHIVE}.part"
    assert code == 2 and "the connection ended after 3,000" in line and "run the command again to continue" in line
    assert part.read_bytes() == web.files[ARCHIVE][:3_000]
    assert on_disk(tmp_path) == {f"original/{LIST}", f"original/{ATOMS}", f"original/{ARCHIVE}.part"}

    web.cut_after = None
    web.asked.clear()
    code, _, _ = fetch(tmp_path, capsys)
    assert code == 0 and web.asked == [(ARCHIVE, "bytes=3000-")] and on_disk(tmp_path) == COMPLETE


def test_a_server_that_does_not_resume_sends_the_whole_file_again(tmp_path, release, web, capsys):
    web.cut_after, web.drops_left, web.ranges_honoured = 2_000, 1, False
    code, _, _ = fetch(tmp_path, capsys)
    assert code == 0 and on_disk(tmp_path) == COMPLETE


def test_wrong_bytes_of_the_right_length_are_reported_with_both_checksums_and_removed(tmp_path, release, web, capsys):
    content = bytearray(web.files[ARCHIVE])
    content[500] ^= 1
    web.files[ARCHIVE] = bytes(content)
    code, _, line = fetch(tmp_path, capsys)
    assert code == 2 and release.archive.md5 in line and hashlib.md5(content).hexdigest() in line
    assert on_disk(tmp_path) == {f"original/{LIST}", f"original/{ATOMS}"}


def test_a_file_of_another_length_is_refused_before_it_is_loaded(tmp_path, release, web, capsys):
    web.files[ARCHIVE] = web.files[ARCHIVE][:-100]
    code, _, line = fetch(tmp_path, capsys)
    assert code == 2 and f"expected a file of {release.archive.num_bytes:,} bytes, the server offers" in line
    assert on_disk(tmp_path) == {f"original/{LIST}", f"original/{ATOMS}"}


def test_a_file_put_there_by_hand_is_used_if_right_and_named_if_wrong(tmp_path, release, web, capsys):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / ARCHIVE).write_bytes(web.files.pop(ARCHIVE))
    assert fetch(tmp_path, capsys)[0] == 0

    (tmp_path / "qm9_full.npz").unlink()
    (folder / ARCHIVE).write_bytes(b"something else")
    code, _, line = fetch(tmp_path, capsys)
    assert code == 2 and "found 14; delete it, then fetch again" in line


def test_a_missing_file_is_reported_with_its_address(tmp_path, release, web, capsys):
    del web.files[LIST]
    code, _, line = fetch(tmp_path, capsys)
    assert code == 2 and f"{web.address}{LIST}: HTTP status 404" in line and "nothing was written" in line
    assert on_disk(tmp_path) == set()


def test_a_second_base_address_helps_where_the_first_has_nothing(tmp_path, release, web, capsys):
    code, _, _ = fetch(tmp_path, capsys, "--base-url", web.address + "nothing", "--base-url", web.address)
    assert code == 0 and on_disk(tmp_path) == COMPLETE


def test_without_network_the_command_says_so_and_writes_nothing(tmp_path, release, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        code, _, line = fetch(tmp_path / "new", capsys, "--base-url", address)
    assert code == 2 and "no connection" in line and "put the file there yourself" in line
    assert not list(tmp_path.iterdir())


def test_addresses_of_local_files_are_not_followed(tmp_path, release, capsys):
    code, _, line = fetch(tmp_path, capsys, "--base-url", "file:///etc")
    assert code == 2 and "must begin with http:// or https://" in line and on_disk(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, release, capsys):
    (tmp_path / "file").write_text("in the way")
    code, _, line = fetch(tmp_path / "file", capsys)
    assert code == 2 and ("cannot write to" in line or "is a file" in line)
    assert (tmp_path / "file").read_text() == "in the way"


def hostile(kind: str) -> tuple[tarfile.TarInfo, bytes]:
    """One archive member that no QM9 archive has."""
    info = tarfile.TarInfo(
        {"climbing": "../../dsgdb9nsd_000041.xyz", "absolute": "/dsgdb9nsd_000041.xyz"}.get(kind, kind)
    )
    if kind == "dsgdb9nsd_000041.xyz":
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info, b"x" * 70_000 if kind == "dsgdb9nsd_000042.xyz" else record_of(41).encode()


@pytest.mark.parametrize("kind", ["climbing", "absolute", "run_me.sh", "dsgdb9nsd_000041.xyz", "dsgdb9nsd_000042.xyz"])
def test_a_hostile_member_stops_the_reading_and_nothing_is_unpacked(tmp_path, web, monkeypatch, capsys, kind):
    web.files[ARCHIVE] = tar_of([(tarfile.TarInfo("dsgdb9nsd_000001.xyz"), METHANE.encode()), hostile(kind)])
    monkeypatch.setattr(qm9_original, "PUBLISHED", release_of(web))
    code, _, line = fetch(tmp_path / "inside", capsys)
    assert code == 2 and hostile(kind)[0].name in line
    assert on_disk(tmp_path) == {f"inside/original/{name}" for name in (ARCHIVE, LIST, ATOMS)}


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_an_archive_that_was_published_truncated_is_refused(tmp_path, web, share):
    whole = web.files[ARCHIVE]
    (tmp_path / ARCHIVE).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InvalidInput, match="not a complete .tar.bz2 archive"):
        list(read_archive(tmp_path / ARCHIVE))


def test_missing_molecules_and_a_short_list_are_noticed(tmp_path, web):
    web.files[ARCHIVE] = tar_of([(tarfile.TarInfo("dsgdb9nsd_000001.xyz"), METHANE.encode())])
    with pytest.raises(InvalidInput, match="expected the molecules 1..40 once each in the archive, got 1 records"):
        fetch_qm9(tmp_path / "a", release=release_of(web))
    web.files[ARCHIVE], web.files[LIST] = good_archive(), published_list().replace(b"      13 ", b"      x13 ")
    with pytest.raises(InvalidInput, match="expected 3 uncharacterized molecules in the list, got 2"):
        fetch_qm9(tmp_path / "b", release=release_of(web))
    assert not list(tmp_path.rglob("qm9_full*"))


def test_methane_is_read_from_its_published_record():
    record = parse_record(METHANE)
    assert record.index == 1 and record.smiles == "C" and record.atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    assert record.positions[1].tolist() == [0.002150416, -0.0060313176, 0.0019761204]
    values = dict(zip(PROPERTY_UNITS, record.properties.tolist(), strict=True))
    assert values["A"] == 157.7118 and values["gap"] == 0.5048 and values["U0"] == -40.47893 and values["Cv"] == 6.469


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\t6.469\t\n", "\n"),
        ("gdb 1", "gdb x"),
        ("gdb 1", "xyz 1"),
        ("0.002150416", "nan"),
        ("C\t-0.0126981359", "Qq\t-0.0126981359"),
        ("5\ngdb", "50\ngdb"),
    ],
)
def test_a_broken_record_is_refused(old, new):
    assert old in METHANE
    with pytest.raises(InvalidInput, match="QM9 record: expected"):
        parse_record(METHANE.replace(old, new, 1))


def test_the_list_is_read_past_its_prose(tmp_path):
    (tmp_path / LIST).write_bytes(published_list())
    assert read_uncharacterized(tmp_path / LIST).tolist() == list(LEFT_OUT)


def test_the_errors_of_a_download_have_their_types(tmp_path, web):
    file = release_of(web).archive
    wrong = RemoteFile(name=ARCHIVE, urls=file.urls, num_bytes=file.num_bytes, md5="0" * 32)
    with pytest.raises(ChecksumMismatch):
        download(wrong, tmp_path)
    with pytest.raises(NetworkUnavailable):
        download(file.mirrored([web.address + "nothing"]), tmp_path)
    seen = []
    assert download(file, tmp_path, on_bytes=lambda done, total: seen.append((done, total))).is_file()
    assert seen[-1] == (file.num_bytes, file.num_bytes)
