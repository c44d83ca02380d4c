import io
import json
import tarfile

import numpy as np
import pytest
from message_toys import pack

from molkit import cli
from molkit.data import geom_drugs
from molkit.data.drug_size import split_of_key
from molkit.data.geom_drugs import convert_geom_drugs, leaky_split, load_geom_drugs, lowest_conformers, read_release
from molkit.data.message_stream import MessageReader
from molkit.edm.training import load_molecules, read_recipe
from molkit.errors import DataNotFound, InvalidInput

WATER, METHANE = [8, 1, 1], [6, 1, 1, 1, 1]


def conformer(numbers, energy, seed):
    rng = np.random.default_rng(seed)
    xyz = [[float(number), *map(float, rng.normal(size=3))] for number in numbers]
    return {"geom_id": 10**6 + seed, "set": 1, "degeneracy": 2, "totalenergy": energy, "relativeenergy": 0.0,
            "boltzmannweight": 0.25, "conformerweights": [0.1, 0.15], "xyz": xyz}  # fmt: skip


def molecule(numbers, energies, seed=0):
    return {"conformers": [conformer(numbers, energy, seed + k) for k, energy in enumerate(energies)],
            "totalconfs": len(energies), "temperature": 298.15, "charge": 0, "datasets": ["plates"]}  # fmt: skip


@pytest.fixture
def release(tmp_path):
    """Twelve molecules in two maps, 2 to 5 conformers each; the layout of drugs_crude.msgpack."""
    many = {
        f"C{k}": molecule(METHANE if k % 2 else WATER, [-float(j) for j in range(2 + k % 4)], 10 * k) for k in range(12)
    }
    maps = [dict(list(many.items())[:7]), dict(list(many.items())[7:])]
    path = tmp_path / "drugs_crude.msgpack"
    path.write_bytes(b"".join(map(pack, maps)))
    return path


def as_archive(path, target):
    with tarfile.open(target, "w:gz") as archive:
        archive.add(path, arcname="drugs_crude.msgpack")
    return target


def test_the_reader_agrees_with_bytes_of_the_official_encoder():
    """Written by the msgpack package: {"a": [1, -2, 300, 1.5, None, True], "b": "é"}, a table, a byte string."""
    raw = bytes.fromhex("82a1619601fecd012ccb3ff8000000000000c0c3a162a2c3a9") + bytes.fromhex("c40301ff00")
    reader = MessageReader(io.BytesIO(raw), label="test")
    assert reader.value() == {"a": [1, -2, 300, 1.5, None, True], "b": "é"}
    assert reader.value() == b"\x01\xff\x00" and reader.at_end()


@pytest.mark.parametrize("z", [6.0, 6])
def test_a_table_of_atoms_is_read_in_one_step_whatever_type_z_has(z):
    rows = [[z, 0.25, -1.5, 1e-9]] * 40
    table = MessageReader(io.BytesIO(pack(rows)), label="test").value()
    assert isinstance(table, np.ndarray) and table.tolist() == rows


def test_rows_that_are_not_alike_are_read_one_by_one():
    rows = [[6.0, 0.0, 1.0, 2.0], [6, 0.0, 1.0, 2.0], [1000, 0.0, 1.0, 2.0]]
    assert MessageReader(io.BytesIO(pack(rows)), label="test").value() == rows


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pack({"C": [1.0] * 9})[:-3], "cut off"),
        (b"\xc7\x01\x05\x00", "code 0xc7"),
        (b"\xdb\xff\xff\xff\xff", "longer than any"),
        (pack([[[[[[[[[[1]]]]]]]]]]), "deeper than 8"),
        (b"\x81\x01\x01", "expected text as the key"),
        (b"\xa1\xff", "not UTF-8"),
    ],
)
def test_a_damaged_stream_ends_in_one_line(raw, message):
    with pytest.raises(InvalidInput, match=message) as error:
        MessageReader(io.BytesIO(raw), label="drugs").value()
    assert "\n" not in str(error.value) and str(error.value).startswith("drugs")


def test_the_lowest_conformers_come_first_and_ties_keep_their_order():
    entry = molecule(WATER, [-1.0, -3.0, -2.0, -3.0])
    kept = lowest_conformers("O", entry, num_conformers=3)
    assert kept.energies.tolist() == [-3.0, -3.0, -2.0]
    expected = [np.array(entry["conformers"][row]["xyz"])[:, 1:] for row in (1, 3, 2)]
    np.testing.assert_array_equal(kept.positions, expected)
    assert kept.atomic_numbers.tolist() == [WATER] * 3 and kept.weights.tolist() == [0.25] * 3


def test_the_archive_and_the_plain_file_give_the_same_molecules(release, tmp_path):
    archive = as_archive(release, tmp_path / "drugs_crude.msgpack.tar.gz")
    plain, packed = list(read_release(release)), list(read_release(archive))
    assert [smiles for smiles, _ in plain] == [f"C{k}" for k in range(12)] == [smiles for smiles, _ in packed]
    one, other = plain[3][1]["conformers"][0], packed[3][1]["conformers"][0]
    np.testing.assert_array_equal(one.pop("xyz"), other.pop("xyz"))
    assert one == other


