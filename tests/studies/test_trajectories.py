import numpy as np

from molkit.cli import run
from molkit.data.ensembles import choose_isomers, ensemble_mol, read_ensembles
from molkit.data.geom_ensembles import split_of_graph


def test_isomers_are_isomers_in_a_fixed_order():
    found = choose_isomers(4)
    assert found[0][0] == choose_isomers(1)[0][0] and len({name for name, _, _ in found}) == 4
    assert {molecule.formula for _, _, molecule in found} == {"C7H10O2"}


def test_the_command_makes_frames_split_by_isomer(tmp_path, capsys):
    command = ["ensembles", "trajectories", "--isomers", "1", "--frames", "3", "--every", "4", "--settle", "10"]
    assert run([*command, "--out", str(tmp_path / "farm"), "--pack", str(tmp_path / "set.npz")]) == 0
    assert "1 of 1 isomers done" in capsys.readouterr().out
    (one,) = read_ensembles(tmp_path / "set.npz")
    assert one.positions.shape == (3, 19, 3) and one.split == split_of_graph(one.smiles)
    assert one.counts["frames"] == 3 and np.isfinite(one.energies).all()
    assert ensemble_mol(one).GetNumConformers() == 3
