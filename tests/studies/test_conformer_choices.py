"""Weights are compared on the same molecules, in pairs."""

from dataclasses import replace

import pytest

from molkit.errors import InvalidInput
from molkit.figures.conformers import choice_tables
from molkit.studies.conformer_choices import choices
from molkit.studies.conformers import ConformerStudy, Row, Setting


def study(energy: str, covered: dict[str, float]) -> ConformerStudy:
    values = {"mat_recall": 0.5, "cov_precision": 1.0, "mat_precision": 0.5, "num_references": 1, "num_generated": 2}
    rest = {"num_failed": 0, "bond_spread": 0.01, "radius_of_gyration": 2.0, "seconds": 0.1}
    rows = [Row(name, "etm", 0, cov_recall=value, **values, **rest) for name, value in covered.items()]
    return ConformerStudy(Setting(weights="w", energy=energy, split="valid"), rows)


def test_changes_are_paired_by_molecule():
    first, second = study("a", {"x": 0.1, "y": 0.9, "z": 0.5}), study("b", {"x": 0.2, "y": 1.0, "z": 0.6})
    baseline, other = choices([first, second], ["old", "new"], "etm", "cov_recall")
    assert (baseline.name, baseline.change) == ("old", None) and baseline.mean.value == pytest.approx(0.5)
    assert other.change.value == pytest.approx(0.1) and other.change.high - other.change.low < 1e-9
    text = choice_tables([first, second], ["old", "new"], ["etm"]).data
    assert "50.0" in text and "10.0" in text and "3 molecules of the valid split" in text


def test_starts_of_the_search_are_compared_by_the_radius_of_gyration():
    first, second = study("a", {"x": 0.1, "y": 0.9}), study("a", {"x": 0.2, "y": 1.0})
    starts = [replace(first, setting=replace(first.setting, start="normal"))]
    starts.append(replace(second, setting=replace(second.setting, start="paths")))
    text = choice_tables(starts, ["old", "new"], ["etm"], what="the search begins with").data
    assert "radius of gyration" in text and "the search begins with" in text and "1 seed." in text


def test_studies_of_other_molecules_or_thresholds_are_not_compared():
    first, second = study("a", {"x": 0.1, "y": 0.9}), study("b", {"x": 0.2, "z": 1.0})
    with pytest.raises(InvalidInput, match="b: measured on other molecules"):
        choices([first, second], ["old", "new"], "etm", "cov_recall")
    third = replace(first, setting=replace(first.setting, threshold=0.7, energy="c"))
    with pytest.raises(InvalidInput, match="c: measured"):
        choices([first, third], ["old", "new"], "etm", "cov_recall")
