"""The training loop on one process: resuming, averaging, stopping, and what a failure leaves behind."""

import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from training_toys import TINY, contents, metrics, random_molecules, run, same_state, settings, weights

from molkit.edm.config import EdmConfig
from molkit.edm.model import build, load
from molkit.edm.training import EdmTask, settled
from molkit.errors import InvalidInput, RunError
from molkit.rng import generator_from
from molkit.training import run_folder
from molkit.training.files import locked, queued
from molkit.training.loop import make_fabric, train
from molkit.training.run_folder import STATE, load_state, stored_precision


class Killed(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def stop_at(step: int):
    """SIGTERM to ourselves after a step, as a queueing system would send it."""
    return lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None


def kill_at(step: int):
    def kill(now: int) -> None:
        if now == step:
            raise Killed

    return kill


NAMES = ("coarse", "whole")

# saving and resuming

ARITHMETIC = {
    "readable": {},
    "fused": {"engine": "fused"},
    "autocast": {"precision": "bfloat16"},
    "fused bfloat16": {"engine": "fused", "precision": "bfloat16"},
}


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_a_stopped_and_a_killed_run_end_bit_for_bit_as_an_uninterrupted_one(tmp_path, arithmetic):
    config = settings(clip="queue", amsgrad=True, **arithmetic)
    run(tmp_path / "whole", config=config)
    stopped = run(tmp_path / "parts", config=config, on_step=stop_at(5))
    assert (stopped.step, stopped.finished) == (5, False)
    with pytest.raises(Killed):
        run(tmp_path / "parts", config=config, resume=True, on_step=kill_at(8))
    assert load_state(tmp_path / "parts")[1]["step"] == 5
    done = run(tmp_path / "parts", config=config, resume=True)
    assert (done.step, done.finished) == (12, True)
    assert same_state(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole/weights.safetensors").read_bytes() == (
        tmp_path / "parts/weights.safetensors"
    ).read_bytes()


def test_the_next_step_after_a_resume_is_the_identical_one(tmp_path):
    run(tmp_path / "a", config=settings(checkpoint_seconds=0.0), on_step=stop_at(6))
    run(tmp_path / "b", on_step=stop_at(7))
    run(tmp_path / "a", resume=True, on_step=stop_at(7))
    assert same_state(tmp_path / "a", tmp_path / "b")


def test_a_run_continues_in_the_precision_it_was_begun_with(tmp_path, monkeypatch):
    """Where the choice is left to a measurement, another one might come out differently."""
    config = settings(precision="auto")
    monkeypatch.setenv("MOLKIT_PRECISION", "bfloat16")
    run(tmp_path / "run", config=config, on_step=stop_at(5))
    monkeypatch.setenv("MOLKIT_PRECISION", "float32")
    run(tmp_path / "run", config=config, resume=True)
    assert stored_precision(tmp_path / "run") == "bfloat16"
    assert settled(config, 64, torch.device("cpu"), tmp_path / "run").precision == "bfloat16"
    assert settled(config, 64, torch.device("cpu"), None).precision == "float32"
    assert stored_precision(tmp_path) is None


def test_log_lines_of_an_interrupted_run_are_those_of_the_whole_one(tmp_path):
    """Lines of steps that a kill undid are dropped, and so is a line that a kill tore."""
    run(tmp_path / "whole")
    run(tmp_path / "parts", on_step=stop_at(5))
    with pytest.raises(Killed):
        run(tmp_path / "parts", resume=True, on_step=kill_at(8))
    with open(tmp_path / "parts/metrics.jsonl", "a") as handle:
        handle.write('{"step": 9, "lo')
    run(tmp_path / "parts", resume=True)
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [line["step"] for line in parts] == list(range(1, 13))
    for name in ("loss", "gradient_norm", "learning_rate", "noise_error", "epoch", "passes"):
        assert [line[name] for line in parts] == [line[name] for line in whole]


def test_means_in_log_lines_are_over_the_steps_since_the_last_one(tmp_path):
    """Also in the first line after a resume in between, for which the checkpoint keeps what was summed."""
    run(tmp_path / "fine")
    config = settings(log_every=5)
    run(tmp_path / "coarse", config=config, on_step=stop_at(3))
    run(tmp_path / "coarse", config=config, resume=True)
    loss = [line["loss"] for line in metrics(tmp_path / "fine")]
    first, second = metrics(tmp_path / "coarse")
    assert (first["step"], second["step"]) == (5, 10)
    assert first["loss"] == pytest.approx(sum(loss[0:5]) / 5, abs=2e-7)
    assert second["loss"] == pytest.approx(sum(loss[5:10]) / 5, abs=2e-7)
    run(tmp_path / "whole", config=config)
    timing = {"rate", "seconds"}
    rows = [[{k: v for k, v in row.items() if k not in timing} for row in metrics(tmp_path / n)] for n in NAMES]
    assert rows[0] == rows[1]


def test_a_run_can_be_lengthened(tmp_path):
    run(tmp_path)
    result = run(tmp_path, resume=True, total_steps=15)
    assert (result.step, result.total_steps, result.finished) == (15, 15, True)


def test_a_finished_run_resumed_does_nothing(tmp_path):
    run(tmp_path)
    before = weights(tmp_path)
    result = run(tmp_path, resume=True)
    assert result.finished and result.step == 12 and round(result.loss, 7) == metrics(tmp_path)[-1]["loss"]
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path).items())


