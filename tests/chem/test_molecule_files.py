"""XYZ and SDF files: round trips, forgiving reading, and a clear line for everything that is wrong."""

import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molkit.chem import files, sdf
from molkit.chem.rdkit_tools import embed_smiles, perceived_smiles
from molkit.errors import InvalidInput
from molkit.molecule import SYMBOLS, Molecule

CASES = Path(__file__).parents[1] / "cases"
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


WATER_ROWS = "O 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


@pytest.mark.parametrize(
    ("comment", "charge", "spin", "name"),
    [
        ("charge=-1", -1, 0, ""),
        ("ion Charge=1.0", 1, 0, "ion"),
        ("ion_charge=-1 x", -1, 0, "x"),
        ("molecule charge: 1", 1, 0, "molecule"),
        ("total_charge=+2 x", 2, 0, "x"),
        ("TOTAL CHARGE = -1, Multiplicity = 2", -1, 1, ""),
        ('net_charge="-2"', -2, 0, ""),
        ("acetate, charge: \N{MINUS SIGN}1", -1, 0, "acetate,"),
        ("charge 1 of two", 1, 0, "of two"),
        ("q=-1 water", -1, 0, "water"),
        ("q=0.5 of something", 0, 0, "q=0.5 of something"),
        ("chrg=2- mult=1", -2, 0, ""),
        ("mult=3 water", 0, 2, "water"),
        ("-1 2", -1, 1, "-1 2"),  # charge and multiplicity, as nine electrons allow
        ("1 1", 0, 0, "1 1"),  # ... and as they do not: a name
        ('Properties=species:S:1:pos:R:3 charge=1.0 pbc="F F F"', 1, 0, ""),
        ('Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F" Properties=species:S:1:pos:R:3 name=ice', 0, 0, "ice"),
        ("energy=-5.1 charges=0.4", 0, 0, "energy=-5.1 charges=0.4"),
    ],
)
def test_a_stated_charge_and_spin_are_understood_however_they_are_spelled(tmp_path, comment, charge, spin, name):
    (tmp_path / "a.xyz").write_text(f"3\n{comment}\n{WATER_ROWS}")
    (water,) = files.read_xyz(tmp_path / "a.xyz")
    assert (water.formula, water.charge, water.spin, water.name) == ("H2O", charge, spin, name)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("charge=half", "whole number for the charge"),
        ("charge=0.5", "whole number for the charge"),
        ("charge=1 total_charge=2", "two statements of the charge that differ: 1 and 2"),
        ("units=bohr", "coordinates in bohr"),
        ("water, in a.u.", "coordinates in bohr"),
        ("multiplicity=2", "a multiplicity of 2 does not fit 10 electrons"),
        ("multiplicity=0", "at least 1"),
        ('pbc="T F F"', "a periodic structure"),
        ('Lattice="9 0 0 0 9 0 0 0 9"', "a periodic structure"),
        ('Lattice="9 0 0" pbc="F F F"', "cannot be read as such"),
        ("Properties=species:S:1:forces:R:3", "expected species:S:1"),
        ("Properties=species:S:1:pos:R", "expected species:S:1"),
        ("Properties=species:S:1:pos:Q:3", "expected name:type:count"),
        ("Properties=species:S:1:id:I:1:pos:R:3", "expected 5 columns"),
    ],
)
def test_a_comment_that_cannot_be_followed_is_an_error(tmp_path, comment, message):
    (tmp_path / "a.xyz").write_text(f"3\n{comment}\n{WATER_ROWS}")
    with pytest.raises(InvalidInput, match=message):
        files.read_xyz(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("properties", "rows"),
    [
        ("species:S:1:Z:I:1:pos:R:3", ["O 8 0.1 0.2 0.3", "H 1 0.9 0.2 0.3"]),
        ("pos:R:3:species:S:1", ["0.1 0.2 0.3 O", "0.9 0.2 0.3 H"]),
        ("id:I:1:forces:R:3:Z:I:1:pos:R:3", ["1 9 9 9 8 0.1 0.2 0.3", "2 9 9 9 1 0.9 0.2 0.3"]),
        (
            "species:S:1:masses:R:1:pos:R:3:initial_charges:R:1",
            ["O 15.999 0.1 0.2 0.3 -1.0", "H 2.014 0.9 0.2 0.3 0.0"],
        ),
    ],
)
def test_columns_in_any_order_are_read_as_ase_reads_them(tmp_path, properties, rows):
    from ase.io import read

    path = tmp_path / "a.xyz"
    path.write_text("\n".join(["2", f'Properties={properties} pbc="F F F"', *rows, ""]))
    (ours,), theirs = files.read_xyz(path), read(path, format="extxyz")
    assert ours.symbols == theirs.get_chemical_symbols() == ["O", "H"]
    np.testing.assert_allclose(ours.positions, theirs.positions)
    assert ours.charge == round(theirs.get_initial_charges().sum())
    assert (ours.isotopes is not None) == ("masses" in properties)
    assert ours.isotopes is None or ours.isotopes.tolist() == [0, 2]


