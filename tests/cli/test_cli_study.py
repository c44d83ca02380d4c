"""`molkit study`: what it writes, and one line for every mistake."""

import json

from molkit.cli import run


def test_fewer_steps_writes_the_arms_asked_for(tmp_path, monkeypatch, capsys):
    from molkit.studies import edm_fewer_steps

    monkeypatch.setattr(edm_fewer_steps, "CALLS", (4,))
    monkeypatch.setattr(edm_fewer_steps, "REFINED", ())
    options = ["--full", "0", "--best", "0", "--curve", "60", "--samplers", "sde-2m, ddim", "--seed", "3000"]
    assert run(["study", "fewer-steps", "edm_qm9", *options, "--out", str(tmp_path / "a.json")]) == 0
    arms = json.loads((tmp_path / "a.json").read_text())["arms"]
    assert [(arm["sampler"], arm["calls"], arm["requested"]) for arm in arms] == [("sde-2m", 4, 60), ("ddim", 4, 60)]
    assert "sde-2m, 4 calls, n 60" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys):
    out = str(tmp_path / "a.json")
    for options, words in (
        (["edm_qm9", "--samplers", "rk4"], "sampler must be one of"),
        (["edm_qm9", "--full", "0", "--best", "0", "--curve", "0"], "nothing to draw"),
        (["no_such_model"], "no_such_model"),
    ):
        assert run(["study", "fewer-steps", *options, "--out", out]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "a.json").exists()
