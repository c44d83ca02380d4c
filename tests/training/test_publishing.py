"""The card of published weights, and the files beside them."""

import json

from molkit.training.publishing import Table, keep_training, write_card

CARD = """\
# toy: a card

- One fact.
- A <second> & last one.

## Figures

|  | ours |
|---|---|
| stable, % | 12.0 [1.0, 23.0] |
| valid, % | – |

95 % intervals.

## Sessions

| date |
|---|
| 2026-11-21 |

## Known limits

- Small molecules.
"""


def test_a_card_holds_facts_tables_and_limits_as_markdown(tmp_path):
    tables = [
        Table("Figures", ["", "ours"], [["stable, %", "12.0 [1.0, 23.0]"], ["valid, %", "–"]], "95 % intervals."),
        Table("Sessions", ["date"], [["2026-11-21"]]),
    ]
    facts = ["One fact.", "A <second> & last one."]
    path = write_card(tmp_path, "toy: a card", facts, tables=tables, limits=["Small molecules."])
    assert path.read_text(encoding="utf-8") == CARD


def test_a_card_without_tables_and_limits_is_a_list_of_facts(tmp_path):
    assert write_card(tmp_path, "toy", ["One fact."]).read_text(encoding="utf-8") == "# toy\n\n- One fact.\n"


def test_curve_settings_and_facts_of_a_run_are_kept_beside_the_weights(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "weights"
    run.mkdir()
    for name in ("training.yaml", "provenance.jsonl", "recipe.yaml", "state.bin"):
        (run / name).write_text(name)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(5000)))
    keep_training(run, folder, {"step": 4999}, settings=("training.yaml", "recipe.yaml"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.jsonl",
        "recipe.yaml",
        "training.json",
        "training.yaml",
    ]
    assert json.loads((folder / "training.json").read_text()) == {"step": 4999}
    curve = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(curve) < 5000 and json.loads(curve[-1]) == {"step": 4999}