def test_resuming_where_no_run_is_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no checkpoint to continue there; leave out --resume to begin a run"):
        run(tmp_path / "new", resume=True)


def test_weights_and_checkpoints_have_the_mode_that_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        run(tmp_path)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("weights.safetensors", STATE)}
    assert set(modes.values()) == {0o644}


def test_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InvalidInput, match="already holds a run; continue it with --resume, or choose another --out"):
        run(tmp_path)
    assert contents(tmp_path) == before


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, config=settings(seed=seed, total_steps=3))
    a, b, c = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_checkpoints_hold_the_step_they_were_made_at(tmp_path):
    seen = []
    run(
        tmp_path,
        config=settings(checkpoint_seconds=0.0, total_steps=4),
        on_step=lambda step: seen.append(load_state(tmp_path)[1]["step"]),
    )
    assert seen == [1, 2, 3, 4]


# what a step does


class Recorder:
    """The losses' task, with the rows and the random numbers each step was given written down."""

    def __init__(self, task: EdmTask) -> None:
        self.task, self.num_atoms, self.save_weights = task, task.num_atoms, task.save_weights
        self.rows, self.draws = [], []

    def loss(self, network, rows, *, generator):
        self.rows.append(rows.tolist())
        self.draws.append(generator.initial_seed())
        return self.task.loss(network, rows, generator=generator)


def test_steps_walk_through_epochs_and_count_molecule_passes(tmp_path):
    config = settings(total_steps=40)
    task = Recorder(EdmTask(TINY, random_molecules(), config))
    result = run(tmp_path, task=task, config=config)
    seen = [row for rows in task.rows for row in rows]
    assert result.passes == len(seen) > 60
    assert sorted(seen[:60]) == list(range(60)) == sorted(seen[60:120])
    assert seen[:60] != seen[60:120]
    assert metrics(tmp_path)[-1]["passes"] == len(seen)


def test_noise_follows_from_seed_process_and_step(tmp_path):
    config = settings(total_steps=4, seed=3)
    task = Recorder(EdmTask(TINY, random_molecules(), config))
    run(tmp_path, task=task, config=config)
    assert task.draws == [generator_from(3, 0, step).initial_seed() for step in range(4)]


def test_the_average_is_the_exponential_one_of_all_weights_after_the_first_step(tmp_path):
    config, network = settings(total_steps=6), build(TINY).network
    trail = []
    train(
        EdmTask(TINY, random_molecules(), config),
        network,
        config,
        out=tmp_path,
        fabric=make_fabric("cpu"),
        progress_bar=False,
        on_step=lambda _: trail.append({name: value.clone() for name, value in network.state_dict().items()}),
    )
    expected = trail[0]
    for later in trail[1:]:
        expected = {name: 0.9 * value + 0.1 * later[name] for name, value in expected.items()}
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    raw = load_state(tmp_path)[0]
    assert all(torch.equal(raw[f"raw.{name}"], value) for name, value in trail[-1].items())


def test_a_run_folder_loads_as_a_model(tmp_path):
    run(tmp_path, model=EdmConfig(width=16, num_layers=2, elements=(1, 6, 7, 8)))
    edm = load(tmp_path, fast=False)
    assert edm.config.elements == (1, 6, 7, 8)
    assert all(torch.equal(value, weights(tmp_path)[name]) for name, value in edm.network.state_dict().items())


