"""Optimisers and energy functions against each other, finite differences and the specification of the study."""

import numpy as np
import pytest

from molkit.chem.dft import DftEnergy, DftLevel, single_point
from molkit.chem.optimise import optimise
from molkit.chem.rdkit_conformers import embed_like, force_field_minimum
from molkit.chem.xtb import XtbEnergy
from molkit.errors import CalculationFailed, InvalidInput
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
ETHANOL = Molecule(
    [6, 6, 8, 1, 1, 1, 1, 1, 1],
    [
        [-0.89, -0.21, 0.02], [0.47, 0.47, -0.02], [1.43, -0.55, 0.02], [-1.02, -0.85, -0.86], [-1.00, -0.82, 0.92],
        [-1.69, 0.54, 0.0], [0.58, 1.08, -0.93], [0.60, 1.13, 0.85], [2.30, -0.14, -0.01],
    ],
)  # fmt: skip
STO3G = DftLevel(functional="hf", basis="sto-3g", density_fit=False, tolerance=1e-10)


def shaken(molecule: Molecule, width: float = 0.05) -> Molecule:
    return molecule.with_positions(
        molecule.positions + width * np.random.default_rng(0).normal(size=molecule.positions.shape)
    )


@pytest.mark.parametrize("optimiser", ["cartesian", "internal"])
@pytest.mark.parametrize("energy", [XtbEnergy, lambda molecule: DftEnergy(molecule, level=STO3G)])
def test_water_relaxes_in_fewer_than_fifteen_steps(optimiser, energy):
    found = optimise(shaken(WATER), energy(WATER), optimiser=optimiser)
    assert found.converged and found.num_steps < 15 and found.num_gradients >= found.num_steps
    assert found.energy_drop > 0.0


def test_both_optimisers_find_the_same_minimum():
    ends = [optimise(shaken(ETHANOL), XtbEnergy(ETHANOL), optimiser=kind) for kind in ("cartesian", "internal")]
    assert ends[0].energy_after == pytest.approx(ends[1].energy_after, abs=2e-3)
    assert aligned_rmsd(ends[0].positions, ends[1].positions) < 0.05


@pytest.mark.parametrize("optimiser", ["cartesian", "internal"])
def test_a_run_that_is_cut_short_says_so_and_one_without_energy_fails(optimiser):
    assert not optimise(shaken(ETHANOL, 0.1), XtbEnergy(ETHANOL), optimiser=optimiser, max_steps=2).converged

    def broken(positions):
        raise CalculationFailed("no energy here")

    with pytest.raises(CalculationFailed, match="no energy"):
        optimise(WATER, broken, optimiser=optimiser)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(InvalidInput, match="simplex"):
        optimise(WATER, XtbEnergy(WATER), optimiser="simplex")


def test_forces_are_the_slope_of_the_energy():
    energy = DftEnergy(WATER, level=DftLevel(basis="sto-3g", grid_level=3, tolerance=1e-10))
    place, step = shaken(WATER).positions, np.zeros((3, 3))
    step[1, 0] = 1e-3
    slope = (energy(place + step).energy - energy(place - step).energy) / 2e-3
    assert energy(place).forces[1, 0] == pytest.approx(-slope, abs=2e-3)


def test_a_density_that_does_not_converge_is_a_failure_and_leaves_no_guess():
    energy = DftEnergy(WATER, level=DftLevel(basis="sto-3g", max_cycles=1))
    with pytest.raises(CalculationFailed, match="not converged"):
        energy(WATER.positions)
    assert energy.density is None
    with pytest.raises(CalculationFailed, match="apart"):
        energy(np.zeros((3, 3)))
    with pytest.raises(InvalidInput, match="unpaired"):
        DftEnergy(Molecule(WATER.atomic_numbers, WATER.positions, spin=1))


def test_the_level_of_the_paper_is_the_default():
    """B3LYP/6-31G(2df,p) of water: QM9's U0 less its zero-point energy is -76.4256 Ha, by a program that mixes
    Cartesian and spherical functions; 0.01 Ha apart is the same level."""
    energy = DftEnergy(WATER)(WATER.positions).energy / 27.211386245981
    assert energy == pytest.approx(-76.42, abs=0.02)


def test_every_start_comes_from_one_conformer_with_the_atoms_in_order():
    embedded = embed_like(ETHANOL)
    assert (embedded.molecule.atomic_numbers == ETHANOL.atomic_numbers).all()
    starts = {field: force_field_minimum(embedded, field) for field in ("uff", "mmff94", "mmff94s")}
    assert all(start.properties["converged"] == 1.0 for start in starts.values())
    assert 0.001 < aligned_rmsd(starts["mmff94"].positions, embedded.molecule.positions) < 0.6
    again = embed_like(ETHANOL)
    np.testing.assert_array_equal(again.molecule.positions, embedded.molecule.positions)


def test_the_stereochemistry_of_the_geometry_is_kept():
    """CHF(OH)(CH3): the mirror image embeds as the mirror image."""
    from rdkit import Chem

    from molkit.chem.rdkit_tools import embed_smiles, perceive_bonds

    one = embed_smiles("C[C@H](O)F", seed=1)[0]
    other = one.with_positions(one.positions * [-1, 1, 1])
    found = []
    for molecule in (one, other):
        mol = perceive_bonds(embed_like(molecule).molecule).mol
        Chem.AssignStereochemistryFrom3D(mol)
        found.append(Chem.FindMolChiralCenters(mol)[0][1])
    assert set(found) == {"R", "S"}


def test_one_atom_has_no_internal_coordinates():
    with pytest.raises(InvalidInput, match="internal coordinates need at least two atoms, got 1"):
        optimise(Molecule([8], [[0.0, 0.0, 0.0]]), None, optimiser="internal")


def test_an_element_without_basis_is_named():
    with pytest.raises(InvalidInput, match=r"no basis 6-31g\(2df,p\) for Au"):
        single_point(Molecule([79, 17], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.2]]))
