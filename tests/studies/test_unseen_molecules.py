"""The page on unseen molecules: what an atom sees of a density, who is asked by whom, and rows as cells and points."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from molkit.errors import InvalidInput
from molkit.figures import style
from molkit.metrics.statistics import bootstrap_interval
from molkit.ofdft.basis import density_mole
from molkit.ofdft.frames import coefficient_rotation
from molkit.studies.ofdft import unseen_molecules as page

KNOWN, UNSEEN = page.parts(page.Task("kohn_sham", 0, 0, 30, 0))
WATER = page.described_molecules(174)[2]


def rows() -> pd.DataFrame:
    """Three molecules, each asked with Kohn-Sham's density and MINAO's after 10 and 20 molecules."""
    found = []
    for density, shift in (("kohn_sham", 0.0), ("minao", 2.0)):
        for train, known in ((10, 10), (0, 20)):
            for molecule, error in enumerate((1.0, -2.0, 3.0)):
                sign = np.sign(error)
                found.append(
                    {
                        "density": density,
                        "train": train,
                        "molecule": str(molecule),
                        "known": known,
                        "error": error + sign * (shift + 10.0 * (train == 10)),
                        "moved": 7.0 * error,
                    }
                )
    return pd.DataFrame(found)


def test_an_atom_sees_the_same_density_however_the_molecule_is_turned():
    assert WATER.entry.molecule.formula == "H2O"
    rotation = Rotation.from_euler("xyz", (0.3, 1.1, -0.7)).as_matrix()
    molecule = WATER.entry.molecule
    turned = replace(molecule, positions=molecule.positions @ rotation.T)
    again = page.Described(replace(WATER.entry, molecule=turned))
    coefficients = coefficient_rotation(density_mole(molecule), rotation) @ WATER.ground
    for before, after in zip(WATER.invariants(WATER.ground), again.invariants(coefficients), strict=True):
        assert np.abs(before - after).max() < 1e-9


def test_an_atom_sees_the_density_of_its_neighbours_too():
    only_oxygen = WATER.ground.copy()
    only_oxygen[116:] = 0.0
    hydrogen = (WATER.invariants(only_oxygen)[1], WATER.invariants(WATER.ground)[1])
    assert np.abs(hydrogen[0]).max() > 0.01 and np.abs(hydrogen[0] - hydrogen[1]).max() > 0.1


def test_every_molecule_is_asked_once_by_a_training_without_its_composition():
    asked = [page.parts(page.Task("minao", fold, 0, 30, 0)) for fold in range(5)]
    assert len({one.entry.molecule.name for _, unseen in asked for one in unseen}) == 30
    assert sum(len(unseen) for _, unseen in asked) == 30
    for known, unseen in asked:
        assert not {o.entry.molecule.formula for o in known} & {o.entry.molecule.formula for o in unseen}
        assert len(known) + len(unseen) == 30


def test_a_smaller_training_is_part_of_the_larger_one():
    few, _ = page.parts(page.Task("minao", 0, 9, 30, 0))
    assert len(few) == 9 and {one.entry.molecule.name for one in few} < {one.entry.molecule.name for one in KNOWN}


def test_tasks_are_all_densities_sizes_and_folds_and_an_unknown_density_is_refused():
    assert len({*page.tasks(train=(5, 0), molecules=30)}) == 4 * 2 * 5
    with pytest.raises(InvalidInput, match="densities are kohn_sham, fitted, minao, atoms; got 'huckel'"):
        page.tasks(densities=("huckel",))


@pytest.mark.parametrize("density", ["fitted", "atoms"])
def test_a_density_made_from_the_geometry_does_not_know_the_unseen_one(density):
    labels = UNSEEN[0].entry.labels
    other = replace(UNSEEN[0].entry, labels=replace(labels, coefficients=1.1 * labels.coefficients))
    first, second = (page.described(KNOWN, [one], density)[1][0] for one in (UNSEEN[0], page.Described(other)))
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_a_fitted_density_is_nearer_to_kohn_shams_than_round_atoms_are():
    tables, mean = page.fit_densities(KNOWN), page.mean_atoms(KNOWN)
    for one in KNOWN[:5]:
        fitted, round_ = (page.predicted(one, tables) - one.ground, page.superposed(one, mean) - one.ground)
        assert fitted @ one.overlap @ fitted < 0.3 * (round_ @ one.overlap @ round_)


def test_the_kernel_is_a_sum_over_pairs_of_atoms_of_one_element():
    features = [one.invariants(one.ground) for one in KNOWN[:3]]
    atoms = page.gathered(features, KNOWN[:3], page.feature_scales(features, KNOWN[:3]))
    found, expected = page.kernel_sums(atoms, atoms, 2.0, (3, 3)), np.zeros((3, 3))
    for rows_, owners in atoms.values():
        for first, a in zip(rows_, owners, strict=True):
            for second, b in zip(rows_, owners, strict=True):
                expected[a, b] += np.exp(-((first - second) ** 2).sum() / 8.0)
    assert np.allclose(found, expected, rtol=1e-10)


def test_energies_that_are_sums_of_elements_are_known_exactly():
    numbers = page.counts(KNOWN)
    weights, constants = page.solve(np.eye(len(KNOWN)), numbers, numbers @ [-0.5, -38.0, -54.0, -75.0, 0.0], 1e-6)
    assert constants[:4] == pytest.approx([-0.5, -38.0, -54.0, -75.0]) and np.abs(weights).max() < 1e-9


def test_a_process_knows_what_it_has_learned():
    features = [one.invariants(one.ground) for one in KNOWN]
    process = page.chosen_process(features, KNOWN)
    errors = process.energies(features, KNOWN) - [one.entry.energy for one in KNOWN]
    assert np.abs(errors).max() < 0.02  # hartree, the noise allows less than that


def test_a_table_shows_each_error_in_its_column_and_the_paired_gain():
    table = page.summary(rows()).set_index(["density", "train"])
    assert table.loc[("minao", 0), "error"] == bootstrap_interval(np.array([3.0, 4.0, 5.0]))
    assert table.loc[("minao", 0), "moved"].value == pytest.approx(14.0)
    assert list(table.loc[("kohn_sham", 10), ["known", "median", "worst"]]) == [10, 12.0, 13.0]
    assert table.loc[("minao", 0), "gain"].value == 2.0 and table.loc[("kohn_sham", 0), "gain"] is None


def test_a_figure_draws_errors_against_the_training_and_the_share_within_an_error():
    curves, shares = page.draw_densities(rows(), caption="").axes
    (line,) = [one for one in curves.containers if one.get_label() == "MINAO"]
    assert line.lines[0].get_color() == style.VERMILION
    assert [list(one) for one in line.lines[0].get_xydata()] == [[10, 14], [20, 4]]
    lowest = line.lines[2][0].get_segments()[1][0]
    assert lowest[1] == pytest.approx(bootstrap_interval(np.array([3.0, 4.0, 5.0])).low)
    (steps,) = [one for one in shares.lines if one.get_label() == "Kohn-Sham"]
    assert list(steps.get_xdata()) == [1, 2, 3] and steps.get_ydata()[-1] == 100
    assert curves.get_ylabel() == "mean error, kcal/mol" and shares.get_xlabel() == "error, kcal/mol"