@pytest.mark.parametrize(("clip", "largest"), [("norm", 0.01), ("queue", 4500.0), ("none", math.inf)])
def test_gradients_are_clipped_as_asked_and_logged_before(tmp_path, clip, largest):
    norms = []

    class Spy(Recorder):
        def loss(self, network, rows, *, generator):
            self.network = network
            return self.task.loss(network, rows, generator=generator)

    config = settings(clip=clip, clip_norm=0.01, total_steps=2)
    task = Spy(EdmTask(TINY, random_molecules(), config))

    def look(_):
        norms.append(torch.stack([p.grad.norm() for p in task.network.parameters()]).norm().item())

    run(tmp_path, task=task, config=config, on_step=look)
    logged = [line["gradient_norm"] for line in metrics(tmp_path)]
    for norm, before in zip(norms, logged, strict=True):
        assert norm == pytest.approx(min(before, largest), rel=1e-3)
    assert load_state(tmp_path)[1]["norms"][0] == 3000.0
    assert len(load_state(tmp_path)[1]["norms"]) == (3 if clip == "queue" else 1)


def test_snapshots_are_kept_at_doublings(tmp_path):
    run(tmp_path, config=settings(snapshot_from=2, total_steps=9))
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step_00000002",
        "step_00000004",
        "step_00000008",
    ]
    load(tmp_path / "snapshots/step_00000004", fast=False)


def test_log_lines_and_provenance_are_valid(tmp_path):
    run(tmp_path, config=settings(log_every=3))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[-1].keys() >= {"step", "epoch", "passes", "seconds", "rate", "loss", "noise_error", "learning_rate"}
    assert all(math.isfinite(value) for line in lines for value in line.values())
    record = (tmp_path / "provenance.jsonl").read_text().splitlines()
    assert len(record) == 1 and '"resumed": false' in record[0]


# stopping


def test_a_signal_saves_and_stops_after_the_step(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    result = run(tmp_path, config=settings(total_steps=10_000), on_step=stop_at(3))
    assert (result.step, result.finished) == (3, False)
    assert load_state(tmp_path)[1]["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_time_budget_stops_the_run_inside_it(tmp_path):
    began = time.monotonic()
    result = run(tmp_path, config=settings(total_steps=10**9), time_budget=1.0)
    assert not result.finished and result.step > 0
    assert load_state(tmp_path)[1]["step"] == result.step
    assert result.seconds <= 1.0 or time.monotonic() - began < 5.0  # a busy machine may delay the last step


def test_the_number_of_steps_is_fixed_once_from_the_measured_rate_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("molkit.training.run_folder.RATE_SECONDS", 0.01)
    first = run(tmp_path, config=settings(total_steps=0), time_budget=20.0, on_step=stop_at(30))
    assert first.total_steps > 0
    second = run(tmp_path, config=settings(total_steps=0), time_budget=0.5, resume=True)
    assert second.total_steps == first.total_steps
    assert second.step > first.step or first.finished


def test_a_kill_after_the_number_of_steps_was_fixed_does_not_change_it(tmp_path, monkeypatch):
    monkeypatch.setattr("molkit.training.run_folder.RATE_SECONDS", 0.01)
    fixed = []

    def kill_when_fixed(_):
        if (tmp_path / run_folder.STATE).is_file():
            fixed.append(load_state(tmp_path)[1]["total_steps"])
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, config=settings(total_steps=0), time_budget=20.0, on_step=kill_when_fixed)
    assert fixed[0] > 0
    resumed = run(tmp_path, config=settings(total_steps=0), time_budget=5.0, resume=True, on_step=stop_at(40))
    assert resumed.total_steps == fixed[0]


def test_without_budget_or_end_a_run_goes_on_until_told(tmp_path):
    result = run(tmp_path, config=settings(total_steps=0), on_step=stop_at(20))
    assert (result.step, result.total_steps, result.finished) == (20, 0, False)


# failures


class Broken(Recorder):
    """A loss that is NaN from the given step on."""

    def __init__(self, task: EdmTask, step: int) -> None:
        super().__init__(task)
        self.step = step

    def loss(self, network, rows, *, generator):
        loss, terms = super().loss(network, rows, generator=generator)
        return (loss * math.nan if len(self.rows) > self.step else loss), terms


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    out, config = tmp_path / "run", settings(checkpoint_seconds=0.0)
    task = EdmTask(TINY, random_molecules(), config)
    with pytest.raises(RunError, match=r"^step 4: loss nan, .* last good checkpoint .* lower learning_rate") as error:
        run(out, task=Broken(task, 4), config=config)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert load_state(out)[1]["step"] == 4
    assert all(torch.isfinite(value).all() for value in weights(out).values())
    assert run(out, task=task, config=config, resume=True).finished
    run(tmp_path / "whole", config=config)
    assert same_state(out, tmp_path / "whole")


def test_a_run_that_breaks_before_its_first_checkpoint_does_not_promise_one(tmp_path):
    with pytest.raises(RunError, match="step 0: .* nothing was saved yet"):
        run(tmp_path, task=Broken(EdmTask(TINY, random_molecules(), settings()), 0))
    assert not (tmp_path / "training").exists() and not (tmp_path / "weights.safetensors").exists()
    assert run(tmp_path).finished


@pytest.mark.parametrize("name", ["state", "weights"])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, name):
    out = tmp_path / "run"
    run(out, on_step=stop_at(5))
    before = load_state(out)

    write = Path.write_bytes

    def full(path, content):
        if path.name != f"{name}.safetensors.tmp":
            return write(path, content)
        write(path, b"half a file")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match="cannot be written .*No space left on device") as error:
            run(out, resume=True)
    assert "\n" not in str(error.value)
    assert not list(out.rglob("*.tmp"))
    after = load_state(out)
    assert before[1] == after[1] and all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    run(out, resume=True)
    run(tmp_path / "whole")
    assert same_state(out, tmp_path / "whole")


