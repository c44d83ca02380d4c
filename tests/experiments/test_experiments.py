"""Experiments: rows that are taken, computed, continued and audited, and that say truly where they come from."""

import gzip
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import squares

from molkit.claims import provenance
from molkit.claims.ledger import load_claims
from molkit.claims.record import record
from molkit.claims.store import load_results, what_changed
from molkit.errors import InvalidInput, RunError
from molkit.experiments import run as running
from molkit.experiments.audit import compare, draw, read_audit, tasks_needed
from molkit.experiments.experiment import Comparison, key_of, read_recompute
from molkit.experiments.run import account_of, run
from molkit.experiments.store import Entry, Store
from molkit.farm.engines import engine
from molkit.metrics.statistics import Interval

CLAIM = "edm.qm9.gschnet.molecule_stable"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A store and a working folder of each test's own, and a clean room."""
    monkeypatch.setenv("MOLKIT_ROWS_DIR", str(tmp_path / "rows"))
    monkeypatch.setattr(running, "WORK", tmp_path / "work")
    squares.CALLS.clear()


def kept(numbers, **options):
    return run(squares.measure, squares.tasks(numbers=numbers), keep=True, **options)


def test_rows_carry_the_fields_of_their_task_and_come_in_the_order_asked_for():
    rows = kept([3, 2])
    assert rows["number"].tolist() == [3, 3, 2, 2] and rows["square"].tolist() == [3.0, 9.0, 2.0, 4.0]
    assert rows["power"].tolist() == [1, 2, 1, 2] and rows["kind"].unique().tolist() == ["plain"]
    again = kept([2, 3])
    assert again["square"].tolist() == [2.0, 4.0, 3.0, 9.0] and squares.CALLS == [3, 2]


def test_what_is_stored_is_taken_and_what_is_missing_is_computed():
    kept([1, 2])
    rows = kept([1, 2, 3])
    assert squares.CALLS == [1, 2, 3]
    account = account_of(rows)
    assert (account.num_tasks, account.num_taken, account.num_rows, len(account.batches)) == (3, 2, 6, 2)
    assert account.state == "fresh" and account.command == "molkit study squares --numbers 1,2,3"


def test_all_takes_nothing_from_the_store_even_where_it_is_wrong(tmp_path):
    kept([1, 2])
    (tmp_path / "rows" / "squares.jsonl.gz").write_bytes(b"not a store")
    rows = run(squares.measure, squares.tasks(numbers=[1, 2]), recompute="all")
    assert squares.CALLS == [1, 2, 1, 2] and account_of(rows).num_taken == 0
    run(squares.measure, squares.tasks(numbers=[1]), recompute="all")
    assert squares.CALLS[4:] == [1]  # a finished run leaves nothing behind that a later one could take


def test_by_hand_nothing_is_written_to_the_store_and_in_the_papers_profile_all_is(tmp_path, monkeypatch):
    for profile, files in (("smoke", []), ("fast", []), ("", []), ("paper", ["squares.jsonl.gz"])):
        monkeypatch.setenv("MOLKIT_PROFILE", profile)
        run(squares.measure, squares.tasks(numbers=[1]))
        folder = tmp_path / "rows"
        assert [path.name for path in folder.iterdir()] == files if folder.is_dir() else files == []


def test_a_task_that_cannot_be_done_is_counted_with_its_reason_and_the_others_stand():
    account = account_of(kept([-1, 2]))
    assert account.failures == {"number=-1, kind=plain, data=": "-1 has no root"} and account.num_rows == 2
    account = account_of(kept([-1, 2]))
    assert account.num_taken == 2 and len(account.failures) == 1
    with pytest.raises(RunError, match="none of 1 tasks gave rows .-1 has no root"):
        kept([-1])
    with pytest.raises(InvalidInput, match="no tasks"):
        kept([])


def test_an_interrupted_run_goes_on_where_it_was(monkeypatch):
    monkeypatch.setenv("SQUARES_STOP", "3")
    with pytest.raises(KeyboardInterrupt):
        kept([1, 2, 3, 4], recompute="all")
    monkeypatch.delenv("SQUARES_STOP")
    assert kept([1, 2, 3, 4], recompute="all")["square"].tolist() == [1, 1, 2, 4, 3, 9, 4, 16]
    assert squares.CALLS == [1, 2, 3, 3, 4]


