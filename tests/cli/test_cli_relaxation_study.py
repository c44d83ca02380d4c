"""Mistakes in the commands behind the relaxation chapters end in one line and exit code 2."""

import pytest

from molkit.cli import run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dft_warm_start", "--weights", "nowhere", "--store", "k"], "published weights"),
        (["learning_order", "--models", "nowhere", "--store", "k"], "published weights"),
        (["two_phases", "--chains", "0", "--store", "k"], "at least one chain"),
        (["boltzmann", "--thin", "0", "--store", "k"], "at least 0, got"),
        (["dft_warm_start", "--heavy", "3", "--counts", "0", "--store", "k"], "asked for 0"),
    ],
)
def test_a_mistake_is_named(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["study", *arguments]) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("o.*"))
