"""`molkit edit`: what the three commands write, and one line for every mistake."""

import numpy as np
import pytest

from molkit.chem.files import read_xyz, write_xyz
from molkit.cli import run
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.molecule import Molecule

METHYL = Molecule([6, 1, 1, 1], [[0, 0, 0], [1.09, 0, 0], [-0.36, 1.03, 0], [-0.36, -0.51, 0.89]])


@pytest.fixture()
def weights(tmp_path):
    folder = tmp_path / "run"
    save(build(EdmConfig(width=16, num_layers=1, num_steps=20, schedule_offset=1e-5), seed=1, name="run"), folder)
    return str(folder)


@pytest.fixture()
def fragment(tmp_path):
    write_xyz(tmp_path / "methyl.xyz", METHYL)
    return str(tmp_path / "methyl.xyz")


def check_fails(arguments, capsys, *words):
    assert run([str(argument) for argument in arguments]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in last for word in words), last


def test_completions_keep_the_fragment_and_follow_from_the_seed(weights, fragment, tmp_path):
    for name in ("a.xyz", "b.xyz"):
        options = ["--add", "3", "--count", "2", "--calls", "5", "--seed", "4", "--out", str(tmp_path / name)]
        assert run(["edit", "complete", weights, fragment, *options]) == 0
    first, second = read_xyz(tmp_path / "a.xyz"), read_xyz(tmp_path / "b.xyz")
    assert len(first) == 2 and all(made.num_atoms == 7 for made in first)
    np.testing.assert_allclose(first[0].positions[:4], METHYL.positions, atol=1e-9)
    assert np.array_equal(first[1].positions, second[1].positions)


def test_variations_and_compositions_are_written(weights, fragment, tmp_path, capsys):
    out = tmp_path / "a.xyz"
    options = ["--count", "2", "--calls", "4", "--guidance", "0", "--out", str(out)]
    assert run(["edit", "vary", weights, fragment, "--sigma", "0.4", "--keep-atoms", "1,3-4", *options]) == 0
    np.testing.assert_allclose(read_xyz(out)[0].positions[[0, 2, 3]], METHYL.positions[[0, 2, 3]], atol=1e-9)
    assert run(["edit", "complete", weights, fragment, *options]) == 0  # sizes from the histogram
    assert "network calls each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["complete", "{w}", "{f}", "--add", "60"], ("64 atoms in all", "histogram")),
        (["complete", "{w}", "{f}", "--add", "C2X"], ("X is no chemical element",)),
        (["complete", "{w}", "nowhere.xyz"], ("nowhere.xyz",)),
        (["vary", "{w}", "{f}", "--sigma", "-1"], ("noise level",)),
        (["vary", "{w}", "{f}", "--sigma", "1", "--keep-atoms", "x"], ("--keep-atoms",)),
        (["vary", "{w}", "{f}", "--sigma", "1", "--keep-atoms", "9"], ("from 1 to 4",)),
        (["compose", "{w}", "C7H11O2"], ("odd number of electrons",)),
        (["compose", "{w}", "CH8O"], ("impossible",)),
        (["compose", "{w}", "CH3F"], ("F", "never saw", "no fluorine")),
        (["compose", "{w}", "SiH4"], ("cannot place",)),
    ],
)
def test_a_mistake_is_one_line(weights, fragment, tmp_path, capsys, arguments, words):
    filled = [one.format(w=weights, f=fragment) for one in arguments]
    check_fails(["edit", *filled, "--out", str(tmp_path / "a.xyz")], capsys, *words)
    assert not (tmp_path / "a.xyz").exists()


def test_overlapping_atoms_and_a_wrong_name_are_refused(weights, fragment, tmp_path, capsys):
    write_xyz(tmp_path / "bad.xyz", Molecule([6, 1], [[0, 0, 0], [0.1, 0, 0]]))
    out = ["--out", str(tmp_path / "a.xyz")]
    check_fails(
        ["edit", "complete", weights, tmp_path / "bad.xyz", "--add", "3", *out], capsys, "atoms 1 (C) and 2 (H)"
    )
    check_fails(
        ["edit", "complete", weights, fragment, "--add", "3", "--out", tmp_path / "a.npz"], capsys, ".xyz or .sdf"
    )
