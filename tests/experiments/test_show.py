"""Known rows give exact cells, and below a table stands how its numbers were made."""

import html
import re

import pandas as pd
import pytest
import squares

from molkit.errors import InvalidInput
from molkit.experiments import run as running
from molkit.experiments.run import run
from molkit.experiments.show import Column, mean_with_interval, paired, show
from molkit.metrics.statistics import Interval


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLKIT_ROWS_DIR", str(tmp_path / "rows"))
    monkeypatch.setattr(running, "WORK", tmp_path / "work")


def text_of(page: str) -> str:
    return html.unescape(re.sub("<[^>]+>", "|", page))


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        (Column("x", 1, 100.0), 0.123, "12.3"),
        (Column("x", 2), -1.005, "\u22121.00"),
        (Column("x", 1), -0.04, "0.0"),
        (Column("x"), 12345, "12,345"),
        (Column("x", 1), Interval(-0.5, -1.25, 1000.0), "\u22120.5\n[\u22121.2, 1,000.0]"),
        (Column("x", 1, 100.0), Interval(0.5, 0.25, 1.0), "50.0\n[25.0, 100.0]"),
        (Column("x", 1), Interval(0.5, float("nan"), float("nan")), "0.5"),
        (Column("x"), None, "–"),
        (Column("x"), float("nan"), "–"),
        (Column("x"), pd.NA, "–"),
        (Column("x", 3), "word", "word"),
        (Column("x", 3), True, "True"),
    ],
)
def test_a_column_has_its_digits_its_factor_and_a_dash_for_nothing(column, cell, text):
    assert column.text(cell) == text


def test_a_table_shows_the_chosen_columns_in_their_order():
    frame = pd.DataFrame({"b": [0.5, 0.25], "a": ["one", "<two>"], "c": [1, 2]})
    table = show(frame, {"a": "name", "b": Column("share, %", 1, 100.0)}, "What & why")
    assert table.heads == ("name", "share, %") and table.cells == (("one", "50.0"), ("<two>", "25.0"))
    page = table._repr_html_()
    assert (
        '<th scope="row">&lt;two&gt;</th><td>25.0</td>' in page and "What &amp; why" in page and "details" not in page
    )
    assert repr(table).splitlines() == ["What & why", "name   share, %", "one    50.0", "<two>  25.0"]
    wordy = show(
        pd.DataFrame({"a": ["x"], "b": ["a sentence that is longer than numbers are"]}), {"a": "", "b": ""}, ""
    )
    assert '<td class="words">' in wordy._repr_html_()
    with pytest.raises(InvalidInput, match="no column 'd'; it has b, a, c"):
        show(frame, {"d": "?"}, "")


def test_means_are_over_the_rows_that_have_a_value_in_each_group():
    frame = pd.DataFrame({"arm": ["b", "b", "a", "b", "a"], "x": [1.0, 2.0, 5.0, None, 5.0], "y": [1.0] * 5})
    means = mean_with_interval(frame, ["x", "y"], by="arm")
    assert means["arm"].tolist() == ["b", "a"]
    assert (means["x"][0].value, means["x"][0].low, means["x"][0].high) == (1.5, 1.0, 2.0)
    assert means["x"][1] == Interval(5.0, 5.0, 5.0) and means["y"][0].value == 1.0
    one = mean_with_interval(frame[:1], ["x"])
    assert one["x"][0].value == 1.0 and not one["x"][0].known and list(one.columns) == ["x"]
    assert mean_with_interval(frame[3:4], ["x"])["x"][0] is None


def test_pairs_are_taken_where_both_have_a_value():
    frame = pd.DataFrame(
        {"arm": ["p", "q", "p", "q", "p"], "m": ["u", "u", "v", "v", "w"], "x": [3.0, 1.0, 5.0, 9.0, 7.0]}
    )
    assert paired(frame, "p", "q", by="arm", over="m", column="x").to_dict() == {"u": 2.0, "v": -4.0}
    with pytest.raises(InvalidInput, match="average first"):
        paired(pd.concat([frame, frame]), "p", "q", by="arm", over="m", column="x")
    with pytest.raises(InvalidInput, match="no row has arm = 'z'"):
        paired(frame, "p", "z", by="arm", over="m", column="x")


def test_the_fold_says_experiment_tasks_command_origin_audit_and_what_was_left_out():
    made = squares.tasks(numbers=[2, 3, -4], kind="a b")
    run(squares.measure, made, keep=True)
    rows = run(squares.measure, made, recompute="audit:3")
    for table in (
        show(rows, {"number": "n"}, "All", rows=rows),
        show(rows.groupby("power")[["square"]].mean(), {"square": "s"}, "", rows=rows),
    ):
        page = text_of(table._repr_html_())
        assert "How this number was made: squares, 3 tasks, computed with the code of today; 5 of 5" in page
        assert "5 of 5 recomputed rows agree (3 of 3 tasks)" in page
        assert "squares.py:measure" in page and "3 (3 from the store), 4 rows" in page
        assert "molkit study squares --numbers 2,3,-4 --kind 'a b'" in page
        assert "-4 has no root" in page and "commit" in page
