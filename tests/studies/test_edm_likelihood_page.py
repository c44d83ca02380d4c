"""The page on the likelihood: rows that add up, means as cells, and where curves lie."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.likelihood import log_prob_size
from molkit.experiments.show import show
from molkit.metrics.statistics import Interval
from molkit.studies.edm import likelihood as page

WEIGHTS = "edm_qm9"


@pytest.fixture(scope="module")
def rows():
    return pd.DataFrame(page.measure(page.Task(WEIGHTS, 2, 4, 40, 1, 0))).assign(draws=1)


def test_terms_of_each_molecule_add_up_to_its_bound(rows):
    parts = [name for name in page.TERMS if name != "total"]
    np.testing.assert_allclose(rows[parts].sum(axis=1), rows["total"], atol=5e-4)
    sizes = load_qm9(split="test", limit=40).num_atoms[2:6]
    assert rows["num_atoms"].tolist() == sizes.tolist()
    expected = -log_prob_size(EdmConfig(), torch.from_numpy(sizes))
    np.testing.assert_allclose(rows["size"], expected, atol=1e-4)


def test_tasks_hold_every_molecule_once():
    tasks = page.tasks(num_molecules=600)
    assert [(task.first, task.count, task.spread) for task in tasks] == [
        (0, 250, 600),
        (250, 250, 600),
        (500, 100, 600),
    ]


def test_cells_of_the_table_are_means_of_their_own_terms():
    made = pd.DataFrame({name: [10.0 * k, 10.0 * k + 2.0] for k, name in enumerate(page.TERMS)})
    table = show(page.terms(made), page.TABLE, "")
    values = {line[0]: float(line[1].split("\n")[0]) for line in table.cells}
    assert values == {page.TERMS[name]: 10.0 * k + 1.0 for k, name in enumerate(page.TERMS)}
    assert table.heads[1] == "nats per molecule" and table.cells[-1][0].startswith("bound on")


def test_steps_cover_the_chain_with_the_same_molecules():
    tasks = page.tasks_steps(num_steps=5, num_molecules=3)
    assert [task.step for task in tasks] == [1, 6, 32, 178, 1000] and {task.count for task in tasks} == {3}


def test_the_weighted_term_is_half_the_weight_times_the_plain_error():
    rows = pd.DataFrame(page.measure_steps(page.StepTask(WEIGHTS, 300, 3, 0)))
    sizes = load_qm9(split="test", limit=3).num_atoms
    np.testing.assert_allclose(rows["weighted"], 0.5 * rows["weight"] * 9 * sizes * rows["error"], rtol=1e-9)
    assert 0.0 < rows["error"].mean() < 1.0


def test_weighted_terms_stand_left_with_their_errors_and_plain_ones_right():
    made = pd.DataFrame({"step": [1, 1, 9, 9], "weighted": [2.0, 4.0, 1.0, 1.0], "error": [0.5, 0.7, 0.1, 0.3]})
    left, right = page.draw_steps(made.assign(weight=[7.0, 7.0, 5.0, 5.0])).axes
    (points,) = left.containers
    assert points.lines[0].get_xydata().tolist() == [[1.0, 3.0], [9.0, 1.0]]
    low, high = points.lines[2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 1.96 * 1.0)
    plain, weight = right.get_lines()
    np.testing.assert_allclose(plain.get_ydata(), [0.6, 0.2])
    assert weight.get_ydata().tolist() == [7.0, 5.0] and "nats" in left.get_ylabel()


def test_bounds_stand_over_the_number_of_atoms_with_the_constant_part_below(rows):
    (axis,) = page.draw_sizes(rows).axes
    np.testing.assert_allclose(axis.collections[0].get_offsets(), rows[["num_atoms", "total"]])
    (line,) = axis.get_lines()
    np.testing.assert_allclose(line.get_ydata(), page.positions_constant(line.get_xdata()))


def test_the_floor_of_the_training_loss_is_the_entropy_of_the_histogram():
    ((row,),) = [page.measure_entropy(page.EntropyTask())]
    assert row["entropy"] == pytest.approx(2.4757, abs=1e-4) and row["molecules"] == 100_000


def test_constant_part_of_the_reconstruction():
    """-4.837519 nats for each of the 3 (M - 1) degrees of freedom."""
    assert page.positions_constant([19])[0] == pytest.approx(-4.837519 * 54, abs=1e-3)
    assert math.isclose(page.positions_constant([1])[0], 0.0)


def test_each_bar_of_the_waterfall_begins_where_the_terms_above_it_end():
    nats = [3.0, 10.0, -20.0, -7.0]
    frame = pd.DataFrame({"term": list("abcd"), "nats": [Interval(one, one, one) for one in nats]})
    (axis,) = page.draw_terms(frame, caption="").axes
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axis.patches] == [
        (0, 3),
        (3, 13),
        (13, -7),
        (0, -7),
    ]
    assert [text.get_text() for text in axis.texts][2:] == ["\u221220.0", "\u22127.0"]