def test_a_log_that_cannot_be_written_ends_in_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(RunError, match="metrics.jsonl: cannot be written"):
        run(tmp_path)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with locked(tmp_path):
        before = contents(tmp_path)
        with pytest.raises(RunError, match="another process is using this run folder; choose another --out"):
            run(tmp_path)
        assert contents(tmp_path) == before
    assert run(tmp_path).finished


def test_work_in_a_queue_waits_for_the_one_before_it(tmp_path):
    order = []

    def second():
        with queued(tmp_path / "labels"):
            order.append("second")

    with queued(tmp_path / "labels"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.2)
        order.append("first")
    waiting.join(timeout=10.0)
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InvalidInput, match="the run folder cannot be written") as error:
        run(tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InvalidInput, match="the checkpoint belongs to another model; use another --out"):
        run(tmp_path, model=EdmConfig(width=32, num_layers=2), resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    run(tmp_path)
    path = tmp_path / run_folder.STATE
    if damage == "foreign":
        path.write_bytes((tmp_path / "weights.safetensors").read_bytes())
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    before = contents(tmp_path)
    with pytest.raises(InvalidInput, match="checkpoint is damaged|belongs to another model") as error:
        run(tmp_path, resume=True)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_an_element_the_model_cannot_place_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InvalidInput, match="got Z = "):
        run(tmp_path / "run", model=EdmConfig(width=16, num_layers=2, elements=(1, 6)))
    assert not (tmp_path / "run").exists()


def test_an_unknown_or_absent_device_is_refused(monkeypatch):
    with pytest.raises(InvalidInput, match="device must be auto, cpu or cuda, got 'tpu'"):
        make_fabric("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidInput, match="sees no GPU here; use --device cpu"):
        make_fabric("cuda")


class Spiky(EdmTask):
    """Its gradient is a thousand times larger at some steps."""

    spikes: tuple[int, ...] = ()
    calls = 0

    def loss(self, network, rows, *, generator):
        loss, terms = super().loss(network, rows, generator=generator)
        self.calls += 1
        return (1000.0 * loss if self.calls in self.spikes else loss), terms


def spiky_run(folder, monkeypatch, *, spikes, skip_above, steps=14):
    from molkit.training import config as settings_of_a_run
    from molkit.training import loop

    monkeypatch.setattr(loop, "RECENT", 8)
    monkeypatch.setattr(settings_of_a_run, "RECENT", 8)
    config = settings(total_steps=steps, skip_above=skip_above, clip="none")
    task = Spiky(TINY, random_molecules(), config)
    task.spikes = spikes
    run(folder, task=task, config=config)
    return load_state(folder)[1]


def test_an_update_with_an_outlying_gradient_is_left_out_and_counted(tmp_path, monkeypatch, caplog):
    assert spiky_run(tmp_path / "a", monkeypatch, spikes=(11,), skip_above=10.0)["skipped"] == 1
    assert "step 10: update left out" in caplog.text
    assert spiky_run(tmp_path / "b", monkeypatch, spikes=(11,), skip_above=0.0)["skipped"] == 0
    assert spiky_run(tmp_path / "c", monkeypatch, spikes=(3,), skip_above=10.0)["skipped"] == 0  # too early to tell


def test_gradients_that_stay_large_are_accepted_in_the_end(tmp_path, monkeypatch):
    lasting = spiky_run(tmp_path, monkeypatch, spikes=tuple(range(10, 30)), skip_above=10.0, steps=24)
    assert 3 <= lasting["skipped"] <= 5
