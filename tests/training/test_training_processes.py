"""Training in processes of its own: two at once, killed ones, and on an image that has next to nothing installed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from training_toys import TINY_YAML, contents, metrics

from molkit.data.qm9 import load_qm9
from molkit.edm.training import train_recipe
from molkit.training.batches import PairBatches
from molkit.training.run_folder import load_state

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
CURVE_YAML = "method: edm\nmodel: {width: 16, num_layers: 2}\ntraining: {batch_pairs: %d, log_every: 2, "
CURVE_YAML += "learning_rate: 3.0e-3, warmup_steps: 10, snapshot_from: 0}\n"
TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

CURVE_STEPS = 240
CURVE_TOLERANCE = 0.05  # of the error averaged over the last half; another seed stays within it as well
# Every process trains several times and writes down what its own weights are: three steps; for some seconds by the
# clock, where the second process's clock runs ahead of the first's; three steps of Muon with self-conditioning; the
# continuation of a run of one process; and a whole curve with half of the batch in each.
ON_EACH_PROCESS = """
import hashlib, sys
from pathlib import Path
from molkit.edm.training import train_recipe
from molkit.training import loop, run_folder

folder, seen = Path(sys.argv[1]), []
class Spy(loop.Trainer):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        seen.append(self)
loop.Trainer = Spy
plain = run_folder.Session.__init__
def ahead(self, trainer, *arguments, **options):
    plain(self, trainer, *arguments, **options)
    self.started -= 0.3 * trainer.fabric.global_rank
run_folder.Session.__init__ = ahead

common = {"limit": 60, "device": "cpu", "progress_bar": False}
runs = (("steps", "tiny", {"total_steps": 3}), ("clock", "tiny", {"time_budget": 2.5}))
runs += (("one", "tiny", {"total_steps": 5, "resume": True}),)
for name, recipe, options in (*runs, ("curve", "half", {"total_steps": int(sys.argv[2])})):
    result = train_recipe(folder / f"{recipe}.yaml", out=folder / name, **common, **options)
    trainer = seen[-1]
    digest = hashlib.sha256()
    for key, value in sorted(trainer.tensors().items()):
        digest.update(key.encode() + value.detach().numpy().tobytes())
    line = f"{trainer.fabric.world_size} {result.step} {result.total_steps} {result.passes} {digest.hexdigest()}"
    (folder / f"{name}.{trainer.fabric.global_rank}").write_text(line)
