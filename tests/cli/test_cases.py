"""Awkward files and places, row by row: what a command answers, and that nothing is lost or replaced.

A row: the command (`{cases}` the folder of inputs, `{tmp}` an empty folder), its exit code, and what it must say.
"""

import gzip
import io
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molkit.chem.files import read_molecules
from molkit.cli import run
from molkit.data import registry
from molkit.data.packed import read_packed, write_packed
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.molecule import Molecule, PackedMolecules

CASES = Path(__file__).parents[1] / "cases"
SMALL = EdmConfig(width=16, num_layers=1, num_steps=20, schedule_offset=1e-5)
VARY = ["edit", "vary", "{tmp}/run", "{file}", "--sigma", "0.3", "--count", "1", "--calls", "3", "--out", "{tmp}/o.xyz"]
COMPLETE = ["edit", "complete", "{tmp}/run", "{file}", "--add", "2", "--count", "1", "--calls", "3"]
COMPLETE += ["--out", "{tmp}/o.xyz"]
RELAX = ["relax", "{file}", "--with", "{tmp}/run", "--sigma", "0.3", "--out", "{tmp}/o.xyz"]
SCORE = ["score", "{file}"]
FORMAL = [*SCORE, "--rule", "formal_charge"]


@pytest.fixture()
def tmp(tmp_path, monkeypatch):
    """A folder with small weights, away from the data sets."""
    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path / "no_data")
    save(build(SMALL, seed=1, name="run"), tmp_path / "run")
    return tmp_path


def call(words, tmp, capsys, file=""):
    """Exit code, standard output and error of a command line."""
    capsys.readouterr()
    code = run([word.format(tmp=tmp, cases=CASES, file=CASES / file) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "file", "code", "said"),
    [
        (SCORE, "ext_Z_between.xyz", 0, "molecules stable                    100.0"),
        (FORMAL, "nh4.sdf", 0, "molecules stable                    100.0"),
        (FORMAL, "acetate.xyz", 0, "molecules stable                    100.0"),
        (FORMAL, "ase_float.xyz", 0, "molecules stable                    100.0"),
        (FORMAL, "charge_ok.xyz", 0, "valid                               100.0"),
        (SCORE, "nh4.sdf", 2, "knows neutral molecules only, got charge +1"),
        (SCORE, "acetate.xyz", 2, "knows neutral molecules only, got charge -1"),
        ([*SCORE, "--rule", "geom"], "ase_float.xyz", 2, "knows neutral molecules only, got charge +1"),
        (SCORE, "dimer.xyz", 0, "1 molecules lie in pieces"),
        (SCORE, "dsgdb_like.xyz", 0, "dsgdb_like.xyz (1)"),
        (SCORE, "deuterium.xyz", 0, "deuterium.xyz (1)"),
        (SCORE, "utf16.xyz", 0, "utf16.xyz (1)"),
        (SCORE, "blank_before_end.sdf", 0, "blank_before_end.sdf (1)"),
        (FORMAL, "polynitro.xyz", 0, "molecules stable                    100.0"),
        (SCORE, "noH.sdf", 2, "5 hydrogens are left out of the record"),
        (SCORE, "flat_noheader.sdf", 2, "a flat drawing"),
        (VARY, "charge_ok.xyz", 2, "charge 1, spin 0 (unpaired electrons)"),
        (VARY, "ase_float.xyz", 2, "charge 1, spin 0 (unpaired electrons)"),
        (COMPLETE, "acetate.xyz", 2, "charge -1, spin 0 (unpaired electrons)"),
        (RELAX, "acetate.xyz", 2, "charge -1, spin 0 (unpaired electrons)"),
        (RELAX, "noH.sdf", 2, "5 hydrogens are left out"),
        (VARY, "noH.sdf", 2, "5 hydrogens are left out"),
        (RELAX, "dsgdb_like.xyz", 0, "1 molecules relaxed"),
        (["conformers", "CCO CO", "-n", "1", "--out", "{tmp}/o.sdf"], "", 2, "a blank ends a SMILES"),
    ],
)
def test_a_file_is_understood_or_refused_with_the_reason(tmp, capsys, words, file, code, said):
    found, out, err = call(words, tmp, capsys, file)
    assert (found, said in out + err) == (code, True), out + err
    assert code == 0 or not list(tmp.glob("o.*"))


def test_atoms_whose_hydrogens_may_be_missing_are_pointed_out(tmp, capsys):
    rows = {"bare": "C 0 0 0\nC 1.4 0 0\nO 2 1 0\n", "whole": "O 0 0 0\nC 1.16 0 0\nO 2.32 0 0\n"}
    for name, text in rows.items():
        (tmp / f"{name}.xyz").write_text(f"3\n\n{text}")
    assert "were hydrogens left out?" in call(["score", "{tmp}/bare.xyz"], tmp, capsys)[2]
    assert call(["score", "{tmp}/whole.xyz"], tmp, capsys)[2] == ""


