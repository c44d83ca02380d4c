"""The attention functional: symmetries, continuity where frames vanish, derivatives."""

import numpy as np
import pytest
import torch

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.attention import AttentionConfig, AttentionNetwork, surroundings
from molkit.ofdft.basis import density_mole
from molkit.ofdft.channels import ENERGY_FEATURES, function_rows, neighbourhood
from molkit.ofdft.frames import coefficient_rotation, shell_rotation
from molkit.ofdft.geometries import compositions
from molkit.ofdft.local_frames import candidate_frames, layout_rotations, shell_rotations
from molkit.units import ANGSTROM_TO_BOHR

CONFIG = AttentionConfig(counts=(3, 2, 2, 1), width=16, num_layers=2, num_heads=2, num_gaussians=6)
LAYOUT = CONFIG.layout
CH4, NH3, H2O, C2H2, HCN, CH2O = compositions()[:6]
HF = compositions()[17]
SYMMETRIC_CH4 = Molecule(
    np.array([6, 1, 1, 1, 1]),
    0.629 * np.array([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    name="CH4",
)
LINEAR = Molecule(np.array([1, 6, 7]), np.array([[0.0, 0, -1.07], [0, 0, 0], [0, 0, 1.15]]), name="HCN")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    found = AttentionNetwork(CONFIG).double().requires_grad_(False)
    for parameter in found.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return found


def value(network, molecule, z):
    return network(torch.as_tensor(z)[None], surroundings([neighbourhood(molecule)], LAYOUT))[0]


def drawn(molecule, seed=1):
    return np.random.default_rng(seed).standard_normal((molecule.num_atoms, LAYOUT.size))


def rotation(seed=0, determinant=1.0):
    found, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return found * determinant / np.linalg.det(found)


@pytest.mark.parametrize("molecule", [CH4, SYMMETRIC_CH4, NH3, H2O, C2H2, LINEAR, HF], ids=lambda m: m.formula)
@pytest.mark.parametrize("determinant", [1.0, -1.0])
def test_the_energy_does_not_change_when_molecule_and_density_turn(network, molecule, determinant):
    turn = rotation(determinant=determinant)
    z = drawn(molecule)
    moved = Molecule(molecule.atomic_numbers, molecule.positions @ turn.T, name=molecule.name)
    before, after = value(network, molecule, z), value(network, moved, z @ layout_rotations(LAYOUT, turn[None])[0].T)
    assert abs(float(before - after)) < 1e-9 * max(1.0, abs(float(before)))


@pytest.mark.parametrize("molecule", [NH3, CH2O], ids=lambda m: m.formula)
def test_the_energy_does_not_change_when_atoms_are_renamed(network, molecule):
    order = np.random.default_rng(3).permutation(molecule.num_atoms)
    z = drawn(molecule)
    renamed = Molecule(molecule.atomic_numbers[order], molecule.positions[order], name=molecule.name)
    assert abs(float(value(network, molecule, z) - value(network, renamed, z[order]))) < 1e-9


def path_of_water(asymmetry, angle=1.82):
    first, second = 0.97 + asymmetry, 0.97 - asymmetry
    half = angle / 2.0
    positions = [
        [0, 0, 0],
        [first * np.sin(half), 0, first * np.cos(half)],
        [-second * np.sin(half), 0, second * np.cos(half)],
    ]
    return Molecule(np.array([8, 1, 1]), np.array(positions, dtype=float), name="water")


def largest_jump(network, molecules):
    z = drawn(molecules[0])
    values = np.array([float(value(network, molecule, z)) for molecule in molecules])
    second = np.abs(np.diff(values, 2)).max()
    return second, np.ptp(values)


def test_the_energy_is_smooth_through_symmetric_water(network):
    """Where a frame of the nearest neighbour would jump: halving the steps must quarter the second difference."""
    coarse, spread = largest_jump(network, [path_of_water(a) for a in np.linspace(-0.02, 0.02, 9)])
    fine, _ = largest_jump(network, [path_of_water(a) for a in np.linspace(-0.02, 0.02, 17)])
    assert spread > 1e-4 and fine < 0.35 * coarse


def test_the_energy_is_continuous_where_a_molecule_becomes_linear(network):
    """On approach to the line frames turn about the axis ever faster, and their weight goes to zero."""
    values = [float(value(network, path_of_water(0.01, np.pi - bend), drawn(H2O))) for bend in (0.0, 1e-4, 1e-3, 1e-2)]
    steps = np.abs(np.diff(values))
    assert steps[0] < 1e-3 * steps[2] / 1e-2 * 10 and steps[0] < steps[1] < steps[2]


def test_gradients_agree_with_finite_differences(network):
    z = torch.as_tensor(drawn(CH2O)).requires_grad_(True)
    around = surroundings([neighbourhood(CH2O)], LAYOUT)
    (slope,) = torch.autograd.grad(network(z[None], around)[0], z)
    direction = torch.as_tensor(drawn(CH2O, 7))
    with torch.no_grad():
        ends = [float(network((z + sign * 1e-4 * direction)[None], around)) for sign in (1, -1)]
    expected = float((slope * direction).sum())
    assert abs((ends[0] - ends[1]) / 2e-4 / expected - 1.0) < 1e-5


def test_padding_changes_nothing(network):
    both = surroundings([neighbourhood(HF), neighbourhood(CH4)], LAYOUT)
    z = np.zeros((2, 5, LAYOUT.size))
    z[0, :2], z[1] = drawn(HF), drawn(CH4)
    together = network(torch.as_tensor(z), both)
    assert abs(float(together[0] - value(network, HF, z[0, :2]))) < 1e-10
    assert abs(float(together[1] - value(network, CH4, z[1]))) < 1e-10


def test_many_shell_rotations_are_those_of_one_at_a_time():
    turns = np.stack([rotation(seed) for seed in range(3)])
    for momentum in range(5):
        found = shell_rotations(momentum, turns)
        np.testing.assert_allclose(found, [shell_rotation(momentum, turn) for turn in turns], atol=1e-10)


def test_rows_of_functions_turn_like_coefficients():
    turn = rotation(4)
    whole = coefficient_rotation(density_mole(HF), turn)
    for atom in function_rows(HF):
        for momentum, rows in atom.items():
            for row in rows:
                np.testing.assert_allclose(whole[np.ix_(row, row)], shell_rotation(momentum, turn), atol=1e-10)


def test_diatomic_molecules_have_no_frames_and_others_fade_on_a_line():
    assert len(candidate_frames(HF.positions * ANGSTROM_TO_BOHR).atom) == 0
    bent = [candidate_frames(path_of_water(0.0, np.pi - bend).positions * ANGSTROM_TO_BOHR) for bend in (1e-3, 1e-2)]
    assert bent[0].weight.max() < 1e-5 and bent[1].weight.max() > bent[0].weight.max()


def test_wrong_sizes_and_elements_are_refused():
    with pytest.raises(InvalidInput, match="multiple"):
        AttentionConfig(width=10, num_heads=4)
    with pytest.raises(InvalidInput, match="H, C, N, O and F"):
        neighbourhood(Molecule(np.array([2, 1, 1]), np.array([[0.0, 0, 0], [0, 0, 1], [0, 1, 0]]), name="x"))


def test_features_of_the_reference_energy_do_not_see_rotation_or_names():
    order = np.random.default_rng(5).permutation(CH2O.num_atoms)
    moved = Molecule(CH2O.atomic_numbers[order], CH2O.positions[order] @ rotation(6, -1.0).T, name="x")
    first, second = neighbourhood(CH2O).energy_features(), neighbourhood(moved).energy_features()
    assert len(first) == ENERGY_FEATURES
    np.testing.assert_allclose(first, second, atol=1e-12)
