"""The page on the fast engine: pairs of chains, rounding, times, and what was benchmarked."""

import numpy as np
import pandas as pd
import pytest

from molkit.edm import engine as kernel
from molkit.errors import InvalidInput, ToolNotFound
from molkit.experiments.show import show
from molkit.metrics.statistics import bootstrap_interval
from molkit.studies.edm import engine as page


def pairs(first, second) -> pd.DataFrame:
    """Molecules of four atoms with so many stable ones, by both products."""
    return pd.DataFrame(
        [
            {"execution": name, "num_atoms": 4, "stable_atoms": atoms, "stable": atoms == 4}
            for name, counts in (("float32", first), ("bfloat16", second))
            for atoms in counts
        ]
    )


def test_differences_count_second_minus_first_and_pairs_that_disagree():
    molecules, atoms = page.compare(pairs([4, 4, 2, 0], [4, 3, 4, 4])).to_dict("records")
    assert (molecules["first"], molecules["second"], molecules["n"]) == (0.5, 0.75, 4)
    assert (molecules["lost"], molecules["gained"]) == (1, 2)
    assert molecules["difference"] == bootstrap_interval(np.array([0.0, -1.0, 1.0, 1.0]))
    assert (atoms["first"], atoms["second"]) == (10 / 16, 15 / 16)
    assert atoms["difference"].value == pytest.approx(5 / 16)


def test_cells_of_the_pairs_are_in_per_cent_and_points():
    table = show(page.compare(pairs([4, 4, 2, 0], [4, 3, 4, 4])), page.PAIR_TABLE, "")
    line = dict(zip(table.heads, table.cells[0], strict=True))
    assert (line["float32, %"], line["bfloat16, %"], line["lost"], line["gained"]) == ("50.0", "75.0", "1", "2")
    assert line["difference, points"].startswith("25.00\n")


def test_equal_executions_differ_by_nothing_and_a_missing_one_leaves_the_table_empty():
    molecules = page.compare(pairs([4, 1, 2, 0], [4, 1, 2, 0])).iloc[0]
    assert (molecules["difference"].low, molecules["difference"].high) == (0.0, 0.0)
    assert page.compare(pairs([4, 1], [])).empty


def test_both_executions_run_the_same_chains():
    tasks = page.tasks(num_chains=120)
    assert [(t.execution, t.first, t.count) for t in tasks[:4]] == [
        ("float32", 0, 50), ("float32", 50, 50), ("float32", 100, 20), ("bfloat16", 0, 50)
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="float16"):
        page.tasks(executions=["float16"])


@pytest.mark.skipif(not kernel.available(), reason="no C compiler or no AVX2")
def test_the_kernel_in_float32_makes_the_molecules_of_the_readable_network():
    made = [page.measure(page.Task("edm_qm9", name, 4, 0, 4, 0)) for name in ("readable", "float32")]
    assert [row["num_atoms"] for row in made[0]] == [row["num_atoms"] for row in made[1]]
    assert [row["stable_atoms"] for row in made[0]] == pytest.approx([row["stable_atoms"] for row in made[1]], abs=1)


def test_products_that_this_processor_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(page, "executions_here", lambda: ("readable", "float32"))
    with pytest.raises(ToolNotFound, match="bfloat16 products: not on this CPU"):
        page.execution_of(None, "bfloat16")


@pytest.mark.skipif(not kernel.available(), reason="no C compiler or no AVX2")
def test_the_kernel_repeats_the_readable_network_with_fresh_and_with_published_weights():
    bounds = {"readable": 1e-5, "float32": 1e-5, "bfloat16": 2e-2}
    for task in page.tasks_parity(num_molecules=8, seed=1):
        for row in page.measure_parity(task):
            assert row["error"] < bounds[row["execution"]]


def test_errors_stand_under_their_execution():
    made = [("", "readable", 1e-7), ("", "bfloat16", 3e-3), ("w", "readable", 2e-7), ("w", "bfloat16", 4e-3)]
    found = page.errors(pd.DataFrame(made, columns=["weights", "execution", "error"])).set_index("network")
    assert found.loc["weights w"].to_dict() == {"readable": "2.0e-07", "bfloat16": "4.0e-03"}
    assert list(found.columns) == ["readable", "bfloat16"]


def test_every_execution_is_timed_and_compared_with_the_readable_network(monkeypatch):
    (task,) = page.tasks_speed(num_molecules=4, rounds=1)
    rows = page.measure_speed(task)
    assert [row["execution"] for row in rows] == list(page.executions_here())
    assert all(row["call"] > 0.0 and row["step"] > 0.0 for row in rows)
    monkeypatch.setattr(page, "_in_turns", lambda works, rounds: dict.fromkeys(works, 0.5))  # seconds of a batch
    assert all((row["call"], row["step"]) == (500.0 / task.num_molecules,) * 2 for row in page.measure_speed(task))
    table = page.ratios(pd.DataFrame({"execution": ["readable", "float32"], "call": [4.0, 2.0], "step": [9.0, 3.0]}))
    cells = show(table, page.SPEED_TABLE, "").cells[1]
    assert cells == ("kernel, float32", "2.00", "2.0", "3.00", "3.0")


def test_the_benchmark_shows_medians_with_their_range_and_the_share_of_the_limit():
    entry = {"speedup": {"median": 9.0, "min": 8.0, "max": 10.0}, "share_of_limit": 0.75}
    report = {"training": {"fused_float32": entry, "padded": {}}, "sampling": {"fused_float32": entry}}
    table = show(page.speedups(report), page.BENCHMARK_TABLE, "")
    assert table.cells[0] == ("kernel, float32", "9.0\n[8.0, 10.0]", "75", "9.0\n[8.0, 10.0]", "75")
    assert table.cells[1][1:] == ("–",) * 4
    assert set(page.speedups(page.benchmark())["name"]) >= {"padded pairs, float32", "kernel, bfloat16 products"}
