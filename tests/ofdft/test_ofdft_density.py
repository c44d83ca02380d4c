"""`molkit density` and the function behind it, with the published functional."""

import numpy as np
import pytest

from molkit.chem.files import write_xyz
from molkit.cli import run
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft import attention_functional, compact
from molkit.ofdft.compact import load
from molkit.ofdft.density import density_of, functional_for, write_cube
from molkit.ofdft.geometries import compositions, geometry, water
from molkit.ofdft.kohn_sham import build_system, solve
from molkit.ofdft.optimise import OptimiseOptions


@pytest.fixture(scope="module")
def functional():
    return load("ofdft_water")


def test_an_unseen_density_has_the_kohn_sham_energy_from_every_start(functional):
    molecule = water("test", 500)
    expected = solve(build_system(molecule, grid_level=2)).energy
    found = [density_of(molecule, functional, start=start) for start in ("minao", "reference", "mean")]
    assert all(entry.result.converged for entry in found)
    assert max(abs(entry.result.energy - expected) for entry in found) < 2e-4
    assert max(abs(entry.result.energy - found[0].result.energy) for entry in found) < 1e-6
    again = density_of(molecule, functional, p0=found[0].coefficients)
    assert again.result.num_steps <= 1


def test_atoms_may_come_in_any_order_and_place(functional):
    molecule = water("test", 501)
    rows = np.array([1, 0, 2])
    shuffled = Molecule(molecule.atomic_numbers[rows], molecule.positions[rows] + 2.0)
    found = [density_of(entry, functional, start="reference") for entry in (molecule, shuffled)]
    assert abs(found[0].result.energy - found[1].result.energy) < 1e-8
    np.testing.assert_allclose(found[1].charges, found[0].charges[rows], atol=1e-6)


@pytest.mark.parametrize(
    "molecule, word",
    [
        (Molecule(np.array([8, 1, 1]), water("test", 0).positions, charge=1), "neutral"),
        (Molecule(np.array([16, 1, 1]), water("test", 0).positions), "elements"),
        (Molecule(np.array([7, 1, 1, 1]), np.eye(4, 3) + np.arange(4)[:, None]), "OHH"),
        (Molecule(np.array([8, 1, 1]), 1.2 * water("test", 0).positions), "not served by ofdft_water.*angstrom"),
    ],
)
def test_what_the_functional_does_not_serve_is_refused(functional, molecule, word):
    with pytest.raises(InvalidInput, match=word):
        density_of(molecule, functional)


def test_an_unknown_start_is_refused_and_few_steps_do_not_converge(functional):
    with pytest.raises(InvalidInput, match="minao"):
        density_of(water("test", 0), functional, start="random")
    options = OptimiseOptions(method="descent", max_steps=1, step=1e-3)
    assert not density_of(water("test", 0), functional, options=options).result.converged


def test_a_cube_file_holds_the_electrons(functional, tmp_path):
    found = density_of(water("test", 1), functional, start="reference")
    write_cube(tmp_path / "a.cube", found, spacing=0.4, margin=4.0)
    lines = (tmp_path / "a.cube").read_text().splitlines()
    counts = [int(lines[row].split()[0]) for row in (3, 4, 5)]
    values = np.array(" ".join(lines[9:]).split(), dtype=float)
    assert values.size == np.prod(counts) and lines[6].split()[0] == "8"
    assert values.max() > 5.0 and 5.0 < values.sum() * 0.4**3 < 20.0  # the core is sharper than the points


def test_the_command_reports_good_molecules_and_lists_the_others(tmp_path, capsys):
    write_xyz(tmp_path / "w.xyz", [water("test", 2), Molecule(np.array([2]), np.zeros((1, 3)))])
    assert run(["density", str(tmp_path / "w.xyz"), "--cube", str(tmp_path / "w.cube"), "--start", "reference"]) == 3
    told = capsys.readouterr()
    assert "molecule 1: -76." in told.out and "converged in" in told.out and "w.cube" in told.out
    assert "by ofdft_water" in told.out and "dipole of the fitted density 1." in told.out
    assert "expected error 0.01" in told.out and "Hirshfeld charges -0.3" in told.out
    assert "molecule 2" in told.err and "He" in told.err


def test_the_command_prints_nothing_but_the_reason_for_a_molecule_that_no_functional_serves(tmp_path, capsys):
    write_xyz(tmp_path / "a.xyz", [Molecule(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))])
    assert run(["density", str(tmp_path / "a.xyz")]) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1
    assert "H2 is not served by ofdft_up_to_five: atom 1 (H) is H bonded to H" in told.err


def test_a_molecule_goes_to_the_first_functional_that_serves_it(monkeypatch):
    """And no integral is made to find it."""
    for module in (attention_functional, compact):
        monkeypatch.setattr(module, "density_integrals", None)
    known = compositions()
    served = {"ofdft_water": known[2], "ofdft_small": known[-2], "ofdft_ethanol": geometry("ethanol", "test", 0)}
    served["ofdft_up_to_five"] = geometry("up_to_five", "train", 100)
    for name, molecule in served.items():
        assert functional_for(molecule).name == name
    with pytest.raises(InvalidInput, match="up to 5 heavy atoms"):
        functional_for(geometry("beyond_five", "test", 0))
