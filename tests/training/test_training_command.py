"""`molkit train`: what it prints, and how every mistake ends: exit code 2, one line, nothing half-written."""

import json
from importlib import import_module

import pytest
import torch
from training_toys import TINY_YAML, contents, metrics

from molkit.cli import run
from molkit.cli.train import LEARNERS, TOLD
from molkit.data import registry
from molkit.edm.model import load
from molkit.training.files import locked
from molkit.training.run_folder import STATE


@pytest.fixture
def recipe(tmp_path):
    """A recipe of a tiny model, three steps long."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_YAML % "total_steps: 3")
    return path


def train(recipe, out, *options: str) -> int:
    return run(["train", str(recipe), "--out", str(out), "--limit", "20", "--device", "cpu", "--quiet", *options])


def error_line(capsys) -> str:
    """What went to stderr: one line that starts with the program's name."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("molkit: ") and err.count("\n") == 1, (out, err)
    return err


def test_a_run_is_trained_and_reported_in_one_line(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'run'}: finished at step 3 of 3, ") and out.count("\n") == 1
    assert load(tmp_path / "run").config.width == 16
    assert len(metrics(tmp_path / "run")) == 1
    names = {name.split("/")[0] for name in contents(tmp_path / "run")}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "provenance.jsonl", "training", "training.yaml",
                     "weights.safetensors"}  # fmt: skip


