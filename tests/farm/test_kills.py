"""Commands killed at random moments and started again end with what the undisturbed command makes.

Slow: `pytest -m slow tests/farm/test_kills.py`; MOLKIT_KILLS sets how often each command is killed (30).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from molkit.data.registry import load_arrays

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("MOLKIT_KILLS", "30"))
TIMING = {"rate", "seconds"}
FEW = "O CO CCO CC=O C1CC1 CCN N#CC CC(C)O"
SAMPLE = "sample edm_qm9 --count 220 --calls 12 --workers 2 --keep {0}/keep --out {0}/out.npz"
COMMANDS = {
    "sample": SAMPLE,
    "sample here": SAMPLE.replace("--workers 2 ", ""),
    "conformers": f"conformers {FEW} -n 4 --workers 2 --keep {{0}}/keep --out {{0}}/out.sdf",
    "relax": "relax {1}/in.xyz --workers 2 --copies 4 --keep {0}/keep --out {0}/out.xyz",
    "pipeline": "pipeline --count 5 --sizes 3-5 --calls 20 --conformers 2 --workers 2 --out {0}",
    "labels": "labels water --count 5 --frozen 2 --workers 2 --out {0}/labels",
    "train": "train {1}/recipe.yaml --out {0}/run --limit 300 --device cpu --quiet",
}


def molkit(text: str, folder: Path, given: Path) -> subprocess.Popen:
    """The command, started."""
    words = [part.format(folder, given) for part in text.split()]
    if words[0] == "train" and (folder / "run" / "training" / "state.safetensors").is_file():
        words.append("--resume")
    return subprocess.Popen(
        [sys.executable, "-m", "molkit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def made(folder: Path) -> dict[str, object]:
    """What a command made: files by their bytes, except what tells how long something took."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.glob("*.[xsn][ydp][zf]")}
    for path in folder.glob("labels/results/*.npz"):
        found[path.name] = {name: values.tobytes() for name, values in load_arrays(path).items()}
    run = folder / "run"
    if run.is_dir():
        found["weights"] = (run / "weights.safetensors").read_bytes()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found["rows"] = [{name: value for name, value in row.items() if name not in TIMING} for row in rows]
    return found


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Its workers; none where it is gone."""
    try:
        children = psutil.Process(process.pid).children()
        return [one for one in children if any("spawn_main" in word for word in one.cmdline())]
    except psutil.Error:
        return []


def disturb(process: subprocess.Popen, kind: str) -> list[psutil.Process]:
    """Kill the command, ask it to end, or kill one or all of its workers; returns the workers it had."""
    workers = workers_of(process)
    if kind in ("kill", "term"):
        process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    for worker in workers[: {"worker": 1, "workers": 9}.get(kind, 0)]:
        worker.kill()
    return workers


def ended_as_it_should(process: subprocess.Popen, kind: str, workers: list[psutil.Process]) -> bool:
    """Whether the command was finished in spite of all; checks what it said otherwise, and that no worker is left."""
    told, said = process.communicate(timeout=600)
    if process.returncode in (0, 3):
        return "stopped, continue with --resume" not in told
    if kind in ("kill", "term"):
        assert psutil.wait_procs(workers, timeout=5)[1] == []
    assert process.returncode in (-9, -15, 130), said
    assert "leaked" not in said and "Traceback" not in said
    if process.returncode == 130:
        assert said.strip().splitlines()[-1].startswith("molkit: interrupted")
    return False


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Input files of the commands."""
    folder = tmp_path_factory.mktemp("given")
    assert molkit("sample edm_qm9 --count 70 --calls 12 --out {0}/in.xyz", folder, folder).wait() == 0
    training = {"batch_pairs": 3000, "total_steps": 60, "log_every": 7, "checkpoint_seconds": 0.5}
    training |= {"precision": "float32", "snapshot_from": 0}
    model = {"width": 16, "num_layers": 2}
    recipe = {"method": "edm", "data": {"name": "qm9", "split": "train"}, "model": model, "training": training}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_moments_ends_with_the_undisturbed_result(tmp_path, given, name):
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    undisturbed = molkit(COMMANDS[name], tmp_path / "whole", given)
    _, said = undisturbed.communicate()
    seconds, wanted = time.monotonic() - began, made(tmp_path / "whole")
    assert undisturbed.returncode in (0, 3) and wanted, said
    chance, rounds, kinds = random.Random(name), 0, ["kill", "term"]
    kinds += ["worker", "workers"] if "--workers" in COMMANDS[name] else []
    for number in range(KILLS + 1):
        folder = tmp_path / f"round_{rounds}"
        folder.mkdir(exist_ok=True)
        process, workers, kind = molkit(COMMANDS[name], folder, given), [], kinds[number % len(kinds)]
        if number < KILLS:
            time.sleep(chance.uniform(0.1, 1.0) * seconds)
            workers = disturb(process, kind)
        if ended_as_it_should(process, kind, workers):
            assert made(folder) == wanted
            rounds += 1
    assert rounds >= 1
