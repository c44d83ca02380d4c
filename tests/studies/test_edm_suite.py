import json

import pytest

from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput
from molkit.studies import edm_suite

RECIPE = """method: edm
model: {{width: 16, num_layers: 1}}
training: {{batch_pairs: 600, total_steps: {steps}, log_every: 1, learning_rate: {rate}}}
"""
PROTOCOL = "num_samples: 4\nnum_calls: 3\nnll_molecules: 4\n"


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    root = tmp_path_factory.mktemp("suites")
    (root / "toy").mkdir()
    (root / "toy" / "plain.yaml").write_text(RECIPE.format(steps=3, rate="1.0e-3"))
    (root / "toy" / "wild.yaml").write_text(RECIPE.format(steps=30, rate="1.0e+30"))
    (root / "toy" / "protocol.yaml").write_text(PROTOCOL)
    (root / "endless").mkdir()
    (root / "endless" / "plain.yaml").write_text(RECIPE.format(steps=0, rate="1.0e-3"))
    return root


@pytest.fixture(scope="module")
def plain(suites, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return edm_suite.run_suite("toy", runs, arms=["plain"], seeds=[5], root=suites)[0], runs


def test_an_arm_is_trained_sampled_and_scored(plain):
    result, _ = plain
    assert (result.arm, result.seed, result.failure, result.steps) == ("plain", 5, "", 3)
    assert 0.0 <= result.atom_stability.low <= result.atom_stability.value <= result.atom_stability.high <= 1.0
    assert result.nll.low <= result.nll.value <= result.nll.high
    assert [passes for passes, _ in result.error][-1] == result.passes
    assert result.cpu_seconds > 0.0


def test_a_finished_arm_is_read_not_repeated(plain, suites, monkeypatch):
    result, runs = plain
    monkeypatch.setattr(edm_suite, "train_recipe", None)
    assert edm_suite.run_suite("toy", runs, arms=["plain"], seeds=[5], root=suites) == [result]


def test_results_are_collected_in_one_file_and_read_back(plain, tmp_path):
    result, runs = plain
    edm_suite.collect("toy", runs, target=tmp_path / "toy.json")
    assert edm_suite.stored_results("toy", folder=tmp_path) == [result]


def test_a_training_that_blows_up_is_a_result_that_says_so(suites, tmp_path):
    result = edm_suite.run_arm("toy", "wild", 0, str(tmp_path), str(suites))
    assert "not finite" in result.failure
    assert result.atom_stability is None and result.nll is None


def test_a_training_that_was_asked_to_stop_is_no_result_and_continues(suites, tmp_path, monkeypatch):
    real = edm_suite.train_recipe
    monkeypatch.setattr(edm_suite, "train_recipe", lambda path, **options: real(path, time_budget=1e-3, **options))
    with pytest.raises(edm_suite.Interrupted, match="run the suite again"):
        edm_suite.run_arm("toy", "plain", 1, str(tmp_path), str(suites))
    assert not edm_suite.result_path(tmp_path, "plain", 1).is_file()
    monkeypatch.setattr(edm_suite, "train_recipe", real)
    assert edm_suite.run_arm("toy", "plain", 1, str(tmp_path), str(suites)).steps == 3


def test_what_a_user_can_get_wrong_ends_in_one_line(suites, tmp_path):
    with pytest.raises(DataNotFound, match="toy"):
        edm_suite.arms_of("nothing", root=suites)
    with pytest.raises(InvalidInput, match="no arm 'odd'; it has plain, wild"):
        edm_suite.run_suite("toy", tmp_path, arms=["odd"], root=suites)
    with pytest.raises(InvalidInput, match="fixes its total_steps"):
        edm_suite.run_arm("endless", "plain", 0, str(tmp_path / "e"), str(suites))
    with pytest.raises(DataNotFound, match="no finished arm"):
        edm_suite.collect("toy", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a_seed0.json").write_text(json.dumps({"arm": "a"}))
    with pytest.raises(InvalidInput, match="not a result of a suite"):
        edm_suite.collect("toy", tmp_path)


def test_the_command_names_a_wrong_seed(tmp_path, capsys):
    assert run(["suite", "run", "ablations", "--out", str(tmp_path), "--seeds", "one"]) == 2
    assert "whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("suite", ["ablations"])
def test_the_shipped_suites_are_complete_recipes(suite):
    for path in edm_suite.arms_of(suite).values():
        assert edm_suite.read_recipe(path).training.total_steps > 0
    assert edm_suite.protocol_of(suite).num_samples > 0
