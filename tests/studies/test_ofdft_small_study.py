"""The stored study of several compositions and its tables."""

import numpy as np

from molkit.figures import ofdft_small as draw
from molkit.studies import ofdft_small as study


def test_unseen_geometries_meet_the_bar_and_starts_agree():
    """At most 1.59 mHa over at least 50 geometries, MINAO and reference within 0.2 mHa of one another on each."""
    stored = study.stored_study()
    assert len(stored.formulas["test"]) >= 50 and len(set(stored.formulas["test"])) == 10
    assert stored.error("full", "test", "MINAO").value < 1.59
    ends = [stored.errors("full", "test", start) for start in ("MINAO", "reference")]
    assert np.abs(ends[0] - ends[1]).max() < 0.2


def test_weights_are_chosen_by_validation_after_minimisation():
    for run in study.stored_study().runs:
        assert run.chosen == min(run.snapshots, key=lambda entry: entry.error).step


def test_tables_and_figure_hold_both_sets():
    stored = study.stored_study()
    assert "three heavy atoms" in draw.starts_table(stored).data and "not minimised" in draw.arms_table(stored).data
    assert len(draw.errors_figure(stored).axes) == 2 and len(draw.ablation_figure(stored).axes) == 1
