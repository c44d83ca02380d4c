"""Atom and molecule stability: molecules with a known answer, symmetries, and awkward input."""

import subprocess
import sys

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.metrics.stability import stability
from molkit.molecule import ATOMIC_NUMBER, Molecule, PackedMolecules


def molecule(symbols, positions):
    return Molecule([ATOMIC_NUMBER[s] for s in symbols], np.array(positions, dtype=float))


def methane(bond=1.087):
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    return molecule("CHHHH", np.vstack([np.zeros(3), bond * corners]))


def benzene(bond):
    angles = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    return molecule("C" * 6 + "H" * 6, np.vstack([bond * ring, (bond + 1.085) * ring]))


def score(*molecules, rule="edm"):
    return stability(PackedMolecules.from_molecules(molecules), rule=rule)


def test_methane_is_stable_and_without_a_hydrogen_it_is_not():
    whole = methane()
    lacking = Molecule(whole.atomic_numbers[:4], whole.positions[:4])
    result = score(whole, lacking)
    assert result.stable_atoms.tolist() == [5, 3]
    assert result.molecule_stable.tolist() == [True, False]
    assert result.atom_fraction == pytest.approx(8 / 9)
    assert result.molecule_fraction == 0.5


def test_benzene_just_above_the_double_bond_threshold_has_no_stable_carbon():
    """The blind spot of the rule: the threshold, 1.39 angstrom, lies on top of the aromatic bond length."""
    result = score(benzene(1.395), benzene(1.385))
    assert result.stable_atoms.tolist() == [6, 6]  # all single: valence 3; all double: valence 5


def test_linear_molecules_at_experimental_and_at_stretched_bond_lengths():
    nitrogen = [molecule("NN", [[0, 0, 0], [d, 0, 0]]) for d in (1.098, 1.135)]
    carbon_dioxide = [molecule("COO", [[0, 0, 0], [d, 0, 0], [-d, 0, 0]]) for d in (1.162, 1.155)]
    assert score(*nitrogen).molecule_stable.tolist() == [True, False]
    assert score(*carbon_dioxide).stable_atoms.tolist() == [3, 0]


def test_nitro_groups_are_unstable_because_the_rule_knows_no_charges():
    nitromethane = molecule(
        "CNOOHHH",
        [[0, 0, 1.49], [0, 0, 0], [0, 1.09, -0.55], [0, -1.09, -0.55],
         [0, 1.03, 1.83], [0.9, -0.5, 1.83], [-0.9, -0.5, 1.83]],
    )  # fmt: skip
    result = score(nitromethane)
    assert not result.molecule_stable[0]
    assert result.stable_atoms[0] < 7


def test_stability_ignores_rotation_reflection_translation_and_the_order_of_atoms():
    random = np.random.default_rng(0)
    plain = [methane(), benzene(1.38)]
    moved = []
    for original in plain:
        rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
        order = random.permutation(original.num_atoms)
        turned = original.positions @ rotation.T + random.normal(size=3) * 50
        moved.append(Molecule(original.atomic_numbers[order], turned[order]))
    np.testing.assert_array_equal(score(*plain).stable_atoms, score(*moved).stable_atoms)


def test_a_molecule_scores_the_same_alone_and_in_a_crowd():
    crowd = [methane(bond) for bond in (1.0, 1.1, 1.2)] + [benzene(1.38), methane(1.3)]
    alone = [int(score(one).stable_atoms[0]) for one in crowd]
    assert score(*crowd).stable_atoms.tolist() == alone


def test_broken_coordinates_are_unstable_and_counted():
    packed = PackedMolecules.from_molecules([methane(), methane(), methane()])
    positions = packed.positions.copy()
    positions[5, 0], positions[11, 2] = np.nan, np.inf
    result = stability(PackedMolecules(packed.num_atoms, packed.atomic_numbers, positions))
    assert result.stable_atoms.tolist() == [5, 0, 0]
    assert result.num_not_finite == 2


def test_an_empty_set_an_unknown_rule_and_an_unknown_element_are_refused():
    with pytest.raises(InvalidInput, match="at least one molecule"):
        score()
    with pytest.raises(InvalidInput, match="must be one of edm, geom, formal_charge, got 'EDM'"):
        score(methane(), rule="EDM")
    with pytest.raises(InvalidInput, match="got Na"):
        score(Molecule([11], np.zeros((1, 3))))


def test_mercury_belongs_to_the_geom_rule_only():
    atom = Molecule([80], np.zeros((1, 3)))
    assert score(atom, rule="geom").stable_atoms.tolist() == [0]
    with pytest.raises(InvalidInput, match="got Hg"):
        score(atom)


def test_the_distance_rules_import_neither_rdkit_nor_torch():
    code = "import sys, molkit.metrics.stability; print(sorted({'rdkit', 'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
