"""`molkit bench edm`: one small measurement, and bad input."""

import json
import sys

import pytest

from benchmarks import launch
from molkit.cli import run
from molkit.errors import CalculationFailed

SMALL = ["bench", "edm", "--width", "16", "--layers", "1", "--molecules", "3", "--rounds", "1"]


def test_a_capped_measurement_runs_in_a_process_of_its_own(tmp_path, capfd):
    out = tmp_path / "speed.json"
    assert run([*SMALL, "--isa", "avx2", "--out", str(out)]) == 0
    printed, progress = capfd.readouterr()
    report = json.loads(out.read_text())
    assert json.loads(printed) == report
    assert report["request"]["isa"] == "avx2" and report["machine"]["caps"]["ATEN_CPU_CAPABILITY"] == "avx2"
    assert report["machine"]["threads"] == 1
    assert "round 1 of 1 done" in progress and "Traceback" not in progress
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "0"], "0 is not in the range"),
        (["--rounds", "many"], "'many' is not a valid whole number"),
        (["--isa", "sse2"], "'sse2' is not one of"),
        (["--device", "tpu"], "'tpu' is not one of"),
        (["--isa", "avx2", "--device", "cuda"], "leave it out with --device cuda"),
    ],
)
def test_bad_options_end_in_one_line_and_exit_code_2(options, message, capfd):
    assert run(["bench", "edm", *options]) == 2
    out, error = capfd.readouterr()
    assert message in error and "Traceback" not in error
    assert out == ""


def test_a_missing_folder_is_named_before_anything_is_measured(tmp_path, capfd):
    assert run([*SMALL, "--out", str(tmp_path / "no" / "speed.json")]) == 2
    assert capfd.readouterr().err.strip().endswith("no does not exist")
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_named_and_nothing_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MOLKIT_DATA", str(tmp_path / "nothing"))
    assert run([*SMALL, "--out", str(tmp_path / "speed.json")]) == 2
    assert "qm9.npz is missing" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_its_benchmarks_says_where_to_run(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    assert run(SMALL) == 2
    assert "run this from a checkout installed by `pip install -e .`" in capfd.readouterr().err


def test_a_measurement_that_dies_is_an_error_of_ours():
    with pytest.raises(CalculationFailed, match=r"stopped \(exit code 1\): .*No module named benchmarks.nowhere"):
        launch.run("benchmarks.nowhere", {}, isa="auto", report=lambda line: None)