"""

BLOCKED = (
    *(
        "rdkit",
        "pyscf",
        "papermill",
        "ase",
        "matplotlib",
        "pandas",
        "sklearn",
        "scipy",
        "nbformat",
        "nbclient",
        "IPython",
    ),
    *("py3Dmol", "tblite", "geometric", "torchdiffeq", "posebusters", "hypothesis", "jupyter_book"),
)
ON_A_BARE_IMAGE = """
import sys
blocked = set(sys.argv.pop(1).split(","))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from molkit.cli import run
code = run(sys.argv[1:])
assert not blocked & set(sys.modules), blocked & set(sys.modules)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A folder in which two processes trained together, several times."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "tiny.yaml").write_text(TINY_YAML % "total_steps: 0")
    (folder / "half.yaml").write_text(CURVE_YAML % 300)
    (folder / "each.py").write_text(ON_EACH_PROCESS)
    alone = {"limit": 60, "device": "cpu", "progress_bar": False}
    train_recipe(folder / "tiny.yaml", out=folder / "one", total_steps=3, **alone)
    done = subprocess.run(
        [*TWO_PROCESSES, str(folder / "each.py"), str(folder), str(CURVE_STEPS)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_two_processes_end_with_identical_weights_and_averages(two_processes):
    for name in ("steps", "clock"):
        first, second = ((two_processes / f"{name}.{rank}").read_text() for rank in (0, 1))
        assert first == second and first.startswith("2 ")


def test_a_checkpoint_of_one_process_is_continued_by_two(two_processes):
    first, second = ((two_processes / f"one.{rank}").read_text() for rank in (0, 1))
    assert first == second and first.split()[:2] == ["2", "5"]
    lines = (two_processes / "one" / "provenance.jsonl").read_text().splitlines()
    assert [json.loads(line)["processes"] for line in lines] == [1, 2]


def test_two_processes_learn_like_one_with_the_combined_batch(two_processes, tmp_path):
    (tmp_path / "whole.yaml").write_text(CURVE_YAML % 600)
    for seed in (0, 1):
        options = {"seed": seed, "limit": 60, "device": "cpu", "progress_bar": False, "total_steps": CURVE_STEPS}
        train_recipe(tmp_path / "whole.yaml", out=tmp_path / str(seed), **options)
    pair, one, other = (late_error(folder) for folder in (two_processes / "curve", tmp_path / "0", tmp_path / "1"))
    start = metrics(tmp_path / "0")[0]["noise_error"]
    assert abs(other / one - 1.0) < CURVE_TOLERANCE and one < 0.6 * start, "the curve says something"
    assert abs(pair / one - 1.0) < CURVE_TOLERANCE


def late_error(folder):
    """Error of the noise averaged over the last half of a curve."""
    lines = [line["noise_error"] for line in metrics(folder) if line["step"] > CURVE_STEPS // 2]
    return sum(lines) / len(lines)


def test_two_processes_share_the_molecules(two_processes):
    """Three steps take the first six batches of the epoch, three each."""
    batches = PairBatches(torch.from_numpy(load_qm9(split="train", limit=60).num_atoms), 600, seed=0).epoch(0)
    numbers = load_state(two_processes / "steps")[1]
    assert (numbers["epoch"], numbers["batch"]) == (0, 6)
    assert numbers["passes"] == sum(len(rows) for rows in batches[:6])
    assert int((two_processes / "steps.1").read_text().split()[3]) == numbers["passes"]


def test_two_processes_whose_clocks_differ_agree_on_the_end(two_processes):
    _, step, total, *_ = (two_processes / "clock.0").read_text().split()
    assert int(step) > 0 and int(total) > 0
    assert load_state(two_processes / "clock")[1]["total_steps"] == int(total)


def test_a_checkpoint_of_two_processes_is_continued_by_one(two_processes):
    out = two_processes / "steps"
    before, passes = load_state(out)[0], load_state(out)[1]["passes"]
    result = train_recipe(
        two_processes / "tiny.yaml", out=out, limit=60, device="cpu", resume=True, total_steps=5, progress_bar=False
    )
    assert result.finished and result.step == 5 and result.passes > passes
    after = load_state(out)[0]
    assert before.keys() == after.keys()
    assert not torch.equal(before["raw.embed.weight"], after["raw.embed.weight"])
    assert [json.loads(line)["processes"] for line in (out / "provenance.jsonl").read_text().splitlines()] == [2, 1]


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "the process ended or never came that far"
        time.sleep(0.05)


def start_training(tmp_path, settings: str) -> subprocess.Popen:
    (tmp_path / "tiny.yaml").write_text(TINY_YAML % settings)
    command = [sys.executable, "-m", "molkit", "train", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run")]
    command += ["--limit", "60", "--device", "cpu", "--quiet"]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_saves_and_stops_and_a_kill_leaves_a_sound_folder(tmp_path):
    run = tmp_path / "run"
    process = start_training(tmp_path, "total_steps: 1000000")
    wait_for(lambda: (run / "metrics.jsonl").is_file(), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith(f"{run}: stopped, continue with --resume at step ") and out.count("\n") == 1
    assert err == "SIGTERM: saving and stopping\n"
    stopped = load_state(run)[1]["step"]
    assert metrics(run)[-1]["step"] in (stopped, stopped - 1)

    process = subprocess.Popen([*process.args, "--resume"], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    wait_for(lambda: metrics(run)[-1]["step"] > stopped + 3, process)
    process.kill()
    process.wait()
    assert load_state(run)[1]["step"] == stopped  # the checkpoint of before
    result = train_recipe(
        tmp_path / "tiny.yaml",
        out=run,
        limit=60,
        device="cpu",
        resume=True,
        total_steps=stopped + 2,
        progress_bar=False,
    )
    assert result.step == stopped + 2
    steps = [line["step"] for line in metrics(run)]
    assert steps == sorted(set(steps)) and steps[-1] <= stopped + 2


def test_the_training_path_runs_where_chemistry_and_notebooks_are_not_installed(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY_YAML % "total_steps: 4")
    (tmp_path / "bare.py").write_text(ON_A_BARE_IMAGE)
    command = [sys.executable, str(tmp_path / "bare.py"), ",".join(BLOCKED), "train", str(tmp_path / "tiny.yaml")]
    command += ["--out", str(tmp_path / "run"), "--limit", "40", "--device", "cpu"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "finished at step 4 of 4" in done.stdout
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 4]
    assert {"weights.safetensors", "training/state.safetensors"} <= set(contents(tmp_path / "run"))
