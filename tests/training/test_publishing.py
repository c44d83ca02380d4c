"""The card of published weights, and the files beside them."""

import json

import pytest

from molkit.errors import DataNotFound, InvalidInput
from molkit.training.publishing import CardTable, Publication, publish, write_card

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
        CardTable("Figures", ["", "ours"], [["stable, %", "12.0 [1.0, 23.0]"], ["valid, %", "–"]], "95 % intervals."),
        CardTable("Sessions", ["date"], [["2026-11-21"]]),
    ]
    facts = ["One fact.", "A <second> & last one."]
    path = write_card(tmp_path, "toy: a card", facts, tables=tables, limits=["Small molecules."])
    assert path.read_text(encoding="utf-8") == CARD


def test_a_card_without_tables_and_limits_is_a_list_of_facts(tmp_path):
    assert write_card(tmp_path, "toy", ["One fact."]).read_text(encoding="utf-8") == "# toy\n\n- One fact.\n"


def test_curve_settings_facts_and_samples_of_a_run_are_kept_beside_the_weights(tmp_path):
    run, samples = tmp_path / "run", tmp_path / "drawn.npz"
    run.mkdir()
    samples.write_bytes(b"some")
    for name in ("training.yaml", "recipe.yaml", "provenance.jsonl"):
        (run / name).write_text(name)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(5000)))

    def save(folder):
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"weights")

    about = Publication(
        run=run,
        save=save,
        facts={"step": 4999},
        subject="a toy",
        told=["A fact."],
        kept=("metrics.jsonl", "recipe.yaml"),
    )
    folder = publish(about, "toy", samples=samples, root=tmp_path)
    kept = "card.md metrics.jsonl recipe.yaml samples.npz training.json weights.safetensors"
    assert sorted(path.name for path in folder.iterdir()) == kept.split()
    assert json.loads((folder / "training.json").read_text()) == {"step": 4999}
    curve = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(curve) < 5000 and json.loads(curve[-1]) == {"step": 4999}
    assert (folder / "card.md").read_text() == "# toy: a toy\n\n- A fact.\n"
    with pytest.raises(DataNotFound, match="no such file"):
        publish(about, "other", samples=tmp_path / "absent.npz", root=tmp_path)
    with pytest.raises(InvalidInput, match="plain word"):
        publish(about, "a/b", root=tmp_path)
    assert not (tmp_path / "other").exists()
