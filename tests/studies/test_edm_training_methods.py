"""The page on training methods: its recipes, its table and what it may conclude."""

from dataclasses import replace

import pytest

from molkit.cli import run
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.model import Edm, build
from molkit.edm.recipes import read_recipe
from molkit.errors import DataNotFound
from molkit.metrics.statistics import Interval
from molkit.studies import edm_training_methods as study
from molkit.studies.edm_suite import SUITES, ArmResult, arms_of

RECIPES = {arm: read_recipe(path) for arm, path in arms_of(study.SUITE).items()}


def result(arm: str, seed: int, *, atoms: float = 0.7, nll: float | None = -10.0, failure: str = "") -> ArmResult:
    """What a training of an arm left behind, with intervals of one point and one nat on either side."""
    share = None if failure else Interval(atoms, atoms - 0.01, atoms + 0.01)
    bound = None if failure or nll is None else Interval(nll, nll - 1.0, nll + 1.0)
    return ArmResult(study.SUITE, arm, seed, failure, 75_000, 3000, 1, 80.0 + seed, 90.0, (), 1000, 0,
                     share, share, share, share, bound, {})  # fmt: skip


def test_every_arm_has_a_title_and_a_recipe():
    assert set(RECIPES) == set(study.TITLES)


def test_arms_differ_from_the_plain_recipe_only_where_they_say_so():
    """Apart from the number of steps, which makes their CPU time equal."""
    plain = RECIPES[study.PLAIN]
    changes = {
        "plain": ({}, {}),
        "low_noise": ({}, {"step_power": 2.0}),
        "self_conditioning": ({"self_conditioning": True}, {}),
        "muon": ({}, {"optimiser": "muon", "learning_rate": RECIPES["muon"].training.learning_rate}),
        "flow": ({"process": "flow"}, {}),
    }
    for arm, (model, training) in changes.items():
        steps = {"total_steps": RECIPES[arm].training.total_steps}
        assert RECIPES[arm].model == replace(plain.model, **model)
        assert RECIPES[arm].training == replace(plain.training, **training, **steps)
        assert RECIPES[arm].data == plain.data


def test_the_plain_recipe_is_that_of_the_ablations_but_for_its_length_and_learning_rate():
    other = read_recipe(SUITES / "ablations" / "egnn.yaml")
    plain = RECIPES[study.PLAIN]
    assert plain.model == other.model
    own = {"total_steps": plain.training.total_steps, "learning_rate": plain.training.learning_rate}
    assert plain.training == replace(other.training, **own)


def test_rows_hold_means_over_trainings_and_differences_to_the_plain_recipe():
    results = [result("plain", seed, atoms=0.70 + 0.001 * seed) for seed in range(3)]
    results += [result("muon", seed, atoms=0.80, nll=-20.0) for seed in range(3)]
    results += [result("flow", 0, nll=None), result("flow", 1, nll=None), result("flow", 2, failure="loss not finite")]
    results += [result("low_noise", 0, atoms=0.9)]
    plain, low_noise, muon, flow = study.rows(results)
    assert plain.arm == "plain" and plain.gain is None
    assert plain.atom_stability.value == pytest.approx(0.701)
    assert muon.gain.value == pytest.approx(0.099)
    assert muon.nll_gain.value == pytest.approx(-10.0)
    assert (flow.trainings, flow.failed, flow.nll, len(flow.atoms)) == (3, 1, None, 2)
    assert low_noise.gain is None
    words = study.conclusions([plain, muon, flow])
    assert words[0].startswith("Muon: more stable atoms (+9.9 points") and "a better bound" in words[0]
    assert words[1].startswith("flow matching: no difference in stable atoms is shown")
    assert "nothing is concluded of the bound" in words[1]
    assert "nothing is concluded in stable atoms" in study.conclusions([low_noise])[0]


def test_without_the_plain_recipe_there_is_nothing_to_compare_with():
    with pytest.raises(DataNotFound, match="no training of the arm plain"):
        study.rows([result("muon", 0)])


def test_an_interval_that_holds_zero_shows_no_difference():
    words = ("more", "fewer")
    assert study.difference_in_words(Interval(1.0, -0.5, 2.5), "points", words, "x") == (
        "no difference x is shown (+1.0 points, \u22120.5 to +2.5)"
    )
    assert study.difference_in_words(Interval(-2.0, -3.0, -1.0), "points", words, "x").startswith("fewer")


@pytest.mark.parametrize("changes", [{}, {"self_conditioning": True}, {"process": "flow"}])
def test_the_validation_error_is_the_same_in_any_batching_of_one_molecule_each(changes):
    edm = build(EdmConfig(width=16, num_layers=1, **changes))
    valid = load_qm9(split="valid", limit=6)
    assert isinstance(edm, Edm)
    first = study.validation_error(edm, valid)
    assert first == study.validation_error(edm, valid) > 0.1


def test_a_race_reports_every_arm_at_every_point():
    curves = study.race(
        ["plain", "self_conditioning", "muon"],
        steps=6, points=3, width=16, num_layers=1, num_train=200, num_valid=20,
    )  # fmt: skip
    assert [curve.arm for curve in curves] == ["plain", "self_conditioning", "muon"]
    for curve in curves:
        assert len(curve.seconds) == len(curve.error) == 3
        assert list(curve.seconds) == sorted(curve.seconds)


def test_costs_are_relative_to_the_first_arm():
    first, second = study.costs(["plain", "flow"], steps=1, rounds=1, limit=200)
    assert first.ratio == 1.0 and second.milliseconds > 0.0


def test_trials_are_written_and_read_back(tmp_path):
    trials = [
        study.Trial("plain", 1e-3, 800, study.TRIAL_SEED, 0.27, 500.0),
        study.Trial("flow", 1e-3, 1, 1, 1.0, None),
    ]
    study.write_trials(trials, tmp_path / "trials.json")
    assert study.stored_trials(tmp_path / "trials.json") == trials
    with pytest.raises(DataNotFound, match="molkit study learning-rates"):
        study.stored_trials(tmp_path / "none.json")


def test_the_command_refuses_what_is_no_trial(capsys, tmp_path):
    assert (
        run(["study", "learning-rates", "plain=fast", "--runs", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    )
    assert "expected ARM=RATE" in capsys.readouterr().err
