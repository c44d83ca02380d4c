"""XYZ and SDF files: round trips, forgiving reading, and a clear line for everything that is wrong."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molkit.chem import files
from molkit.chem.rdkit_tools import embed_smiles, perceived_smiles
from molkit.errors import InvalidInput
from molkit.molecule import SYMBOLS, Molecule

COORDINATE = st.floats(-1e4, 1e4, allow_nan=False)
ATOM = st.tuples(st.integers(1, len(SYMBOLS) - 1), COORDINATE, COORDINATE, COORDINATE)
NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), max_size=12).filter(
    lambda name: "charge=" not in name and "spin=" not in name
)


@st.composite
def molecules(draw):
    atoms = draw(st.lists(ATOM, min_size=1, max_size=6))
    charge, spin = draw(st.integers(-3, 3)), draw(st.integers(0, 3))
    numbers, positions = [atom[0] for atom in atoms], [atom[1:] for atom in atoms]
    return Molecule(numbers, positions, charge=charge, spin=spin, name=draw(NAME))


@settings(max_examples=60, deadline=None)
@given(st.lists(molecules(), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_xyz_gives_back_what_was_written(tmp_path_factory, frames, newline, blank_lines):
    path = tmp_path_factory.mktemp("xyz") / "frames.xyz"
    files.write_xyz(path, frames)
    text = path.read_text(encoding="utf-8")
    if blank_lines:
        text = "\n\n" + text + "\n \n"
    path.write_bytes(text.replace("\n", newline).encode())
    back = files.read_xyz(path)
    assert len(back) == len(frames)
    for one, other in zip(frames, back, strict=True):
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-9)
        assert (one.charge, one.spin, one.name) == (other.charge, other.spin, other.name)


def test_symbols_numbers_fortran_exponents_extra_columns_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("\n3\nwater\n8 0 0 0 0.5\n\nh 0 0 9.6D-1\nH 0 9.6*^-1 0\n\n\n1\n\nCL 0 0 0\n", encoding="latin-1")
    water, chlorine = files.read_xyz(path)
    assert (water.formula, water.name, chlorine.formula) == ("H2O", "water", "Cl")
    np.testing.assert_allclose(water.positions[1:], [[0, 0, 0.96], [0, 0.96, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one molecule, got an empty file"),
        ("\n \n", "expected at least one molecule, got an empty file"),
        ("water\n", "line 1: expected the number of atoms (1 or more), got 'water'"),
        ("0\n\n", "line 1: expected the number of atoms (1 or more), got '0'"),
        ("-2\n\n", "got '-2'"),
        ("9" * 5000 + "\n", "line 1: expected the number of atoms"),
        ("3\n\nH 0 0 0\n", "line 1: expected 3 atom rows, got 'the end of the file after 1'"),
        ("2\nH 0 0 0\nH 0 0 1\n", "the second line of a frame is a comment"),
        ("2\n\nH 0 0 0\n1\n\nH 0 0 0\n", "line 4: expected 2 atom rows, got 'a lone number after 1'"),
        ("1\n\nQq 0 0 0\n", "line 3: expected an element (H to Bi, or its number), got 'Qq'"),
        ("1\n\n0 0 0 0\n", "got '0'"),
        ("1\n\nH 0 0\n", "line 3: expected 'element x y z', got 'H 0 0'"),
        ("1\n\nH 0 zero 0\n", "line 3: expected three coordinates in angstrom, got '0 zero 0'"),
        ("1\n\nH 0 nan 0\n", "line 1: molecule: coordinates must be finite"),
        ("1\n\nH 0 0 0\0\n", "expected a text file, got binary content"),
    ],
)
def test_every_malformed_xyz_is_one_line_with_path_and_place(tmp_path, text, message):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        files.read_xyz(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overlapping_atoms_are_an_error_when_asked_for(tmp_path):
    path = tmp_path / "a.xyz"
    files.write_xyz(path, [Molecule([1], [[0, 0, 0]]), Molecule([1, 6, 1], [[0, 0, 0], [0, 0, 2], [0, 0, 0.19]])])
    assert len(files.read_xyz(path)) == 2
    with pytest.raises(InvalidInput, match="atoms 1 and 3 of molecule 2 are closer than 0.2 angstrom"):
        files.read_xyz(path, check_overlap=True)


def test_the_good_molecules_of_a_file_are_read_and_the_bad_ones_listed(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 0 x\n1\n\nHe 0 0 0\n2\n\nH 0 0 0\nH 0 0 0\n")
    reading = files.read_molecules(path)
    assert [molecule.formula for molecule in reading.molecules] == ["H", "He"]
    assert reading.indices == (0, 2)
    assert [problem.index for problem in reading.problems] == [1, 3]
    assert "line 7" in reading.problems[0].reason and "closer than" in reading.problems[1].reason


def test_sdf_gives_back_atoms_charges_names_and_numeric_fields(tmp_path):
    path = tmp_path / "a.sdf"
    originals = [embed_smiles(smiles)[0] for smiles in ("C[N+](=O)[O-]", "C[NH3+]", "c1ccncc1")]
    assert files.write_sdf(path, originals) == []
    back = files.read_sdf(path, check_overlap=True)
    for one, other in zip(originals, back, strict=True):
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        np.testing.assert_allclose(one.positions, other.positions, atol=6e-5)  # the format has four decimals
        assert (one.charge, one.name) == (other.charge, other.name)
        assert other.properties["mmff94_kcal"] == pytest.approx(one.properties["mmff94_kcal"])
        assert perceived_smiles(other) == one.name


def test_a_molecule_without_perceived_bonds_is_written_and_reported(tmp_path):
    path = tmp_path / "a.sdf"
    (problem,) = files.write_sdf(path, Molecule([6, 1], [[0, 0, 0], [0, 0, 1.1]], name="CH"))
    assert problem.index == 0 and "not perceived" in problem.reason
    assert "bond_perception" in path.read_text()
    assert files.read_sdf(path)[0].formula == "CH"


def test_malformed_and_flat_sdf_records_are_named(tmp_path):
    path = tmp_path / "a.sdf"
    files.write_sdf(path, embed_smiles("CO"))
    whole = path.read_text()
    path.write_text("garbage\n$$$$\n" + whole + whole[:200])
    reading = files.read_molecules(path)
    assert reading.indices == (1,) and [problem.index for problem in reading.problems] == [0, 2]
    assert "line 1: expected an SDF record with atoms" in reading.problems[0].reason
    lines = whole.split("\n")
    lines[1] = "     RDKit          2D"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match="expected a record with 3D coordinates, got '2D'"):
        files.read_sdf(path)


def test_files_that_cannot_be_read_or_written_leave_nothing_behind(tmp_path):
    with pytest.raises(InvalidInput, match="cannot read .*No such file"):
        files.read_xyz(tmp_path / "none.xyz")
    with pytest.raises(InvalidInput, match="ending in .xyz, .sdf or .mol"):
        files.read_molecules(tmp_path / "a.pdb")
    with pytest.raises(InvalidInput, match="cannot write .*choose a folder"):
        files.write_xyz(tmp_path / "absent" / "a.xyz", Molecule([1], [[0, 0, 0]]))
    occupied = tmp_path / "folder.xyz"
    occupied.mkdir()
    with pytest.raises(InvalidInput, match="cannot write"):
        files.write_xyz(occupied, Molecule([1], [[0, 0, 0]]))
    assert os.listdir(tmp_path) == ["folder.xyz"]