def test_conversion_keeps_what_was_asked_and_every_split_by_molecule_is_free_of_the_others(release, tmp_path):
    result = convert_geom_drugs(release, tmp_path / "geom", num_conformers=3, part_molecules=5)
    expected = sum(min(3, 2 + k % 4) for k in range(12))
    assert (result.num_molecules, result.num_conformers, result.num_parts) == (12, expected, 3)
    splits = {name: load_geom_drugs(split=name, folder=result.folder) for name in ("train", "valid", "test")}
    names = {name: set(pack.names) for name, pack in splits.items()}
    assert sum(map(len, splits.values())) == expected and set.union(*names.values()) == {f"C{k}" for k in range(12)}
    assert not names["train"] & names["test"] and not names["train"] & names["valid"]
    assert all(split_of_key(smiles) == split for split, found in names.items() for smiles in found)
    first = load_geom_drugs(split="all", folder=result.folder)[0]
    entry = dict(read_release(release))["C0"]
    wanted = np.array(entry["conformers"][1]["xyz"])[:, 1:]  # the lower of two energies
    np.testing.assert_allclose(first.positions, wanted - wanted.mean(0), atol=2e-4)
    assert first.atomic_numbers.tolist() == WATER and first.name == "C0"


def test_the_leaky_split_is_a_permutation_of_conformers_in_tenths():
    parts = leaky_split(100)
    order = np.random.RandomState(0).permutation(100)
    assert parts["valid"].tolist() == sorted(order[:10]) and parts["test"].tolist() == sorted(order[10:20])
    assert sorted(np.concatenate([parts[name] for name in ("train", "valid", "test")])) == list(range(100))


def test_the_leaky_split_puts_conformers_of_one_molecule_on_both_sides(release, tmp_path):
    folder = convert_geom_drugs(release, tmp_path / "geom").folder
    splits = {name: load_geom_drugs(split=name, split_by="conformer", folder=folder) for name in ("train", "test")}
    assert set(splits["train"].names) & set(splits["test"].names)
    assert len(load_geom_drugs(split="train", split_by="conformer", limit=4, folder=folder)) == 4


def test_an_interrupted_conversion_continues_and_gives_the_same_bytes(release, tmp_path):
    whole = convert_geom_drugs(release, tmp_path / "whole", part_molecules=4).folder
    begun = convert_geom_drugs(release, tmp_path / "begun", part_molecules=4).folder
    (begun / "index.json").unlink()
    (begun / "part-00002.npz").unlink()
    stamp = (begun / "part-00000.npz").stat().st_mtime_ns
    with pytest.raises(DataNotFound, match="not finished; run it again"):
        load_geom_drugs(folder=begun)
    convert_geom_drugs(release, begun, part_molecules=4)
    assert (begun / "part-00000.npz").stat().st_mtime_ns == stamp
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in begun.iterdir()
    }
    with pytest.raises(InvalidInput, match="choose another --out"):
        convert_geom_drugs(release, begun, part_molecules=5)


@pytest.mark.parametrize("part", [0.3, 0.97])
def test_a_truncated_file_or_archive_says_download_again_and_leaves_no_index(release, tmp_path, part):
    archive = as_archive(release, tmp_path / "drugs.tar.gz")
    for path in (release, archive):
        raw = path.read_bytes()
        path.write_bytes(raw[: int(part * len(raw))])
        with pytest.raises(InvalidInput, match="download it again") as error:
            convert_geom_drugs(path, tmp_path / path.name.replace(".", "_"), part_molecules=2)
        assert "\n" not in str(error.value)
        assert not (tmp_path / path.name.replace(".", "_") / "index.json").exists()


def test_a_file_of_another_layout_is_refused_in_one_line(tmp_path):
    path = tmp_path / "drugs_featurized.msgpack"
    for values, message in (({"C": {"atoms": [1]}}, "list of `conformers`"), ([1, 2], "expected a table of molecules")):
        path.write_bytes(pack(values))
        with pytest.raises(InvalidInput, match=message):
            convert_geom_drugs(path, tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match="it is empty"):
        list(read_release(path))
    with pytest.raises(DataNotFound, match="dataverse.harvard.edu"):
        list(read_release(tmp_path / "absent.msgpack"))


def test_bad_molecules_are_listed_and_the_good_ones_kept(tmp_path):
    bad_number = molecule([6, 92], [-1.0])
    uneven = molecule(WATER, [-1.0]) | {"conformers": [conformer(WATER, -1.0, 0), conformer(METHANE, -2.0, 1)]}
    broken = molecule(WATER, [float("nan")])
    path = tmp_path / "drugs_crude.msgpack"
    entries = {
        "good": molecule(WATER, [-1.0]),
        "U": bad_number,
        "uneven": uneven,
        "nan": broken,
        "none": molecule([], []),
    }
    path.write_bytes(pack(entries))
    result = convert_geom_drugs(path, tmp_path / "out")
    assert result.num_molecules == result.num_conformers == 1
    reasons = dict(result.refused)
    assert "Z = 92" in reasons["U"] and "different numbers" in reasons["uneven"] and "not finite" in reasons["nan"]
    assert json.loads((result.folder / "index.json").read_text())["refused"][0][0] == "U"


def test_the_command_writes_a_recipe_that_trains_on_what_it_packed(release, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "sets" / "geom_drugs"
    assert cli.run(["data", "convert", "geom_drugs", str(release), "--out", str(folder)]) == 0
    assert "12 molecules" in capsys.readouterr().out
    monkeypatch.setattr(geom_drugs, "data_root", lambda: tmp_path / "sets")
    recipe = read_recipe(folder / "recipe.yaml")
    molecules = load_molecules(recipe.data)
    assert recipe.model.elements == geom_drugs.ELEMENTS and not recipe.model.atomic_number_channel
    assert sum(count for _, count in recipe.model.sizes) == len(molecules) == len(load_geom_drugs(split="train"))
    assert cli.run(["data", "convert", "geom_drugs", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