@pytest.mark.parametrize("name", ["o.xyz", "o.sdf", "o.XYZ", "o.xyz.gz", "o.sdf.gz"])
@pytest.mark.parametrize("file", ["deut.sdf", "deuterium.xyz"])
def test_relaxing_keeps_isotopes_and_titles_in_every_format(tmp, capsys, name, file):
    words = [*RELAX[:-1], "{tmp}/" + name]
    assert call(words, tmp, capsys, file)[0] == 0
    before, after = (read_molecules(path).molecules[0] for path in (CASES / file, tmp / name))
    assert after.isotopes.tolist() == before.isotopes.tolist() and after.name == before.name


def test_what_sample_wrote_packed_is_relaxed(tmp, capsys):
    ethanol = read_molecules(CASES / "dsgdb_like.xyz").molecules[0]
    write_packed(tmp / "s.npz", PackedMolecules.from_molecules([ethanol, ethanol]))
    words = [word.replace("{file}", "{tmp}/s.npz") for word in RELAX]
    assert call(words, tmp, capsys)[0] == 0
    assert [one.formula for one in read_molecules(tmp / "o.xyz").molecules] == ["C2H6O"] * 2


def test_ions_and_isotopes_outlive_a_packed_file(tmp):
    molecules = [read_molecules(CASES / name).molecules[0] for name in ("acetate.xyz", "deut.sdf")]
    write_packed(tmp / "s.npz", PackedMolecules.from_molecules(molecules))
    ion, labelled = read_packed(tmp / "s.npz")
    assert (ion.charge, labelled.charge) == (-1, 0)
    assert ion.isotopes is None and labelled.isotopes.tolist() == molecules[1].isotopes.tolist()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("file", ["water.xyz", "deut.sdf"])
def test_a_dash_reads_standard_input_and_writes_standard_output(tmp, capsys, monkeypatch, pack, file):
    content = pack((CASES / file).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, err = call(["relax", "-", "--with", "{tmp}/run", "--sigma", "0.3", "--out", "-"], tmp, capsys)
    assert code == 0 and out.splitlines()[0] in ("3", "6") and "1 molecules relaxed" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out.encode())))
    assert call(["score", "-"], tmp, capsys)[0] == 0


def test_packed_molecules_come_through_standard_input(tmp, capsys, monkeypatch):
    write_packed(tmp / "s.npz", PackedMolecules.from_molecules(read_molecules(CASES / "water.xyz").molecules))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp / "s.npz").read_bytes())))
    code, out, _ = call(["score", "-"], tmp, capsys)
    assert code == 0 and "molecules stable" in out


@pytest.mark.parametrize(
    ("file", "titles"),
    [
        ("dupnames.smi", ["active", "inactive", "active"]),
        ("tab.smi", ["name with spaces", "other"]),
        ("csv.csv", ["ethanol", "methanol"]),
        ("latin.smi", ["M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"]),
    ],
)
def test_names_of_smiles_become_titles(tmp, capsys, file, titles):
    words = ["conformers", "{file}", "-n", "1", "--weights", "cgcf_qm9", "--out", "{tmp}/o.sdf.gz"]
    assert call(words, tmp, capsys, file)[0] == 0
    records = gzip.decompress((tmp / "o.sdf.gz").read_bytes()).decode().split("$$$$\n")[:-1]
    assert [record.split("\n")[0] for record in records] == titles


def test_names_that_are_no_file_names_stop_no_ensemble(tmp, capsys):
    (tmp / "two.smi").write_text("CCO name/with/slash\nCCN ../escape\nCC na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve\n")
    words = ["ensembles", "make", "{tmp}/two.smi", "--starts", "1", "--out", "{tmp}/e"]
    code, out, err = call(words, tmp, capsys)
    assert code == 0 and "3 of 3 molecules done" in out, out + err
    assert not (tmp.parent / "escape").exists()