def test_finished_tasks_of_a_run_out_of_time_are_kept():
    with pytest.raises(RunError, match="2 of 2 tasks were not begun in time"):
        kept([1, 2], minutes=1e-9)


def test_every_engine_gives_the_same_rows(tmp_path):
    alone = kept([1, 2, 3]).drop(columns="seconds")
    with engine(2) as executor:
        other = run(squares.measure, squares.tasks(numbers=[1, 2, 3]), recompute="all", executor=executor)
    pd.testing.assert_frame_equal(alone, other.drop(columns="seconds"))


def test_two_processes_at_once_both_end_and_the_store_holds_what_both_made(tmp_path):
    code = textwrap.dedent("""
        import sys, squares
        from pathlib import Path
        from molkit.experiments import run as running
        running.WORK = Path(sys.argv[1])
        for first in (0, 10):
            numbers = [first + k for k in map(int, sys.argv[2].split(","))]
            running.run(squares.measure, squares.tasks(numbers=numbers), keep=True)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(squares.__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, str(tmp_path / "work")]
    both = [subprocess.Popen([*command, numbers], env=environment) for numbers in ("1,2,3", "3,4,5")]
    assert [process.wait(120) for process in both] == [0, 0]
    numbers = {entry.task["number"] for entry in Store("squares").read().entries.values()}
    assert numbers == {1, 2, 3, 4, 5, 11, 12, 13, 14, 15}


def test_the_same_rows_give_the_same_bytes(tmp_path):
    kept([1, 2])
    store, path = Store("squares"), tmp_path / "rows" / "squares.jsonl.gz"
    before, found = path.read_bytes(), Store("squares").read()
    (batch,) = found.batches.values()
    store.add(batch, found.entries)
    assert path.read_bytes() == before and store.read() == found


def edit(path: Path, old: str, new: str) -> None:
    text = gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"square":9.0', '"square":9.5', "rows of task .* .number=3, kind=plain, data=. are not those"),
        ('"number":3', '"number":4', "are not those that were computed"),
        ('"dirty":', '"note_":1,"dirty":', "unknown key 'note_'"),
        ('"machine":"', '"machine":"other ', "the origin .* is not the one that was stored"),
        ('"experiment":"squares"', '"experiment":"cubes"', "holds 'cubes' in format 1, expected 'squares'"),
        ('"format":1', '"format":2', "format 2"),
        ('"seconds":0', '"seconds":1', "removed, added or edited|not those"),
        ('{"key"', '{"kez"', "is not a task with its rows"),
        ("\n", "\n[1]\n", "must be an object"),
        ("\n", "\n{\n", "damaged"),
    ],
)
def test_a_store_that_was_edited_is_refused_by_name(tmp_path, old, new, words):
    kept([3])
    path = tmp_path / "rows" / "squares.jsonl.gz"
    edit(path, old, new)
    with pytest.raises(InvalidInput, match=f"(?s)squares.jsonl.gz.*({words})"):
        kept([3])


def test_a_store_with_a_line_taken_out_or_cut_short_is_refused(tmp_path):
    kept([1, 2])
    path = tmp_path / "rows" / "squares.jsonl.gz"
    whole = path.read_bytes()
    lines = gzip.decompress(whole).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join([*lines[:-2], ""]).encode()))
    with pytest.raises(InvalidInput, match="removed, added or edited"):
        kept([1])
    path.write_bytes(whole[:-12])
    with pytest.raises(InvalidInput, match="squares.jsonl.gz"):
        kept([1])


def test_a_key_follows_the_fields_of_a_task_and_the_bytes_it_names(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    task = squares.Task(1, "plain", str(data))
    first = key_of(task)
    assert key_of(replace(task, number=2)) != first and key_of(replace(task)) == first
    data.write_text("other")
    assert key_of(task) != first


def test_rows_of_another_origin_are_stale_until_an_audit_agrees(monkeypatch):
    kept([1, 2, 3])
    now = provenance.current_code(account_of(kept([1])).function)
    changed = {**now, "molkit/errors.py": "0" * 16}
    monkeypatch.setattr("molkit.experiments.experiment.code_of", lambda *_, **__: changed)
    account = account_of(kept([1, 2, 3]))
    assert (account.state, account.reasons) == ("stale", ("molkit/errors.py",))
    account = account_of(kept([1, 2, 3], recompute="audit:2"))
    assert account.state == "confirmed" and account.audit.agrees and len(account.audit.tasks) == 2
    assert str(account.audit) == "4 of 4 recomputed rows agree (2 of 3 tasks)"
    assert account_of(kept([1, 2, 3])).state == "confirmed"  # and stays so
    monkeypatch.setattr("molkit.experiments.experiment.code_of", lambda *_, **__: {**changed, "a.py": "1" * 16})
    assert account_of(kept([1, 2, 3])).state == "stale"


def test_an_audit_that_disagrees_says_where_and_makes_rows_stale_until_they_are_made_again(monkeypatch):
    kept([1, 2])
    monkeypatch.setenv("SQUARES_WRONG_BY", "0.4")  # within the tolerance of 0.5
    assert account_of(kept([1, 2], recompute="audit:2")).audit.agrees
    monkeypatch.setenv("SQUARES_WRONG_BY", "0.6")
    account = account_of(kept([1, 2], recompute="audit:1"))
    assert (account.audit.compared, account.audit.agreed, account.state) == (2, 0, "stale")
    assert "square" in str(account.audit) and "0 of 2 recomputed rows agree" in account.reasons[0]
    assert account_of(kept([1, 2])).state == "stale"
    account = account_of(kept([1, 2], recompute="all"))
    assert account.state == "fresh" and account_of(kept([1, 2])).state == "fresh"


def test_an_audit_that_disagreed_is_settled_when_all_its_tasks_agree(monkeypatch):
    kept([1, 2])
    monkeypatch.setenv("SQUARES_WRONG_BY", "0.6")
    kept([1, 2], recompute="audit:2")
    monkeypatch.delenv("SQUARES_WRONG_BY")
    assert account_of(kept([1, 2], recompute="audit:1")).state == "stale"
    assert account_of(kept([1, 2], recompute="audit:2")).state == "fresh"


def test_the_date_and_the_code_draw_the_tasks():
    keys = [f"{k:03d}" for k in range(200)]
    first = draw(keys, 3, date="2026-01-01", code="a")
    assert len(first) == 3 and first == draw(keys[::-1], 3, date="2026-01-01", code="a")[::-1]
    assert {tuple(first)} != {tuple(draw(keys, 3, date="2026-01-02", code="a"))}
    assert {tuple(first)} != {tuple(draw(keys, 3, date="2026-01-01", code="b"))}
    assert draw(keys[:2], 5, date="", code="") == keys[:2]


def entries(values, **task):
    return {f"k{n}": Entry(f"k{n}", task, "b", 0.0, tuple(rows)) for n, rows in enumerate(values)}


@pytest.mark.parametrize(
    ("found", "agreed"),
    [
        ({"a": 1.0, "w": "x", "s": [1.0, 2.0], "n": None}, 1),
        ({"a": 1.09, "w": "x", "s": [1.0, 2.0], "n": None}, 1),
        ({"a": 1.11, "w": "x", "s": [1.0, 2.0], "n": None}, 0),
        ({"a": 1.0, "w": "y", "s": [1.0, 2.0], "n": None}, 0),
        ({"a": 1.0, "w": "x", "s": [1.0, 2.1], "n": None}, 0),
        ({"a": 1.0, "w": "x", "s": [1.0], "n": None}, 0),
        ({"a": 1.0, "w": "x", "s": [1.0, 2.0], "n": 0.0}, 0),
        ({"a": 1.0, "w": "x", "s": [1.0, 2.0]}, 0),
        ({"a": None, "w": "x", "s": [1.0, 2.0], "n": None}, 0),
    ],
)
def test_each_column_is_compared_within_its_tolerance_and_all_others_exactly(found, agreed):
    stored = entries([[{"a": 1.0, "w": "x", "s": [1.0, 2.0], "n": None}]])
    compared = Comparison(within={"a": 0.1})
    assert compare(stored, entries([[found]]), compared)[:2] == (1, agreed)


def test_a_comparison_counts_missing_rows_and_failures_and_knows_its_columns():
    stored, two = entries([[{"a": 1}]]), entries([[{"a": 1}, {"a": 1}]])
    assert compare(stored, two, Comparison())[:2] == (1, 0)
    failed = {"k0": replace(stored["k0"], rows=(), failure="no")}
    assert compare(stored, failed, Comparison())[:2] == (1, 0) and compare(failed, failed, Comparison())[:2] == (1, 1)
    with pytest.raises(InvalidInput, match="column 'b', which no row has"):
        compare(stored, stored, Comparison(free=("b",)))


def test_rows_of_chains_are_compared_by_their_means_with_as_many_as_that_needs():
    """A share of 0.7, to be known within 0.2: (2.576 * 0.458 / 0.2)^2 = 35 rows, 4 tasks of ten rows."""
    random = np.random.default_rng(1)
    draws = (random.random((40, 10)) < 0.7).astype(int)
    stored = entries([[{"stable": int(x)} for x in line] for line in draws])
    compared = Comparison(alike={"stable": 0.2})
    needed = tasks_needed(stored, compared)
    p = draws.mean()
    assert needed == int(np.ceil((2.576 / 0.2) ** 2 * p * (1 - p) * 400 / 399 / 10)) and needed == 4
    for share, agrees in ((0.7, True), (0.35, False), (1.0, False)):
        rows = [[{"stable": int(k < 10 * share)} for k in range(10)] for _ in range(needed)]
        assert compare(stored, entries(rows), compared)[:2] == (1, int(agrees)), share
    lengths = entries([[{"length": x} for x in random.normal(5.0, 1.0, 10)] for _ in range(40)])
    for mean, agrees in ((5.0, True), (7.0, False)):
        rows = entries([[{"length": mean} for _ in range(10)] for _ in range(4)])
        assert compare(lengths, rows, Comparison(alike={"length": 0.5}))[1] == int(agrees)


def test_groups_that_an_audit_did_not_draw_are_not_compared_and_yes_counts_as_one():
    """Two arms of 20 tasks, half of their rows stable; only tasks of the first are made again."""
    half = [[{"stable": n % 2 == 0} for n in range(10)] for _ in range(20)]
    stored = {f"{arm}{key}": replace(one, task={"arm": arm}) for arm in "ab" for key, one in entries(half).items()}
    compared = Comparison(alike={"stable": 0.2}, by=("arm",))
    for share, agreed in ((5, 1), (0, 0), (10, 0)):
        rows = ({"stable": True},) * share + ({"stable": False},) * (10 - share)
        again = {key: replace(stored[key], rows=rows) for key in ("ak3", "ak7", "ak9")}
        assert compare(stored, again, compared)[:2] == (1, agreed)
    lost = {"ak3": replace(stored["ak3"], task={"arm": "c"})}
    assert compare(stored, lost, compared)[:2] == (2, 0)


def test_few_rows_that_were_all_alike_do_not_forbid_any_scatter():
    """Eight molecules all covered, and one of them less when made again: chance; all of them less: not."""
    stored = entries([[{"x": 1.0}] for _ in range(8)])
    for values, agreed in (([1.0] * 7 + [0.4], 1), ([1.0] * 3, 1), ([0.4, 0.5] * 4, 0), ([0.4, 0.5] * 2, 0)):
        assert compare(stored, entries([[{"x": x}] for x in values]), Comparison(alike={"x": 0.3}))[:2] == (1, agreed)


def test_repetitions_tell_how_far_a_chain_may_come_out_and_exact_rows_stay_exact():
    """Molecules differ by 10, repetitions by 0.1 sqrt(2): two tasks show a shift of 0.5 that all rows together hide."""
    random = np.random.default_rng(2)

    def entry(molecule, seed, shift=0.0, tool=1.0):
        walk = 10.0 * molecule + random.normal(0.0, 0.1) + shift
        rows = ({"arm": "walk", "x": walk}, {"arm": "tool", "x": tool + molecule})
        return Entry(f"{molecule}-{seed}", {"molecule": molecule, "seed": seed}, "b", 0.0, rows)

    stored = {one.key: one for one in (entry(m, s) for m in range(20) for s in range(3))}
    compared = Comparison(alike={"x": 0.2}, by=("arm",), repeats="seed", exact=("tool",))
    assert compared.counted == "rows and means"
    assert tasks_needed(stored, compared) in (3, 4)  # (2.576 * 0.141 / 0.2)^2 = 3.3
    assert tasks_needed(stored, replace(compared, repeats="")) == 8
    for shift, tool, found in ((0.0, 1.0, (4, 4)), (0.5, 1.0, (4, 3)), (0.0, 1.1, (4, 1)), (-0.5, 1.0, (4, 3))):
        again = {one.key: one for one in (entry(m, 0, shift, tool) for m in (3, 7, 11))}
        assert compare(stored, again, compared)[:2] == found, (shift, tool)
    again = {one.key: one for one in (entry(m, 0, 0.5) for m in (3, 7, 11))}
    assert compare(stored, again, replace(compared, repeats=""))[:2] == (4, 4)
    assert "x walk: mean of 3 rows" in compare(stored, again, compared)[2][0]
    for shift, agreed in ((0.0, 9), (1.0, 8)):  # eight pairs tell their scatter themselves
        again = {one.key: one for one in (entry(m, 0, shift) for m in range(8))}
        assert compare(stored, again, replace(compared, repeats=""))[:2] == (9, agreed)


def test_an_experiment_of_chains_is_audited_in_its_groups(monkeypatch):
    made = squares.tasks(numbers=range(40))
    run(squares.measure_walk, made, keep=True)
    account = account_of(run(squares.measure_walk, made, recompute="audit:1"))
    assert account.audit.counted == "means" and len(account.audit.tasks) >= 3 and account.audit.agrees
    assert account.experiment == "squares_walk"
    monkeypatch.setenv("SQUARES_SHARE", "0.1")
    account = account_of(run(squares.measure_walk, made, recompute="audit:1"))
    assert not account.audit.agrees and "stable plain: mean" in str(account.audit)


@pytest.mark.parametrize("text", ["", "audit", "audit:0", "audit:-1", "audit:x", "all:3", "Missing", "audit:²", 3])
def test_recompute_has_three_forms(text):
    with pytest.raises(InvalidInput, match="'missing', 'all' or 'audit:K'"):
        read_recompute(text)


def test_a_function_of_a_notebook_and_a_task_without_plain_fields_are_refused():
    def measure(task):
        return []

    with pytest.raises(InvalidInput, match="a function of a file"):
        run(measure, squares.tasks(numbers=[1]))

    @dataclass(frozen=True)
    class Odd:
        array: object

    with pytest.raises(InvalidInput, match="Odd: its fields must be"):
        run(squares.measure, [Odd(np.ones(2))])
    with pytest.raises(InvalidInput, match="frozen dataclass, got dict"):
        run(squares.measure, [{"number": 1}])


def test_a_result_copies_the_origin_of_its_rows_and_can_stamp_nothing_newer(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("MOLKIT_PROFILE", "fast")
    kept([1, 2])
    store, found = Store("squares"), Store("squares").read()
    (batch,) = found.batches.values()
    old = replace(batch, date="2020-01-02T03:04:05+00:00", commit="c" * 40, machine="another")
    store.add(old, {key: replace(entry, batch=old.id) for key, entry in found.entries.items()})
    rows = kept([1, 2])
    made = record(CLAIM, Interval(68.1, 67.0, 69.0), rows, n=10_000, basis="published_samples", interval_kind="95 %")
    assert (made.recorded, made.commit, made.machine) == (old.date, "c" * 40, "another")
    assert load_results() == {CLAIM: [made]} and (made.value, made.interval) == (68.1, (67.0, 69.0))
    claim = load_claims()[CLAIM]
    assert what_changed(made, claim) == ()
    kept([3])
    assert what_changed(made, claim) == ()  # other rows beside them are no matter
    kept([1], recompute="all")
    assert what_changed(made, claim) == ("stored rows of squares",)
    with pytest.raises(InvalidInput, match="do not say where they come from"):
        record(CLAIM, 68.0, pd.DataFrame({"a": [1]}), n=10_000, basis="published_samples")


def test_a_result_of_changed_code_is_stale_through_re_recording_and_fresh_once_an_audit_agrees(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(tmp_path / "results"))
    kept([1, 2])
    now = provenance.current_code(account_of(kept([1])).function)
    for place in ("molkit.experiments.experiment.code_of", "molkit.claims.provenance.code_of"):
        monkeypatch.setattr(place, lambda *_, **__: {**now, "molkit/errors.py": "0" * 16})
    claim, about = load_claims()[CLAIM], {"n": 10_000, "basis": "published_samples"}
    for _ in range(2):
        assert what_changed(record(CLAIM, 68.0, kept([1, 2]), **about), claim) == ("molkit/errors.py",)
    made = record(CLAIM, 68.0, kept([1, 2], recompute="audit:1"), **about)
    assert what_changed(made, claim) == () and made.origin["audits"][0]["agreed"] == 2
    monkeypatch.setenv("SQUARES_WRONG_BY", "3")
    made = record(CLAIM, 68.0, kept([1, 2], recompute="audit:1"), **about)
    assert any("by an audit" in text for text in what_changed(made, claim))


def test_other_weights_or_data_make_rows_stale(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    made = squares.tasks(numbers=[1], data=str(data))
    run(squares.measure, made, keep=True)
    store, found = Store("squares"), Store("squares").read()
    (batch,) = found.batches.values()
    old = replace(batch, inputs={str(data): "0" * 64})
    store.add(old, {key: replace(entry, batch=old.id) for key, entry in found.entries.items()})
    account = account_of(run(squares.measure, made))
    assert (account.state, account.reasons) == ("stale", (str(data),))


def test_a_result_of_rows_that_are_not_kept_does_not_ask_for_them_and_of_two_origins_the_newest_counts(monkeypatch):
    about = {"n": 10_000, "basis": "published_samples"}
    made = record(CLAIM, 68.0, run(squares.measure, squares.tasks(numbers=[5])), **about)
    assert made.origin["batches"][0]["rows"] == "" and what_changed(made, load_claims()[CLAIM]) == ()
    kept([1, 2])
    store, found = Store("squares"), Store("squares").read()
    (batch,) = found.batches.values()
    dates = ("2021-01-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00", "2022-01-01T00:00:00+00:00")
    for number, date in zip((1, 2, 3), dates, strict=True):
        kept([3])
        entries = {key: one for key, one in store.read().entries.items() if one.task["number"] == number}
        old = replace(batch, date=date, commit=str(number) * 40)
        store.add(old, {key: replace(one, batch=old.id) for key, one in entries.items()})
    assert record(CLAIM, 68.0, kept([1, 2, 3]), **about).commit == "3" * 40
    assert record(CLAIM, 68.0, kept([2, 1]), **about).commit == "1" * 40


def test_an_audit_of_nothing_confirms_nothing():
    line = {
        "date": "",
        "commit": None,
        "dirty": None,
        "code": "",
        "tasks": [],
        "num_tasks": 3,
        "compared": 0,
        "agreed": 0,
    }
    assert not read_audit(line).agrees and read_audit({**line, "compared": 1, "agreed": 1}).agrees


def test_a_ledger_does_not_trust_a_store_whose_rows_were_edited(tmp_path, monkeypatch):
    made = record(CLAIM, 68.0, kept([1]), n=10_000, basis="published_samples")
    edit(tmp_path / "rows" / "squares.jsonl.gz", '"square":1.0', '"square":1.5')
    with pytest.raises(InvalidInput, match="squares.jsonl.gz: its rows are not those that were written"):
        what_changed(made, load_claims()[CLAIM])


def test_an_audit_on_disk_is_read_strictly(tmp_path):
    kept([1])
    kept([1], recompute="audit:1")
    path = tmp_path / "rows" / "squares.audits.jsonl"
    assert read_audit(json.loads(path.read_text())).agrees
    path.write_text(path.read_text().replace('"agreed"', '"agreeed"'))
    with pytest.raises(InvalidInput, match="agreeed"):
        kept([1])