def test_a_run_is_continued_to_a_later_end(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run") == 0
    assert train(recipe, tmp_path / "run", "--resume", "--total-steps", "5") == 0
    assert "finished at step 5 of 5" in capsys.readouterr().out
    sessions = (tmp_path / "run/provenance.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in sessions] == [0, 3]


def test_a_finished_run_says_its_loss_and_a_run_that_is_not_there_is_not_continued(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run", "--resume") == 2 and not (tmp_path / "run").exists()
    assert "no checkpoint to continue there; leave out --resume" in error_line(capsys)
    assert train(recipe, tmp_path / "run") == 0
    first = capsys.readouterr().out.split("loss")[1]
    assert train(recipe, tmp_path / "run", "--resume") == 0
    assert capsys.readouterr().out.split("loss")[1] == first != " nan\n"


def test_a_new_run_begins_with_given_weights_and_says_so(recipe, tmp_path):
    assert train(recipe, tmp_path / "first") == 0
    assert train(recipe, tmp_path / "second", "--from", str(tmp_path / "first"), "--total-steps", "1") == 0
    first, second = (load(tmp_path / name, fast=False).network.state_dict() for name in ("first", "second"))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-3
    record = json.loads((tmp_path / "second/provenance.jsonl").read_text().splitlines()[0])
    assert record["started_from"] == "first"


def test_weights_of_another_model_are_refused_as_a_start(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run", "--from", "edm_qm9") == 2
    assert "another model" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_recipes_that_come_with_the_package_are_found_by_name(capsys, tmp_path):
    from molkit.edm.training import RECIPES, read_recipe

    recipes = [path for path in sorted(RECIPES.glob("*.yaml")) if "\nmethod: edm\n" in f"\n{path.read_text()}"]
    assert len(recipes) >= 4
    for path in recipes:
        assert read_recipe(path) == read_recipe(path.with_suffix("").relative_to(RECIPES))


BAD_RECIPES = {
    "unknown section": ("method: edm\ntrainer: {}\n", "unknown section 'trainer'; known are method, data"),
    "unknown key": (TINY_YAML % "learning_rat: 1.0", "tiny.yaml: training: unknown key 'learning_rat'; known keys"),
    "unknown model key": ("method: edm\nmodel: {depth: 3}\n", "tiny.yaml: model: unknown key 'depth'"),
    "wrong type": (TINY_YAML % "learning_rate: fast", "learning_rate must be float, got 'fast'"),
    "exponent": (TINY_YAML % "learning_rate: 1e-3", "exponents only after a point: 1.0e-3"),
    "impossible value": (TINY_YAML % "ema_decay: 2.0", "ema_decay must lie between 0 and 1, got 2.0"),
    "drowned features": ("method: edm\nmodel: {width: 16, scale_types: 90.0}\n", "feature scale 90 is too large"),
    "no method": ("model: {width: 16}\n", "method must be edm, got None"),
    "another method": ("method: flow\n", "method must be edm, got 'flow'"),
    "no table": ("- edm\n", "expected a table of keys and values, got list"),
    "a section that is no table": ("method: edm\nmodel: [1]\n", "expected a table of keys and values, got list"),
    "not YAML": ("method: [edm\n", "not readable as YAML"),
    "too few elements": ("method: edm\nmodel: {width: 16, elements: [1, 6]}\n", "places the elements with Z in (1, 6)"),
    "unknown data": ("method: edm\ndata: {name: zinc}\n", "name must be one of qm9, drug_size, geom_drugs, got 'zinc'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_a_bad_recipe_is_named_before_anything_is_written(text, message, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(text)
    assert train(tmp_path / "tiny.yaml", tmp_path / "run") == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there_is_named(tmp_path, capsys):
    assert train(tmp_path / "none.yaml", tmp_path / "run") == 2
    assert "none.yaml: no such file" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run") == 0
    before = contents(tmp_path / "run")
    capsys.readouterr()
    assert train(recipe, tmp_path / "run") == 2
    assert "already holds a run; continue it with --resume" in error_line(capsys)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("width: 16", "width: 32"), "trains another model (width is 16, the recipe says 32)"),
        (("width: 16", "width: 16, norm_constant: 0.0"), "(norm_constant is 1.0, the recipe says 0.0)"),
    ],
)
def test_a_run_of_another_model_is_not_continued(recipe, tmp_path, capsys, change, message):
    """Also where all tensors would fit."""
    assert train(recipe, tmp_path / "run") == 0
    before = contents(tmp_path / "run")
    recipe.write_text(recipe.read_text().replace(*change))
    capsys.readouterr()
    assert train(recipe, tmp_path / "run", "--resume") == 2
    assert message in error_line(capsys)
    assert contents(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_named(recipe, tmp_path, capsys):
    assert train(recipe, tmp_path / "run") == 0
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:500])
    capsys.readouterr()
    assert train(recipe, tmp_path / "run", "--resume") == 2
    assert f"{state}: the checkpoint is damaged" in error_line(capsys)


def test_a_folder_in_use_is_refused(recipe, tmp_path, capsys):
    with locked(tmp_path / "run"):
        assert train(recipe, tmp_path / "run") == 2
    assert "another process is using this run folder" in error_line(capsys)
    assert list(contents(tmp_path / "run")) == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert train(recipe, tmp_path / "file" / "run") == 2
    assert "is no folder" in error_line(capsys)
    assert (tmp_path / "file").read_text() == "no folder"


def test_missing_data_are_named(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path / "nowhere")
    assert train(recipe, tmp_path / "run") == 2
    error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(recipe, tmp_path, capsys):
    assert run(["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cuda"]) == 2
    assert "sees no GPU here; use --device cpu" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_step_that_is_not_finite_ends_in_one_line(recipe, tmp_path, capsys):
    """A rate of 1e30 throws the weights off the finite numbers within a few steps."""
    recipe.write_text(TINY_YAML % "learning_rate: 1.0e+30, warmup_steps: 0, total_steps: 50, clip: none")
    assert train(recipe, tmp_path / "run") == 2
    message = error_line(capsys)
    assert "are not finite" in message and "nothing was saved yet" in message
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "options",
    [("--time-budget", "0"), ("--total-steps", "-1"), ("--limit", "0"), ("--threads", "x"), ("--frobnicate",)],
)
def test_bad_options_are_refused(recipe, tmp_path, capsys, options):
    assert run(["train", str(recipe), "--out", str(tmp_path / "run"), *options]) == 2
    assert options[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "left_out"),
    [
        ("cgcf", "--device cuda"),
        ("etm", "--from, --device cuda"),
        ("property", "--limit, --from, --device cuda"),
        ("ofdft_compact", "--limit, --from, --device cuda"),
        ("ofdft_attention", "--limit, --from, --device cuda"),
    ],
)
def test_options_that_a_method_does_not_take_are_named_before_anything_is_read(method, left_out, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(f"method: {method}\n")
    options = ["--limit", "5", "--from", "nothing", "--device", "cuda"]
    assert run(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), *options]) == 2
    assert capsys.readouterr().err.endswith(f": leave out {left_out}\n") and not (tmp_path / "run").exists()


def test_every_method_names_functions_that_exist():
    named = [(module, name) for module, *names, _, _ in LEARNERS.values() for name in names if name]
    missing = [one for one in [*named, *TOLD.values()] if not callable(getattr(import_module(one[0]), one[1], None))]
    assert missing == []