DENSITY = ["density", "{tmp}/in.xyz", "--cube"]
TO = [*RELAX[:-1]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TO, "{tmp}/in.xyz"], "is an input of this command"),
        ([*TO, "{tmp}/../{tmp.name}/in.xyz"], "is an input of this command"),
        ([*TO, "{tmp}/hard.xyz"], "is an input of this command"),
        ([*TO, "{tmp}/link.xyz"], "is a symbolic link"),
        ([*TO, "{tmp}/dangling.xyz"], "is a symbolic link"),
        ([*TO, "{tmp}/pipe.xyz"], "is a device or a pipe"),
        ([*TO, "{tmp}/folder.xyz"], "is a folder"),
        ([*TO, "{tmp}/nowhere/o.xyz"], "does not exist"),
        ([*TO, "{tmp}/in.xyz/o.xyz"], "does not exist"),
        ([*DENSITY, "{tmp}/in.xyz"], "is an input of this command"),
        ([*DENSITY, "/dev/null"], "is a device or a pipe"),
        ([*DENSITY, "{tmp}/link.xyz"], "is a symbolic link"),
        ([*DENSITY, "{tmp}/nowhere/a.cube"], "does not exist"),
        (["ensembles", "pack", "train={tmp}/set.npz", "--out", "{tmp}/set.npz"], "is an input of this command"),
        (["sample", "{tmp}/run", "--count", "1", "--out", "{tmp}/o.npz.gz"], "leave out .gz"),
        (
            ["sample", "{tmp}/run", "--count", "1", "--keep", "{tmp}/in.xyz/keep", "--out", "{tmp}/o.xyz"],
            "is no folder",
        ),
    ],
)
def test_a_place_is_tried_before_the_work_and_nothing_is_replaced(tmp, capsys, words, said):
    (tmp / "in.xyz").write_bytes((CASES / "water.xyz").read_bytes())
    (tmp / "other.xyz").write_text("kept")
    (tmp / "set.npz").write_bytes(b"")
    os.link(tmp / "in.xyz", tmp / "hard.xyz")
    (tmp / "link.xyz").symlink_to(tmp / "other.xyz")
    (tmp / "dangling.xyz").symlink_to(tmp / "absent")
    os.mkfifo(tmp / "pipe.xyz")
    (tmp / "folder.xyz").mkdir()
    before = {path.name: path.lstat().st_ino for path in tmp.iterdir()}
    words = [word.replace("{file}", "{tmp}/in.xyz") for word in words]
    code, out, err = call(words, tmp, capsys)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1, out + err
    assert {path.name: path.lstat().st_ino for path in tmp.iterdir()} == before
    assert (tmp / "other.xyz").read_text() == "kept"


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp):
    """A limit on the size of files, in a process of its own, refuses to write as a full disk does."""
    (tmp / "o.xyz").write_text("kept")
    words = ["relax", CASES / "water.xyz", "--with", tmp / "run", "--sigma", "0.3", "--out", tmp / "o.xyz"]
    limited = subprocess.run(
        [sys.executable, "-m", "molkit", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert limited.returncode == 2 and limited.stderr.startswith("molkit: "), limited.stderr
    assert "cannot write" in limited.stderr and len(limited.stderr.strip().splitlines()) == 1
    assert (tmp / "o.xyz").read_text() == "kept"
    assert not list(tmp.glob("*.writing"))


def test_standard_output_on_a_full_disk_is_one_line(tmp):
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "molkit", "score", str(CASES / "water.xyz")], stdout=full, stderr=subprocess.PIPE
        )
    assert found.returncode == 2 and found.stderr.startswith(b"molkit: writing failed: No space left on device")


def test_two_atoms_at_one_point_are_no_stable_molecule():
    from molkit.metrics.score import score_molecules

    stacked = Molecule([1, 1], [[0, 0, 0], [0, 0, 0.0]])
    hydrogen = Molecule([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    pack = PackedMolecules.from_molecules([stacked, hydrogen, hydrogen])
    for rule in ("edm", "geom", "formal_charge"):
        found = score_molecules(pack, rule=rule)
        assert found.num_overlapping == 1 and found.molecule_stability.value == pytest.approx(2 / 3)


def test_a_list_of_forty_thousand_names_is_read_in_a_moment(tmp_path):
    """About 0.3 s; comparing every name with every other took half a minute."""
    from molkit.data.ensembles import read_smiles_file

    (tmp_path / "a.smi").write_text("".join(f"CCO name{number}\n" for number in range(40_000)))
    started = time.process_time()
    assert len(read_smiles_file(tmp_path / "a.smi")) == 40_000
    assert time.process_time() - started < 5.0


def test_the_stored_score_of_qm9_is_what_scoring_gives(monkeypatch):
    from molkit.metrics import score

    stored = score.score_of_qm9_test("edm")
    monkeypatch.setattr(score, "QM9_TEST", Path("absent"))
    made = score.score_of_qm9_test("edm", path=Path("absent"))
    assert stored == made, "run molkit.metrics.score.store_qm9_test() to store it anew"


def test_charges_count_in_the_smiles_of_ions():
    from molkit.metrics.validity import validity

    acetate = read_molecules(CASES / "acetate.xyz").molecules[0]
    (smiles,) = validity(PackedMolecules.from_molecules([acetate]), reference_smiles=None).smiles
    assert Chem.CanonSmiles(smiles) == Chem.CanonSmiles("CC(=O)[O-]")
    assert np.isclose(Chem.GetFormalCharge(Chem.MolFromSmiles(smiles)), -1)
