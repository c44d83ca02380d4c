import numpy as np
import pytest

from molkit.chem.rdkit_conformers import mmff_energy
from molkit.chem.rdkit_tools import embed_smiles
from molkit.errors import InvalidInput
from molkit.metrics.energies import mmff_energies, null_distances, wasserstein_interval
from molkit.molecule import Molecule, PackedMolecules


def test_a_single_point_is_the_energy_at_which_the_relaxation_ended():
    """Ethanol relaxed with MMFF94 by another function of RDKit; without delocalised nitrogen MMFF94s is the same."""
    relaxed = embed_smiles("CCO", seed=1)[0]
    assert mmff_energy(relaxed).energy_kcal == pytest.approx(relaxed.properties["mmff94_kcal"], abs=1e-6)


def test_the_energy_does_not_change_when_the_molecule_is_turned_and_mirrored():
    molecule = embed_smiles("CC(=O)Nc1ccccc1", seed=2)[0]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = molecule.with_positions(molecule.positions @ turn.T + 3.0)
    assert mmff_energy(turned).energy_kcal == pytest.approx(mmff_energy(molecule).energy_kcal, abs=1e-8)


def test_a_stretched_bond_costs_energy_and_a_hydrogen_too_few_has_none():
    methane = embed_smiles("C", seed=0)[0]
    positions = methane.positions.copy()
    positions[1] = positions[0] + 1.1 * (positions[1] - positions[0])
    assert mmff_energy(methane.with_positions(positions)).energy_kcal > mmff_energy(methane).energy_kcal + 1.0
    radical = Molecule(methane.atomic_numbers[:4], methane.positions[:4])
    assert mmff_energy(radical, charge=0).energy_kcal is None


def test_failures_are_counted_by_their_reason_and_never_averaged():
    water = embed_smiles("O", seed=0)[0]
    pair = Molecule(np.tile(water.atomic_numbers, 2), np.concatenate([water.positions, water.positions + 9.0]))
    methane = embed_smiles("C", seed=0)[0]
    lost = Molecule(methane.atomic_numbers[:4], methane.positions[:4])  # one hydrogen too few
    packed = PackedMolecules.from_molecules([water, pair, lost, water])
    broken = packed.positions.copy()
    broken[-1, 0] = np.nan
    sample = mmff_energies(PackedMolecules(packed.num_atoms, packed.atomic_numbers, broken))
    assert sample.rows.tolist() == [0] and sample.share == 0.25 and np.isfinite(sample.energies).all()
    assert sample.failures == {"not finite": 1, "not perceived": 1, "in pieces": 1, "no parameters": 0}
    with pytest.raises(InvalidInput, match="at least one molecule"):
        mmff_energies(packed.select(np.zeros(4, dtype=bool)))


def test_two_shifted_normal_samples_are_the_shift_apart():
    random = np.random.default_rng(3)
    first, second = random.normal(size=2000), random.normal(size=2000) + 5.0
    distance = wasserstein_interval(first, second, num_resamples=200)
    assert distance.value == pytest.approx(5.0, abs=0.1) and distance.low < 5.0 < distance.high


def test_whole_groups_are_drawn_so_that_repeated_values_widen_the_interval():
    random = np.random.default_rng(4)
    few = random.normal(size=30)
    reference, groups = np.repeat(few, 20), np.repeat(np.arange(30), 20)
    sample = random.normal(size=2000) + 2.0
    plain = wasserstein_interval(sample, reference, num_resamples=200)
    grouped = wasserstein_interval(sample, reference, groups=groups, num_resamples=200)
    assert grouped.value == plain.value
    assert grouped.high - grouped.low > 2.5 * (plain.high - plain.low)
    with pytest.raises(InvalidInput, match="every value needs its group"):
        wasserstein_interval(sample, reference, groups=groups[:-1])


def test_the_distance_that_a_perfect_sampler_shows_falls_with_its_size():
    random = np.random.default_rng(5)
    pool, reference = random.normal(size=4000), random.normal(size=4000)
    small, large = (null_distances(pool, reference, size=size, num_draws=100) for size in (20, 500))
    assert small.value > 2 * large.value > 0 and small.low <= small.value <= small.high
    with pytest.raises(InvalidInput, match="size of at least 1"):
        null_distances(pool, reference, size=0)
