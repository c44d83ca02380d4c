import hashlib

import numpy as np
import pytest

from molkit.chem.conformer_rmsd import rmsd_matrix
from molkit.chem.rdkit_tools import mol_from_smiles, plain_smiles, skeleton_smiles
from molkit.cli import run
from molkit.data.drug_size import split_of_key
from molkit.data.ensembles import (
    boltzmann_weights,
    choose_molecules,
    ensemble_mol,
    load_ensembles,
    read_ensembles,
    read_smiles_file,
    to_arrays,
    write_ensembles,
)
from molkit.errors import DataNotFound, InvalidInput


@pytest.fixture(scope="module")
def dft():
    return load_ensembles("conformers_dft", split="test", limit=6)


def test_a_packed_set_comes_back(dft, tmp_path):
    write_ensembles(tmp_path / "set.npz", dft)
    for before, after in zip(dft, read_ensembles(tmp_path / "set.npz"), strict=True):
        assert (before.name, before.smiles, before.split) == (after.name, after.smiles, after.split)
        np.testing.assert_array_equal(before.bonds, after.bonds)
        np.testing.assert_allclose(before.energies, after.energies, atol=1e-3)
        rmsd = rmsd_matrix(ensemble_mol(before), before.positions, after.positions)
        assert np.diag(rmsd).max() < 5e-4


def test_dft_ensembles_are_those_of_their_set(dft):
    whole = load_ensembles("conformers_dft")
    assert len(whole) == 708 and sum(map(len, whole)) == 6759
    assert {one.split for one in dft} == {"test"}
    assert all(np.nanmin(one.energies) == 0.0 for one in whole if np.isfinite(one.energies).any())


def test_boltzmann_weights_by_hand():
    weights = boltzmann_weights(np.array([0.0, 0.5924847]))  # kT at 298.15 K in kcal/mol
    assert weights == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e)], rel=1e-4)


def test_wrong_sets_end_in_a_line(dft, tmp_path):
    with pytest.raises(InvalidInput, match="unknown set"):
        load_ensembles("geom")
    with pytest.raises(DataNotFound, match="molkit ensembles"):
        load_ensembles("ensembles_qm9", root=tmp_path)
    with pytest.raises(InvalidInput, match="at least one"):
        write_ensembles(tmp_path / "none.npz", [])
    arrays = to_arrays(dft)
    np.savez(tmp_path / "cut.npz", **(arrays | {"energies_kcal": arrays["energies_kcal"][:-1]}))
    np.savez(tmp_path / "lacking.npz", **{key: value for key, value in arrays.items() if key != "bonds"})
    for name in ("cut", "lacking"):
        with pytest.raises(InvalidInput):
            read_ensembles(tmp_path / f"{name}.npz")


def digest_of(ensembles) -> str:
    """SHA-256 of names, positions (in units of the file), energies and bonds."""
    found = hashlib.sha256()
    for one in ensembles:
        found.update(f"{one.name} {one.smiles} {one.bonds.tolist()} {one.formal_charges.tolist()}".encode())
        found.update(np.rint(one.positions / 2.5e-4).astype(np.int32).tobytes())
        found.update(one.energies.astype(np.float32).tobytes())
    return found.hexdigest()


def test_the_molecules_of_published_results_stay_what_they_were():
    """Studies were made on these test ensembles, and etm_qm9 was trained on the first 745 training molecules."""
    train, test = (load_ensembles("ensembles_qm9", split=split) for split in ("train", "test"))
    assert (len(test), sum(map(len, test))) == (199, 2825)
    assert digest_of(test).startswith("78241adeb5805418")
    assert sum(map(len, train[:745])) == 2529
    assert digest_of(train[:745]).startswith("c74e035698f73940")


def test_drug_size_ensembles_for_training_share_no_skeleton_with_those_that_judge():
    train, test = (load_ensembles("ensembles_drugs", split=split) for split in ("train", "test"))
    assert len(train) >= 300 and (len(test), sum(map(len, test))) == (100, 701)
    assert digest_of(test).startswith("9cd8a9ee193bbefd")
    of_train, of_test = ({skeleton_smiles(mol_from_smiles(one.smiles)) for one in part} for part in (train, test))
    assert not of_train & of_test and {split_of_key(key) for key in of_train} == {"train"}


