"""`molkit score`: the table, the JSON, and bad files."""

import json

import pytest

from molkit.chem.files import write_sdf, write_xyz
from molkit.chem.rdkit_tools import embed_smiles
from molkit.cli import run
from molkit.data import registry
from molkit.data.packed import write_packed
from molkit.molecule import Molecule, PackedMolecules


def good():
    return [embed_smiles(smiles)[0] for smiles in ("C", "CC", "CO", "c1ccccc1")]


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """A place without data sets, where scoring is quick."""
    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path / "no_data")


def test_a_file_is_scored_beside_the_row_of_qm9(tmp_path, capsys):
    path = tmp_path / "a.xyz"
    write_xyz(path, good())
    assert run(["score", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["score"]["num_molecules"] == 4
    assert report["score"]["molecule_stability"]["value"] == 0.75  # benzene at force-field lengths
    assert report["qm9_test"]["molecule_stability"]["value"] == pytest.approx(0.956, abs=0.003)
    assert report["score"]["novelty"]["value"] < 1.0
    assert report["skipped"] == []


def test_the_table_names_the_rule_and_says_that_the_data_are_missing(tmp_path, capsys, no_data):
    path = tmp_path / "a.sdf"
    write_sdf(path, good())
    assert run(["score", str(path), "--rule", "formal_charge"]) == 0
    out = capsys.readouterr().out
    assert "% by rule formal_charge" in out and "no row of QM9" in out
    assert "molecules stable" in out and "100.0  [" in out


def test_good_molecules_are_scored_and_bad_ones_listed(tmp_path, capsys, no_data):
    path = tmp_path / "a.xyz"
    write_xyz(path, [*good(), Molecule([11], [[0, 0, 0]]), Molecule([1, 1], [[0, 0, 0], [0, 0, 0.1]])])
    assert run(["score", str(path)]) == 3
    out, err = capsys.readouterr()
    assert "left out, molecule 5" in err and "got Na" in err
    assert "left out, molecule 6" in err and "closer than 0.2 angstrom" in err
    assert "counting the 2 left out as failures: molecules stable 50.0" in out
    assert err.splitlines()[-1].startswith("molkit: 2 of 6 molecules left out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "", "empty file"),
        ("a.xyz", "1\n\nQq 0 0 0\n", "line 3: expected an element"),
        ("a.sdf", "garbage\n", "expected an SDF record"),
        ("a.pdb", "ATOM\n", "ending in .xyz, .sdf or .mol"),
        ("a.xyz", None, "cannot read"),
    ],
)
def test_a_file_without_a_usable_molecule_ends_in_one_line(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert run(["score", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and str(path) in err
    assert len(err.strip().splitlines()) == 1


def test_an_unknown_rule_is_refused(tmp_path, capsys):
    assert run(["score", str(tmp_path / "a.xyz"), "--rule", "magic"]) == 2
    assert "edm" in capsys.readouterr().err


def test_strain_and_posebusters_are_added_where_asked_for(tmp_path, capsys):
    import json

    from molkit.cli import run

    file = tmp_path / "two.xyz"
    water = "O 0.0 0.0 0.1173\nH 0.0 0.7572 -0.4692\nH 0.0 -0.7572 -0.4692\n"
    file.write_text(f"3\nwater\n{water}2\nradical\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n")
    assert run(["score", str(file), "--strain", "--posebusters", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["strain"]["num_odd"] == 1 and report["strain"]["num_failed"] == 0
    assert 0.0 <= report["strain"]["energy_drop"]["value"] < 1.0
    assert report["posebusters"]["num_molecules"] == 2
    assert report["posebusters"]["shares"]["bond_lengths"]["value"] == 1.0
    assert run(["score", str(file), "--strain"]) == 0
    assert "1 odd, 0 failed" in capsys.readouterr().out


def test_a_packed_file_is_scored_and_broken_molecules_in_it_are_listed(tmp_path, capsys, no_data):
    path = tmp_path / "a.npz"
    crash = Molecule([1, 1], [[0, 0, 0], [0, 0, 0.1]])
    write_packed(path, PackedMolecules.from_molecules([*good(), crash]))
    assert run(["score", str(path), "--posebusters"]) == 3
    out, err = capsys.readouterr()
    assert "left out, molecule 5" in err and "closer than 0.2 angstrom" in err
    assert "PoseBusters: no bonds found for 0 of 4" in out
    assert "1 of 5 molecules" in err
