"""Relative energies of ethanol: what the study makes of errors of totals, and its pages."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from molkit.claims.ledger import load_claims
from molkit.claims.verdicts import NOT_COMPARABLE, judge
from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import ofdft_ethanol as draw
from molkit.ofdft.geometries import torsion_points
from molkit.studies import ofdft_ethanol as study
from molkit.studies.ofdft.arms import STARTS
from molkit.studies.ofdft_small import SmallRun, SmallStudy, Snapshot
from molkit.studies.ofdft_water import StartResult
from molkit.units import HARTREE_TO_KCAL

POINTS = 1 + len(torsion_points())


def _result(errors: np.ndarray) -> StartResult:
    values, count = errors.tolist(), len(errors)
    return StartResult(values, values, values, [0.01] * count, [0.0] * count, [10] * count, [True] * count)


def _run(arm: str, seed: int, shift: float) -> SmallRun:
    sets = {"test": np.array([2.0, -1.0, 4.0]) + shift, "torsions": np.arange(POINTS) + shift}
    starts = ("geometry",) if arm.startswith("geometry") else STARTS
    results = {name: {start: _result(errors) for start in starts} for name, errors in sets.items()}
    return SmallRun(arm, seed, (Snapshot(5, 1.0, 1.0), Snapshot(10, 0.5, 1.0)), 10, results, 1.0)


@pytest.fixture
def made() -> study.EthanolStudy:
    runs = (_run("full", 0, 3.0), _run("full", 1, -5.0), _run("geometry", 0, 1.0), _run("30 frames", 0, 0.0))
    sets = {"test": 3, "torsions": POINTS}
    names = {name: ["C2H6O"] * count for name, count in sets.items()}
    found = SmallStudy(runs, names, {name: [9] * count for name, count in sets.items()}, 4, 10, {})
    energies = {"test": [-154.99, -154.98, -154.97], "torsions": [-155.0 + 0.001 * k for k in range(POINTS)]}
    counts = {"full": 120, "geometry": 120, "30 frames": 30}
    curves = {name: {"30": 2.0, "120": 1.0} for name in study.SURFACES}
    surface = {"test": [3.0, 1.0, 1.0], "torsions": [1.0] * POINTS}
    return study.EthanolStudy(found, energies, [-154.985, -154.975], counts, surface, curves)


def test_a_constant_error_is_no_error_of_relative_energies(made):
    """Both trainings miss all totals by a constant of their own, which the geometry at rest takes away."""
    wanted = study.KCAL * np.array([2.0, -1.0, 4.0])
    np.testing.assert_allclose(made.errors("full"), [wanted, wanted], atol=1e-12)
    assert made.error("full").value == pytest.approx(np.abs(wanted).mean())
    assert made.absolute_error("full").value == pytest.approx(study.KCAL * np.mean([14.0 / 3.0, 10.0 / 3.0]))
    np.testing.assert_allclose(made.relative(), HARTREE_TO_KCAL * np.array([0.01, 0.02, 0.03]), atol=1e-9)
    np.testing.assert_allclose(made.surface_errors()[0], study.KCAL * np.array([2.0, 0.0, 0.0]))
    assert made.guess_error().value == pytest.approx(HARTREE_TO_KCAL * (0.01 + 0.0 + 0.01) / 3.0)


def test_a_torsion_curve_is_kohn_sham_plus_the_errors(made):
    degrees, exact = made.curve("methyl")
    same, ours = made.curve("methyl", "geometry")
    np.testing.assert_array_equal(degrees, same)
    assert exact.shape == (1, len(degrees)) and ours.shape == (1, len(degrees))
    rows = [row for row, (name, _) in enumerate(torsion_points(), start=1) if name == "methyl"]
    np.testing.assert_allclose(ours - exact, study.KCAL * np.array([rows], dtype=float))


def test_the_study_is_written_and_read(made, tmp_path):
    study.write_study(made, tmp_path / "a.json")
    again = study.stored_study(tmp_path / "a.json")
    assert again.found.arms == ["full", "geometry", "30 frames"] and again.num_frames["30 frames"] == 30
    np.testing.assert_allclose(again.errors("full"), made.errors("full"))
    with pytest.raises(DataNotFound, match="ofdft-ethanol"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(InvalidInput, match="not a study of ethanol"):
        study.stored_study(tmp_path / "b.json")


def test_pages_are_drawn_of_whatever_arms_there_are(made):
    rows = [SimpleNamespace(functional="APBE", after=1000.0 * k) for k in (1, 3)]
    total, relative = study.classical_errors(rows, "APBE")
    np.testing.assert_allclose(relative, [2000.0 * study.KCAL])
    np.testing.assert_allclose(total, study.KCAL * np.array([1000.0, 3000.0]))
    assert "no density" in draw.ways_table(made, rows).data and "APBE" in draw.ways_table(made, rows).data
    assert "Hückel" in draw.starts_table(made).data
    for figure in (draw.frames_figure(made), draw.torsions_figure(made), draw.learning_figure(made)):
        assert len(figure.axes) == 2


def test_a_wrong_arm_or_geometry_is_one_line(capsys):
    assert run(["study", "ofdft-ethanol", "--arms", "full", "--labels", "x", "--runs", "y", "--out", "z"]) == 2
    assert "as in full:0" in capsys.readouterr().err


def test_the_stored_study_is_whole():
    """A hundred test frames, every start, both curves; the step was chosen by validation."""
    stored = study.stored_study()
    assert len(stored.energies["test"]) == 100 and len(stored.energies["torsions"]) == POINTS
    assert set(STARTS) == set(stored.found.of_arm("full")[0].results["test"])
    for run_ in stored.found.runs:
        assert run_.chosen == min(run_.snapshots, key=lambda entry: entry.error).step


def test_unseen_frames_are_far_better_than_their_mean_and_starts_agree():
    stored = study.stored_study()
    assert stored.error("full").value < 0.5 * stored.guess_error().value
    ends = [stored.found.errors("full", "test", start) for start in ("MINAO", "reference")]
    assert np.abs(ends[0] - ends[1]).max() < 0.2


def test_the_ledger_judges_the_energies_that_lean_on_nobody():
    """The published weights lean on published energies and come to 0.6 kcal/mol, our labels alone to 1.5."""
    stored = study.stored_study()
    (alone,) = study.measurements(stored)
    assert alone.basis == "scaled_down" and 1.2 < alone.interval[0] < alone.value < alone.interval[1] < 1.8
    (leaning,) = study.measurements(stored, arm="full")
    assert leaning.basis == "published_energies" and leaning.value < 1.0
    claims = load_claims(study="mofdft")
    assert (
        judge(claims["mofdft.ethanol.energy"], replace(leaning, profile="fast"), claims=claims).word == NOT_COMPARABLE
    )
