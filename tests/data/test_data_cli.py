import shutil

import pytest

from molkit import cli
from molkit.data import registry


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """A copy of a few files with a list and card of their own."""
    names = ["qm9_atomref.csv", "qm9_splits.npz", "pdb/alanine_dipeptide.pdb", "pdb/cln025_md_frame.pdb"]
    lines = [f"{checksum}  {name}" for name, checksum in registry.listed_checksums().items() if name in names]
    for name in [*names, "README.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(registry.DATA_ROOT / name, tmp_path / name)
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path)
    return tmp_path


def test_list_names_every_file_with_size_and_title(capsys):
    assert cli.run(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in registry.listed_checksums())
    assert "missing" not in out.replace("missing from", "") and "G-SchNet" in out


def test_verify_prints_one_line_a_file(collection, capsys):
    assert cli.run(["data", "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("ok ") for line in lines)


def test_verify_goes_on_after_a_damaged_and_a_missing_file_and_ends_with_2(collection, capsys):
    expected = registry.listed_checksums()["qm9_atomref.csv"]
    (collection / "qm9_atomref.csv").write_text("damaged")
    (collection / "pdb" / "cln025_md_frame.pdb").unlink()
    assert cli.run(["data", "verify"]) == 2
    captured = capsys.readouterr()
    assert sorted(line.split()[0] for line in captured.out.splitlines()) == ["DAMAGED", "MISSING", "ok", "ok"]
    assert expected in captured.err and registry.sha256_of(collection / "qm9_atomref.csv") in captured.err
    assert "cln025_md_frame.pdb is missing" in captured.err


def test_verify_takes_a_short_name_and_a_folder(collection, capsys):
    assert cli.run(["data", "verify", "qm9_splits"]) == 0
    assert cli.run(["data", "verify", "pdb"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_info_quotes_the_card_and_lists_the_arrays(collection, capsys):
    assert cli.run(["data", "info", "qm9_splits"]) == 0
    out = capsys.readouterr().out
    assert "order of the permutation" in out and "uncharacterized" in out and "[3054]" in out


@pytest.mark.parametrize("command", ["info", "verify"])
def test_an_unknown_name_lists_what_there_is(collection, capsys, command):
    assert cli.run(["data", command, "qm10"]) == 2
    assert "no data set named 'qm10': expected one of" in capsys.readouterr().err


def test_only_qm9_can_be_fetched(capsys):
    assert cli.run(["data", "fetch", "geom"]) == 2
    assert "'geom' is not 'qm9'" in capsys.readouterr().err