def test_no_graph_is_in_two_splits_of_the_qm9_ensembles():
    sizes, graphs = {}, set()
    for split in ("train", "valid", "test"):
        found = load_ensembles("ensembles_qm9", split=split)
        graphs |= (own := {plain_smiles(mol_from_smiles(one.smiles)) for one in found})
        sizes[split] = len(own)
    assert sizes["train"] >= 2000 and sizes["valid"] >= 50 and len(graphs) == sum(sizes.values())


def test_a_first_part_of_a_choice_is_its_beginning():
    drugs = choose_molecules("drugs-test", 300)
    assert choose_molecules("drugs-test", 5) == drugs[:5] and 100 <= len(drugs) <= 220
    splits = [split_of_key(skeleton_smiles(mol_from_smiles(one.smiles))) for one in drugs[:100]]
    assert splits == ["test"] * 96 + ["valid"] * 4
    assert not {one.name for one in drugs} & {one.name for one in choose_molecules("drugs-train", 1000)}


def test_smiles_files_are_read_or_refused(tmp_path):
    path = tmp_path / "x.smi"
    path.write_text("# names follow\nCCO ethanol\n\nCC\n")
    assert [(one.name, one.smiles) for one in read_smiles_file(path)] == [("ethanol", "CCO"), ("line_4", "CC")]
    for text, match in (("\n", "got none"), ("CC a\nCCC a\n", "named 'a'")):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=match):
            read_smiles_file(path)
    with pytest.raises(InvalidInput, match="cannot read"):
        read_smiles_file(tmp_path / "no.smi")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smiles,name\nCCO,ethanol\nCO,\n", [("ethanol", "CCO"), ("line_3", "CO")]),
        ('id;SMILES;mass\n7;"CCO";46\n', [("7", "CCO")]),
        ('CCO,ethanol,46\nCO,"methyl alcohol"\n', [("ethanol", "CCO"), ("methyl alcohol", "CO")]),
        ("CCO\tname with blanks\t46\n", [("name with blanks", "CCO")]),
        ("CCO a longer name\n", [("a longer name", "CCO")]),
        ("C[CH2] |^1:1| ethyl\n", [("line_1", "C[CH2] |^1:1| ethyl")]),  # refused later, for its blank
        (",CCO\n", [("line_1", ",CCO")]),
    ],
)
def test_tables_and_lists_of_smiles_are_told_apart(tmp_path, text, expected):
    (tmp_path / "x.csv").write_text(text)
    assert [(one.name, one.smiles) for one in read_smiles_file(tmp_path / "x.csv")] == expected


def test_the_command_makes_continues_and_packs(tmp_path, capsys):
    smiles, folder, packed = tmp_path / "x.smi", tmp_path / "farm", tmp_path / "set.npz"
    smiles.write_text("CCO ethanol\nCC.O salt\nC=C ethene\n")
    command = ["ensembles", "make", str(smiles), "--starts", "4", "--out", str(folder)]
    assert run(command) == 3
    said = capsys.readouterr()
    assert "left out, salt: " in said.err and "2 of 3 molecules done, 1 failed" in said.out
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert run(command) == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert run(["ensembles", "pack", f"test={folder}", "--out", str(packed)]) == 0
    assert [one.name for one in read_ensembles(packed)] == ["ethanol", "ethene"]
    again = tmp_path / "again.npz"
    assert run(["ensembles", "pack", f"train={folder}", f"test={packed}", "--out", str(again)]) == 0
    found, known = read_ensembles(again), read_ensembles(packed)
    assert [one.split for one in found] == ["train", "train", "test", "test"]
    for one, other in zip(found[2:], known, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    assert run(["ensembles", "pack", "some", "--out", str(packed)]) == 2
    assert run([*command[:-3], "5", "--out", str(folder)]) == 2  # other settings, same folder
