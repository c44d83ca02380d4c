"""The screen that a user pastes into an issue: it tells the truth about what is wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from molkit import doctor
from molkit.cli import run


def lines_of(found):
    return {line.name: line for line in found}


def test_the_screen_names_versions_machine_and_state(capsys):
    assert run(["doctor", "--quick"]) == 0
    screen = capsys.readouterr().out
    for word in ("molkit", "python", "torch", "processor", "engine", "disk", "memory", "cc"):
        assert word in screen
    assert len(screen.splitlines()) < 25 and max(map(len, screen.splitlines())) < 200


def test_a_missing_and_another_version_of_a_package_are_told_apart(tmp_path):
    pins = tmp_path / "requirements.txt"
    pins.write_text("numpy==0.0.1\nno-such-package==1.0\ntorch==" + torch.__version__.partition("+")[0] + "\n-e .\n")
    found = lines_of(doctor.packages(pins))
    assert found["packages"].ok is False and "2 of 3" in found["packages"].found
    assert found["missing"].ok is False and found["missing"].found.startswith("no-such-package")
    assert "numpy" in found["other"].found and "torch" not in found["other"].found and found["other"].ok is None


def test_outside_a_clone_the_screen_says_what_is_missing(tmp_path, monkeypatch, capsys):
    from molkit.data import registry
    from molkit.edm import model

    monkeypatch.setattr(doctor.packages, "__defaults__", (tmp_path / "requirements.txt",))
    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path / "sets")
    monkeypatch.setattr(model, "WEIGHTS_ROOT", tmp_path / "weights")
    assert run(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert f"{tmp_path} is no clone of molkit" in out and "no published weights there" in out
    assert "torch" in out and "need attention" in err and "internal" not in err


@pytest.mark.parametrize("content", [b"torn", None])
def test_damaged_weights_need_attention(content, tmp_path, monkeypatch, capsys):
    path = tmp_path / "model" / "weights.safetensors"
    path.parent.mkdir()
    if content is None:
        save_file({"x": torch.tensor([float("nan")])}, path)
    else:
        path.write_bytes(content)
    monkeypatch.setattr("molkit.edm.model.WEIGHTS_ROOT", tmp_path)
    monkeypatch.setattr("molkit.data.registry.DATA_ROOT", Path("/nowhere"))
    assert run(["doctor"]) == 2
    out, error = capsys.readouterr()
    wrong = [line for line in out.splitlines() if line.startswith("!")]
    assert [line.split()[1] for line in wrong] == ["data", "weights"]
    assert "2 of these need attention" in error