def test_a_column_of_atomic_numbers_that_nobody_announced_is_an_error(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nO 8 0 0 0.1\nH 1 0 0 1.0\n")
    with pytest.raises(InvalidInput, match="atomic numbers in the second column"):
        files.read_xyz(tmp_path / "a.xyz")


def test_isotopes_go_through_both_formats(tmp_path):
    (tmp_path / "a.xyz").write_text("3\n\nD 0 0 0\nT 0 0 0.74\n13C 3 0 0\n")
    (read,) = files.read_xyz(tmp_path / "a.xyz")
    assert read.isotopes.tolist() == [2, 3, 13] and read.formula == "CH2"
    for name, write, back in (
        ("b.xyz", files.write_xyz, files.read_xyz),
        ("b.sdf", files.write_sdf, files.read_sdf),
    ):
        write(tmp_path / name, read)
        (same,) = back(tmp_path / name)
        assert same.isotopes.tolist() == [2, 3, 13] and same.formula == "CH2"


def test_qm9s_own_files_are_one_molecule_each_also_one_after_the_other(tmp_path):
    record = (CASES / "dsgdb_like.xyz").read_text()
    (tmp_path / "two.xyz").write_text(record.rstrip("\n") + "\n" + record)
    first, second = files.read_xyz(tmp_path / "two.xyz")
    assert (first.formula, first.name, second.formula) == ("C2H6O", "gdb 21", "C2H6O")
    np.testing.assert_allclose(first.positions[1], [0.3871464613, -0.3585403656, -0.4014589])


@pytest.mark.parametrize(
    "encode",
    [gzip.compress, lambda text: text.decode().encode("utf-16"), lambda text: b"\xef\xbb\xbf" + text],
    ids=["gzip", "utf-16", "utf-8 with its mark"],
)
def test_packed_and_otherwise_encoded_text_is_read(tmp_path, encode):
    path = tmp_path / "A.XYZ"
    path.write_bytes(encode(f"3\nwater\n{WATER_ROWS}".encode()))
    assert files.read_molecules(path).molecules[0].name == "water"


def test_what_is_written_as_gz_is_packed_and_read_back(tmp_path):
    molecule = embed_smiles("CO")[0]
    for name in ("a.xyz.gz", "a.sdf.gz"):
        (files.write_xyz if "xyz" in name else files.write_sdf)(tmp_path / name, molecule)
        assert (tmp_path / name).read_bytes()[:2] == b"\x1f\x8b"
        assert files.read_molecules(tmp_path / name).molecules[0].formula == "CH4O"
    (tmp_path / "cut.xyz.gz").write_bytes((tmp_path / "a.xyz.gz").read_bytes()[:-12])
    with pytest.raises(InvalidInput, match="damaged gzip"):
        files.read_molecules(tmp_path / "cut.xyz.gz")


@pytest.mark.parametrize(
    ("name", "message"),
    [("noH.sdf", "5 hydrogens are left out"), ("flat_noheader.sdf", "a flat drawing")],
)
def test_records_that_are_no_whole_structure_are_problems(name, message):
    (problem,) = files.read_molecules(CASES / name).problems
    assert message in problem.reason
    allowed = files.read_molecules(CASES / "noH.sdf", without_hydrogens=True)
    assert allowed.molecules[0].formula == "C2NO"


def test_planar_molecules_without_a_header_are_no_drawings(tmp_path):
    path = tmp_path / "a.sdf"
    files.write_sdf(path, Molecule([8, 1, 1], [[0, 0.1173, 0], [0.7572, -0.4692, 0], [-0.7572, -0.4692, 0]]))
    lines = path.read_text().split("\n")
    lines[1] = ""
    path.write_text("\n".join(lines))
    assert files.read_sdf(path)[0].formula == "H2O"


def test_a_blank_line_before_the_end_of_a_record_is_passed_over_and_others_are_named(tmp_path):
    assert files.read_sdf(CASES / "blank_before_end.sdf")[0].formula == "C2H6O"
    lines = (CASES / "blank_before_end.sdf").read_text().split("\n")
    (tmp_path / "a.sdf").write_text("\n".join(lines[:8] + lines[10:]))
    with pytest.raises(InvalidInput, match="line 12: expected the row of an atom, got .*announces 9 atoms and 8"):
        files.read_sdf(tmp_path / "a.sdf")


def test_a_charge_outlives_a_record_without_bonds(tmp_path):
    ion = Molecule([6, 1], [[0, 0, 0], [0, 0, 1.1]], charge=1, name="CH+")
    files.write_sdf(tmp_path / "a.sdf", ion)
    assert files.read_sdf(tmp_path / "a.sdf")[0].charge == 1


def test_reading_sdf_takes_time_in_proportion_to_the_file(tmp_path):
    record = Chem.SDWriter.GetText(Chem.AddHs(Chem.MolFromSmiles("CO"))).replace("2D", "3D")

    def seconds(times):
        (tmp_path / "a.sdf").write_text(record * times)
        started = time.process_time()
        assert sum(1 for _ in sdf.sdf_records(tmp_path / "a.sdf")) == times
        return time.process_time() - started

    short, long = (min(seconds(times) for _ in range(3)) for times in (1000, 4000))
    assert long < 8 * short  # four times the records; sixteen times the time where it is quadratic
