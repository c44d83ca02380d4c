"""What the chapters on the tilt and on QM9-size conformers compute and show, at the smallest size."""

import numpy as np
import pytest

from molkit.cgcf.graph import collate
from molkit.errors import InvalidInput
from molkit.figures import energy_tilt as draw
from molkit.studies import energy_tilt as study
from molkit.studies.conformers.overlays import overlays

FLOW, ENERGY = "cgcf_qm9", "etm_qm9"


@pytest.fixture(scope="module")
def tilted():
    return study.tilt_molecules(FLOW, ENERGY, num_molecules=2, count=3, search="converged search", seed=0)


def test_the_bridge_widens_from_the_data_to_the_flow():
    levels = study.bridge_levels(FLOW, ENERGY, num_molecules=2, seed=0)
    deviations = [one.deviation.value for one in levels]
    assert deviations == sorted(deviations) and deviations[0] < 0.01 < 0.05 < deviations[-1]
    assert "0.7" in draw.level_table(levels, 2).data


def test_the_walk_lowers_the_energy_and_narrows_the_bonds(tilted):
    before, after = study.tilt_rows(tilted, num_energies=1)
    assert after.tilt.value < before.tilt.value and after.spread.value < before.spread.value
    assert (before.num_molecules, before.num_conformers) == (2, 6)
    assert "kcal/mol" in draw.tilt_table([before, after]).data
    assert "6 conformers of 2" in draw.length_figure(tilted).texts[-1].get_text().replace("\n", " ")


def test_the_minimum_has_no_energy_above_itself(tilted):
    one = tilted[0]
    assert study.xtb_above(one, one.minimum[None]) == pytest.approx([0.0], abs=1e-6)
    assert study.clashes(one.graph, one.minimum[None]) == 0.0
    assert study.clashes(tilted[1].graph, 0.2 * tilted[1].minimum[None]) > 0.0


def test_clashes_count_only_pairs_beyond_three_bonds():
    from molkit.cgcf.datasets import graph_of
    from molkit.chem.bond_graph import graph_mol

    graph = collate([graph_of(graph_mol("CC"))])
    assert study.clashes(graph, np.zeros((1, 8, 3))) == 0.0


def test_the_learning_curve_has_a_line_for_each_step_of_the_bridge():
    found = study.curves(ENERGY)
    assert found.told_apart.shape == (len(found.steps), len(found.shares) - 1)
    assert found.shares[0] == 0.0 and found.shares[-1] == 1.0
    draw.curve_figure(found)
    with pytest.raises(InvalidInput, match="unknown search"):
        study.tilt_molecules(FLOW, ENERGY, num_molecules=1, count=1, search="none", seed=0)


def test_four_walks_are_named_for_what_they_are():
    rows = study.walks(FLOW, ENERGY, "CO", count=2, num_steps=3, seed=0)
    assert [row.kind for row in rows] == [*2 * ["refinement without noise"], "noise times 0.1", "Langevin dynamics"]
    assert [row.target for row in rows] == ["E alone", *3 * ["E − log p"]]
    assert "clipped" in draw.walk_table(rows, "CO").data


def test_overlays_lie_on_their_references():
    (one,) = overlays(FLOW, ENERGY, data="ensembles_qm9", num_molecules=1, count=3, seed=0)
    gap = one.nearest.positions - one.reference.positions
    assert np.linalg.norm(gap.mean(axis=0)) < 1e-6 and one.rmsd < 3.0
    assert "heavy atoms" in draw.overlay_grid([one]).data
    many = draw.overlay_grid([one] * 9).data  # two full rows of four
    assert many.count(f"{one.name}: {one.rmsd:.2f} Å") == 8 * draw.overlay_grid([one]).data.count(f"{one.rmsd:.2f} Å")


def test_springs_of_propanol_are_its_bonds_and_angles():
    """Lengths known to any chemist: C-C 1.53, C-O 1.43, C-H 1.09, C...C over one atom 2.5 angstrom."""
    rows = {row.ends: row for row in study.springs_of(ENERGY, "CCCO")}
    assert rows["C1–C2"].length == pytest.approx(1.53, abs=0.03)
    assert rows["C3–O4"].length == pytest.approx(1.42, abs=0.03)
    assert rows["C1–H5"].length == pytest.approx(1.09, abs=0.03)
    assert rows["C1–C3"].length == pytest.approx(2.52, abs=0.06) and rows["C1–C3"].hops == 2
    assert all(0.0 < row.width < 0.1 for row in rows.values())
    assert "C3–O4" in draw.spring_table(list(rows.values()), "CCCO").data


def test_the_change_of_clashes_is_a_difference(tilted):
    found = study.clash_change(tilted, FLOW)
    expected = [study.clashes(one.graph, one.after) - study.clashes(one.graph, one.before) for one in tilted]
    assert found.value == pytest.approx(np.mean(expected))
    assert "2 molecules" in draw.change_table(found, 2).data


def test_overlays_pass_over_molecules_of_unknown_elements():
    """Of the drug-size molecules some have sulphur or halogens, which these weights never saw."""
    found = overlays(FLOW, "", data="conformers_dft", num_molecules=4, count=1, seed=0)
    assert all(set(one.reference.atomic_numbers.tolist()) <= {1, 6, 7, 8} for one in found) and len(found) < 4


def test_an_overlay_of_nothing_is_refused_with_the_reason():
    with pytest.raises(InvalidInput, match="knows the elements of none of the 1 molecules of ensembles_drugs"):
        overlays(FLOW, "", data="ensembles_drugs", num_molecules=1, count=1, seed=0)
