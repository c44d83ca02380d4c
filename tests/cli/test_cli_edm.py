"""`molkit sample`, `evaluate` and `publish`: what they write, and one line for every mistake."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from molkit.chem.files import read_xyz
from molkit.cli import run
from molkit.data.packed import read_packed
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, load, save

TINY = EdmConfig(width=16, num_layers=1, num_steps=20, schedule_offset=1e-5)


@pytest.fixture()
def weights(tmp_path):
    folder = tmp_path / "run"
    save(build(TINY, seed=1, name="run"), folder)
    return folder


def check_fails(arguments, capsys, *words, code=2):
    """The command ends with `code` and one line on stderr that holds all the words."""
    assert run([str(argument) for argument in arguments]) == code
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    for word in words:
        assert str(word) in last
    return last


def test_sample_writes_the_molecules_asked_for(weights, tmp_path):
    for name in ("a.xyz", "a.npz"):
        assert run(["sample", str(weights), "--count", "3", "--calls", "4", "--out", str(tmp_path / name)]) == 0
    molecules = read_xyz(tmp_path / "a.xyz")
    assert len(molecules) == 3
    assert np.array_equal(molecules[1].atomic_numbers, read_packed(tmp_path / "a.npz")[1].atomic_numbers)


def test_sample_of_one_size_has_that_size(weights, tmp_path):
    out = tmp_path / "a.npz"
    assert run(["sample", str(weights), "--count", "2", "--calls", "3", "--num-atoms", "9", "--out", str(out)]) == 0
    assert read_packed(out).num_atoms.tolist() == [9, 9]


def test_the_help_of_sample_names_the_default_that_is_taken():
    from molkit.cli.edm import sample
    from molkit.edm.samplers import DEFAULT

    texts = {option.name: option.help for option in sample.params if option.name in ("calls", "sampler")}
    assert texts["calls"].endswith(f"default: {DEFAULT.num_calls}.")
    assert f"default: {DEFAULT.sampler}," in texts["sampler"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "a.txt"], (".xyz, .sdf or .npz",)),
        (["--out", "nowhere/a.xyz"], ("nowhere", "does not exist")),
        (["--num-atoms", "28", "--out", "a.xyz"], ("28 atoms", "histogram")),
        (["--device", "cuda", "--out", "a.xyz"], ("no GPU",)),
        (["--calls", "5000", "--out", "a.xyz"], ("network calls", "5000")),
        (["--calls", "many", "--out", "a.xyz"], ("network calls, or all", "'many'")),
        (["--sampler", "rk4", "--out", "a.xyz"], ("sde-2m", "'rk4'")),
    ],
)
def test_sample_refuses_what_it_cannot_do(weights, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_fails(["sample", weights, "--count", "2", *options], capsys, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_weights_are_answered_with_the_names_there_are(tmp_path, capsys):
    check_fails(["sample", "no_such_model", "--out", tmp_path / "a.xyz"], capsys, "no_such_model", "published weights")


def test_weights_of_another_model_are_named(weights, tmp_path, capsys):
    config = weights / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 32"))
    check_fails(["sample", weights, "--out", tmp_path / "a.xyz"], capsys, "weights of another model")


def test_truncated_weights_are_named(weights, tmp_path, capsys):
    path = weights / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    check_fails(["sample", weights, "--out", tmp_path / "a.xyz"], capsys, "weights.safetensors", "safetensors file")


def test_weights_with_nan_are_refused(weights, tmp_path, capsys):
    path = weights / "weights.safetensors"
    tensors = load_file(path)
    tensors["embed.bias"][0] = float("nan")
    save_file(tensors, path)
    check_fails(["sample", weights, "--out", tmp_path / "a.xyz"], capsys, "embed.bias", "not finite")


def test_evaluate_scores_given_samples(weights, tmp_path, capsys):
    out = tmp_path / "a.npz"
    assert run(["sample", str(weights), "--count", "4", "--calls", "3", "--out", str(out)]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(weights), "--samples", str(out), "--nll-molecules", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"]["num_molecules"] == 4
    assert report["nll_nats"]["molecules"] == 3
    assert set(report["nll_nats"]["terms"]) >= {"prior", "diffusion", "positions"}


def test_evaluate_without_samples_says_how_to_get_some(weights, capsys):
    check_fails(["evaluate", weights], capsys, "no stored samples", "molkit sample")


def test_publish_refuses_a_folder_that_is_not_a_run(weights, capsys):
    check_fails(["publish", weights, "copy"], capsys, "training/state.safetensors")


def test_publish_refuses_a_name_with_a_path(weights, capsys):
    check_fails(["publish", weights, "../copy"], capsys, "plain word")


def test_half_precision_keeps_the_network(weights, tmp_path):
    edm = load(weights)
    save(edm, tmp_path / "half", half=True)
    full, half = edm.network.state_dict(), load(tmp_path / "half").network.state_dict()
    assert max(float((full[name] - half[name]).abs().max()) for name in full) < 1e-3


def test_what_can_be_expected_of_samples_is_what_the_stored_ones_were():
    from molkit.cli.edm import known_quality
    from molkit.edm.published import stored_samples
    from molkit.metrics.stability import stability

    share = 100.0 * stability(stored_samples("edm_qm9")).molecule_stable.mean()
    said = known_quality("edm_qm9", 100, "sde-2m", plain=True)
    assert said == f"of 10,000 stored samples of these weights {share:.0f} % are stable by EDM's rule"
    assert "(100 calls, sde-2m); these settings are others" in known_quality("edm_qm9", 20, "sde-2m", plain=True)
    assert "these settings are others" in known_quality("edm_qm9", 100, "sde-2m", plain=False)
