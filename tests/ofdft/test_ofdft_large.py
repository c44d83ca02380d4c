"""Large molecules: neighbour lists, far multipoles and sparse forms against the plain matrices, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from pyscf import dft

from molkit.chem.chains import alkane, molecule_of, peptide
from molkit.errors import InvalidInput
from molkit.ofdft import channel_coulomb
from molkit.ofdft.attention_functional import load
from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.channel_coulomb import ChannelCoulomb
from molkit.ofdft.channels import neighbourhood
from molkit.ofdft.edges import edges_within, following_pairs
from molkit.ofdft.integrals import density_integrals
from molkit.ofdft.large import LargeEnergy
from molkit.ofdft.local_frames import candidate_frames
from molkit.ofdft.tuned_kohn_sham import tuned_energy


@pytest.fixture(scope="module")
def functional():
    """The published functional with the roots of atoms, and random numbers where training begins with zeros."""
    found = load("ofdft_small")
    config, reduction = replace(found.config, roots="atoms"), replace(found.reduction, roots="atoms")
    return replace(found, config=config, reduction=reduction)


def lifts_of(functional, molecule):
    place = neighbourhood(molecule)
    return [functional.reduction.atom_matrices(e, rows)[0] for e, rows in zip(place.elements, place.rows, strict=True)]


def plain_coulomb(molecule, lifts):
    lift = scipy.linalg.block_diag(*lifts)
    return lift.T @ density_mole(molecule).intor("int2c2e") @ lift


@pytest.mark.parametrize("memory", [8.0, 5e-4, 0.0])
def test_far_multipoles_are_the_coulomb_integrals(functional, memory):
    """C12H26 is 30 bohr long; whatever does not fit in memory is made again and gives the same."""
    molecule = alkane(12)
    lifts = lifts_of(functional, molecule)
    coulomb = ChannelCoulomb(molecule, lifts, memory_gib=memory)
    z = np.random.default_rng(0).standard_normal(coulomb.near.shape[0])
    wanted = plain_coulomb(molecule, lifts) @ z
    far = np.abs(wanted - coulomb.near @ z).max()
    assert far > 1e-2 * np.abs(wanted).max(), "nothing is far: the test would say nothing"
    assert np.abs(coulomb(z) - wanted).max() < 1e-10 * np.abs(wanted).max()
    assert {8.0: coulomb.share_kept == 1.0, 5e-4: 0.0 < coulomb.share_kept < 1.0, 0.0: not coulomb.kept}[memory]


def test_a_smaller_reach_of_exact_integrals_is_seen(functional, monkeypatch):
    """The bound above can fail: at 7 bohr the widest functions still overlap."""
    monkeypatch.setattr(channel_coulomb, "NEAR", 7.0)
    molecule = alkane(6)
    lifts = lifts_of(functional, molecule)
    z = np.random.default_rng(0).standard_normal(sum(lift.shape[1] for lift in lifts))
    wanted = plain_coulomb(molecule, lifts) @ z
    assert np.abs(ChannelCoulomb(molecule, lifts)(z) - wanted).max() > 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("molecule", [alkane(4), peptide(1)], ids=lambda molecule: molecule.name)
def test_the_large_energy_is_the_plain_one(functional, molecule):
    large, plain = LargeEnergy(functional, molecule), functional.energy_of(molecule)
    start = large.predict()
    assert np.abs(start - plain.on_constraint(np.zeros_like(start))).max() < 1e-10
    z = start + 0.2 * np.random.default_rng(1).standard_normal(len(start))
    (value, slope), (wanted, wanted_slope) = large(z), plain(z)
    assert abs(value - wanted) < 1e-9 and np.abs(slope - wanted_slope).max() < 1e-9
    assert np.abs(large.constraint - plain.constraint).max() < 1e-11
    assert np.abs(large.coefficients(z) - plain.coefficients(z)).max() < 1e-10


def test_weights_with_roots_of_whole_molecules_are_refused():
    with pytest.raises(InvalidInput, match="roots: atoms"):
        LargeEnergy(load("ofdft_small"), alkane(1))


def test_weights_counted_from_their_reference_energy_are_refused(functional):
    with pytest.raises(InvalidInput, match="counted from its reference energy"):
        LargeEnergy(functional.on_reference_energy(functional.reduction.energies), alkane(1))


def test_roots_of_atoms_are_roots_of_their_blocks():
    integrals = density_integrals(alkane(2))
    root, inverse = integrals.natural("atoms")
    first = slice(0, 109)
    assert np.abs((root @ root - integrals.overlap)[first, first]).max() < 1e-12
    assert np.abs(root[first, 109:]).max() == 0.0 and np.abs(root @ inverse - np.eye(len(root))).max() < 1e-9
    assert np.abs(integrals.natural("molecule")[0] - root).max() > 1e-2


def test_neighbour_lists_hold_the_pairs_of_all_distances():
    positions = np.random.default_rng(0).uniform(0.0, 6.0, (20, 3))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 10.0 * np.eye(20)
    edges = edges_within(positions, 2.5)
    assert list(zip(edges.first, edges.second, strict=True)) == list(zip(*np.nonzero(distances < 2.5), strict=True))
    i, k = following_pairs(edges.bounds(20))
    same = edges.first[:, None] == edges.first[None]
    np.fill_diagonal(same, False)
    assert list(zip(i, k, strict=True)) == list(zip(*np.nonzero(same), strict=True))
    assert len(edges.within(1.0)) == int((distances < 1.0).sum())


def test_an_atom_alone_has_no_neighbours():
    assert len(edges_within(np.zeros((1, 3)), 5.0)) == 0
    assert len(candidate_frames(np.zeros((1, 3))).atom) == 0


def test_chains_have_the_atoms_their_names_say():
    assert alkane(5).formula == "C5H12" and int(alkane(313).atomic_numbers.sum()) == 2506
    assert peptide(2).formula == "C9H17N3O3" and int(peptide(2).atomic_numbers.sum()) == 38 * 2 + 40
    positions = torch.from_numpy(alkane(8).positions)
    assert 1.08 < float(torch.pdist(positions).min()) < 1.10
    for wrong in (("alkane", 0), ("peptide", 0), ("ring", 3)):
        with pytest.raises(InvalidInput):
            molecule_of(*wrong)


def test_kept_basis_values_change_no_energy():
    molecule, stages = alkane(1), []
    found = tuned_energy(molecule, grid_level=0, note=stages.append)
    plain = dft.RKS(orbital_mole(molecule), xc="pbe,pbe").density_fit(auxbasis="def2-universal-jfit")
    plain.grids.level, plain.grids.prune, plain.conv_tol = 0, dft.gen_grid.nwchem_prune, 1e-6
    assert found.kept and abs(found.energy - plain.kernel()) < 1e-8
    assert stages == ["set-up", "guess", "optimisation"]
