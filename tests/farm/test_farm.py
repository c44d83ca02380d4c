"""Farms survive workers and drivers that die: nothing lost, nothing counted twice, the same answer."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from farm_work import work

from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput, MolkitError, NetworkUnavailable, RunError
from molkit.farm.engines import engine, read_slurm, slurm_script
from molkit.farm.folder import FarmFolder, digest
from molkit.farm.run import MAX_ATTEMPTS, run_farm
from molkit.molecule import Molecule


def tasks_of(count, **odd):
    """`count` good tasks, but those named in `odd` (t3="dies")."""
    return {f"t{k}": {"kind": odd.get(f"t{k}", "good"), "number": k} for k in range(count)}


def answers(report):
    return {key: float(result["square"].sum()) for key, result in report.results().items()}


def undisturbed(tmp_path, tasks):
    return answers(run_farm(work, tasks, tmp_path / "undisturbed"))


@pytest.fixture(scope="module")
def two_processes():
    with engine(2) as executor:
        yield executor


def test_a_farm_gives_the_same_results_in_one_process_and_in_two(tmp_path, two_processes):
    tasks = tasks_of(12)
    report = run_farm(work, tasks, tmp_path / "two", executor=two_processes)
    assert list(report.done) == list(tasks) and not report.failed
    assert answers(report) == undisturbed(tmp_path, tasks)


def test_finished_tasks_are_read_and_not_repeated(tmp_path):
    run_farm(work, tasks_of(3), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    report = run_farm(work, tasks_of(5), tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(report.done) == 5 and before.items() <= after.items()


def test_a_farm_out_of_time_begins_nothing_and_goes_on_in_the_next_call(tmp_path, two_processes):
    tasks = {key: task | {"kind": "slow"} for key, task in tasks_of(12).items()}
    for where, executor in (("here", None), ("two", two_processes)):
        assert not run_farm(work, tasks, tmp_path / where, executor=executor, minutes=0.0).done
        part = run_farm(work, tasks, tmp_path / where, executor=executor, minutes=0.5 / 60.0)
        assert 0 < len(part.done) < 12 and not part.failed
        assert answers(run_farm(work, tasks, tmp_path / where, executor=executor)) == undisturbed(tmp_path, tasks)


def test_one_task_that_fails_is_reported_and_can_be_tried_again(tmp_path):
    mark = tmp_path / "mark"
    tasks = tasks_of(4) | {"t1": {"kind": "fails", "number": 1, "once": str(mark)}}
    report = run_farm(work, tasks, tmp_path / "farm")
    assert report.failed == {"t1": "no number for 1"} and report.done == ("t0", "t2", "t3")
    assert run_farm(work, tasks, tmp_path / "farm").failed == report.failed
    report.folder.retry_failures()
    again = run_farm(work, tasks, tmp_path / "farm")
    assert not again.failed and answers(again) == undisturbed(tmp_path, tasks_of(4))


def test_a_mistake_of_ours_ends_the_farm_and_keeps_what_is_done(tmp_path):
    with pytest.raises(KeyError):
        run_farm(work, tasks_of(4, t2="mistake"), tmp_path)
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {"t0", "t1"}


def test_a_worker_killed_once_loses_nothing(tmp_path, two_processes):
    tasks = tasks_of(8) | {"t3": {"kind": "dies", "number": 3, "once": str(tmp_path / "mark")}}
    report = run_farm(work, tasks, tmp_path / "farm", executor=two_processes)
    assert not report.failed and answers(report) == undisturbed(tmp_path, tasks_of(8))


def test_a_poisoned_task_and_one_that_hangs_are_named_and_the_rest_is_finished(tmp_path, two_processes):
    tasks = tasks_of(8, t2="crashes", t5="hangs")
    started = time.monotonic()
    report = run_farm(work, tasks, tmp_path, executor=two_processes, timeout=1.5)
    assert set(report.failed) == {"t2", "t5"} and len(report.done) == 6
    assert "died in it 3 times, or it took longer than 1.5 s" in report.failed["t5"]
    assert FarmFolder(tmp_path).attempts("t5") == MAX_ATTEMPTS and time.monotonic() - started < 60


DRIVER = (
    "import sys; sys.path.insert(0, sys.argv[2])\n"
    "from pathlib import Path\nfrom farm_work import work\nfrom molkit import cli\n"
    "from molkit.farm.engines import engine\nfrom molkit.farm.run import run_farm\nimport click\n"
    "@click.command()\n@click.argument('words', nargs=-1)\n"
    "def main(words):\n"
    "    tasks = {f't{k}': {'kind': 'slow', 'number': k} for k in range(int(sys.argv[4]))}\n"
    "    with engine(int(sys.argv[3]), apart=True) as executor:\n"
    "        run_farm(work, tasks, Path(sys.argv[1]), executor=executor)\n"
    "if __name__ == '__main__':\n"
    "    cli.main = main\n"
    "    sys.exit(cli.run())\n"
)


def begun(tmp_path, workers, count):
    """A driver of `count` slow tasks on `workers` processes that has finished its first, and the workers' ids."""
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path / "farm", Path(__file__).parent, str(workers), str(count)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "farm").glob("results/*.npz")) or len(workers_of(driver)) < workers:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
    return driver, workers_of(driver)


def workers_of(driver):
    """Process ids of its workers."""
    children = psutil.Process(driver.pid).children()
    return [one.pid for one in children if any("spawn_main" in word for word in one.cmdline())]


def gone(pids, within):
    """Whether none of the processes is there any more after at most so many seconds."""
    deadline = time.monotonic() + within
    while alive := [pid for pid in pids if psutil.pid_exists(pid)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return not alive


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_from_outside_one_or_all_lose_nothing(tmp_path, workers):
    driver, _ = begun(tmp_path, workers, 12)
    os.kill(workers_of(driver)[0], signal.SIGKILL)
    time.sleep(0.5)
    for pid in workers_of(driver):
        os.kill(pid, signal.SIGKILL)
    _, said = driver.communicate(timeout=60)
    tasks = {f"t{k}": {"kind": "slow", "number": k} for k in range(12)}
    report = run_farm(work, tasks, tmp_path / "farm")
    assert (driver.returncode, said) == (0, "")
    assert not report.failed and answers(report) == undisturbed(tmp_path, tasks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_in_one_line_and_leaves_no_worker(tmp_path, number):
    driver, workers = begun(tmp_path, 2, 200)
    driver.send_signal(number)
    _, said = driver.communicate(timeout=10)
    assert driver.returncode == 130 and gone(workers, 0.5)
    assert said.strip().splitlines() == [line for line in said.strip().splitlines() if line.startswith("molkit: inter")]
    assert not list((tmp_path / "farm").rglob("*.tmp"))


def test_workers_of_a_killed_driver_end_by_themselves(tmp_path):
    driver, workers = begun(tmp_path, 2, 200)
    driver.kill()
    assert gone(workers, 2.0)
    driver.communicate()


def test_a_killed_driver_is_started_again_and_repeats_nothing(tmp_path):
    driver, workers = begun(tmp_path, 2, 8)
    results = tmp_path / "farm" / "results"
    driver.kill()
    driver.communicate()
    assert gone(workers, 2.0)
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    assert 1 <= len(before) < 8
    tasks = {f"t{k}": {"kind": "slow", "number": k} for k in range(8)}
    report = run_farm(work, tasks, tmp_path / "farm")
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    assert before.items() <= after.items() and answers(report) == undisturbed(tmp_path, tasks)


def test_a_truncated_result_is_noticed_and_made_again(tmp_path):
    first = run_farm(work, tasks_of(3), tmp_path)
    path = first.folder.result_path("t1")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RunError, match="damaged"):
        first.result("t1")
    assert answers(run_farm(work, tasks_of(3), tmp_path)) == undisturbed(tmp_path / "other", tasks_of(3))


def test_a_flipped_byte_in_a_result_is_noticed(tmp_path):
    first = run_farm(work, tasks_of(1), tmp_path)
    path = first.folder.result_path("t0")
    content = bytearray(path.read_bytes())
    place = content.index(b"\n", content.index(b"shape")) + 3  # in the numbers of the first array
    content[place] ^= 1
    path.write_bytes(content)
    assert first.folder.read("t0") is None


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    run_farm(work, tasks_of(1), tmp_path)
    (tmp_path / "results" / "t0.host.1.tmp").write_bytes(b"half")
    run_farm(work, tasks_of(1), tmp_path)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["t0.npz"]


def test_a_full_disk_is_said_in_one_line_and_keeps_the_rest(tmp_path, monkeypatch):
    real = np.savez

    def full(handle, **arrays):
        if int(arrays["number"]) == 2:
            handle.write(b"half")
            raise OSError(28, "No space left on device")
        real(handle, **arrays)

    monkeypatch.setattr("molkit.farm.folder.np.savez", full)
    with pytest.raises(RunError, match="No space left on device"):
        run_farm(work, tasks_of(4), tmp_path)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"t0.npz", "t1.npz"}
    monkeypatch.setattr("molkit.farm.folder.np.savez", real)
    assert answers(run_farm(work, tasks_of(4), tmp_path)) == undisturbed(tmp_path / "other", tasks_of(4))


def test_a_farm_in_use_is_refused(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom molkit.training.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process"):
            run_farm(work, tasks_of(1), tmp_path)
    finally:
        holder.kill()
        holder.wait()
    assert run_farm(work, tasks_of(1), tmp_path).done == ("t0",)


def test_clocks_that_go_wrong_change_nothing(tmp_path):
    run_farm(work, tasks_of(3), tmp_path)
    for k, path in enumerate(sorted((tmp_path / "results").iterdir())):
        os.utime(path, (time.time() + (-1) ** k * 10**8,) * 2)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    run_farm(work, tasks_of(3), tmp_path)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}


def test_results_of_other_settings_or_tasks_are_never_mixed(tmp_path):
    run_farm(work, tasks_of(2), tmp_path, settings={"basis": "6-31g"})
    with pytest.raises(InvalidInput, match="another 'basis'"):
        run_farm(work, tasks_of(2), tmp_path, settings={"basis": "cc-pvdz"})
    with pytest.raises(InvalidInput, match="task t1 was another one"):
        run_farm(work, tasks_of(2, t1="slow"), tmp_path, settings={"basis": "6-31g"})
    with pytest.raises(InvalidInput, match="a task's key"):
        run_farm(work, {"../up": {}}, tmp_path)


def test_a_damaged_manifest_is_refused(tmp_path):
    run_farm(work, tasks_of(1), tmp_path)
    (tmp_path / "farm.json").write_text("{")
    with pytest.raises(InvalidInput, match="damaged"):
        run_farm(work, tasks_of(1), tmp_path)


def test_workers_that_cannot_start_the_task_end_the_farm(tmp_path, monkeypatch):
    class Dying:
        def submit(self, *arguments):
            from concurrent.futures import BrokenExecutor, Future

            future = Future()
            future.set_exception(BrokenExecutor("gone"))
            return future

    monkeypatch.setattr("molkit.farm.run.time.sleep", lambda _: None)
    with pytest.raises(RunError, match="workers die at once"):
        run_farm(work, tasks_of(2), tmp_path, executor=Dying())


@pytest.mark.parametrize(
    "words",
    [
        "sample",
        "relax",
        "conformers",
        "pipeline",
        "labels",
        "score",
        "ensembles make",
        "book grid",
    ],
)
def test_commands_that_keep_a_farms_folder_can_try_its_failures_again(words, capsys):
    assert run([*words.split(), "--help"]) == 0
    assert "--retry" in capsys.readouterr().out


def test_equal_tasks_are_the_same_however_they_came_about():
    positions = np.arange(6.0).reshape(2, 3)
    first = {"name": "".join(["mole", "cule"]), "positions": positions, "molecule": Molecule([1, 1], positions)}
    again = {"name": "molecule", "positions": np.asfortranarray(positions), "molecule": Molecule([1, 1], 1 * positions)}
    assert digest(first) == digest(again)
    others = [{**first, "name": "x"}, {**first, "positions": positions.astype(np.float32)}, {**first, "molecule": 1}]
    others += [{**first, "molecule": Molecule([1, 1], positions + 1e-9)}, {**first, "name": ("molecule",)}]
    assert len({digest(task) for task in [first, *others]}) == 6


def test_one_engine_at_a_time_and_readable_slurm_files(tmp_path):
    with pytest.raises(InvalidInput, match="one of --workers, --dask and --slurm"), engine(2, dask="tcp://x:1"):
        pass
    with pytest.raises(DataNotFound):
        read_slurm(tmp_path / "none.yaml")
    path = tmp_path / "slurm.yaml"
    path.write_text(json.dumps({"jobs": 2, "cores": 4, "memory": "8GB", "wall": "1:00"}))
    with pytest.raises(MolkitError, match="unknown key 'wall'"):
        read_slurm(path)
    path.write_text(json.dumps({"jobs": 2, "cores": 4, "memory": "8GB"}))
    with pytest.raises(MolkitError, match="walltime is missing"):
        read_slurm(path)


distributed = pytest.importorskip("distributed", reason="the extra scale (Dask) is not installed")


@pytest.fixture(scope="module")
def dask_address():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def test_dask_workers_give_the_same_results_and_survive_a_death(tmp_path, dask_address):
    tasks = tasks_of(8) | {"t3": {"kind": "dies", "number": 3, "once": str(tmp_path / "mark")}}
    with engine(dask=dask_address) as executor:
        report = run_farm(work, tasks, tmp_path / "farm", executor=executor)
    assert not report.failed and answers(report) == undisturbed(tmp_path, tasks_of(8))


def test_dask_reports_a_poisoned_task_and_finishes_the_rest(tmp_path, dask_address):
    with engine(dask=dask_address) as executor:
        report = run_farm(work, tasks_of(6, t1="hangs"), tmp_path, executor=executor, timeout=1.5)
    assert set(report.failed) == {"t1"} and len(report.done) == 5


def test_a_scheduler_that_dies_is_said_in_one_line_and_what_is_done_stays(tmp_path, caplog):
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    )
    tasks = {f"t{k}": {"kind": "slow", "number": k} for k in range(100)}
    stop = threading.Timer(2.0, cluster.close)
    with (
        pytest.raises(RunError, match="the Dask scheduler is gone"),
        engine(dask=cluster.scheduler_address) as executor,
    ):
        stop.start()
        run_farm(work, tasks, tmp_path, executor=executor)
    stop.join()
    assert not [one for one in caplog.records if one.exc_info and one.name.startswith("distributed")]
    assert list(tmp_path.glob("results/*.npz"))


def test_dask_without_a_worker_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("molkit.farm.engines.LONELY_SECONDS", 1.0)
    monkeypatch.setattr("molkit.farm.run.CHECK_SECONDS", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as cluster,
        engine(dask=cluster.scheduler_address) as executor,
        pytest.raises(RunError, match="no Dask worker for 1 s"),
    ):
        run_farm(work, tasks_of(2), tmp_path, executor=executor)


def test_a_scheduler_that_does_not_answer_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr("molkit.farm.engines.CONNECT_SECONDS", 0.5)
    with pytest.raises(NetworkUnavailable, match="no Dask scheduler"), engine(dask="tcp://127.0.0.1:1"):
        pass


def test_the_slurm_script_asks_for_what_the_file_says():
    values = {"jobs": 3, "cores": 4, "memory": "8GB", "walltime": "02:00:00", "queue": "short", "account": "chem"}
    script = slurm_script(values)
    assert "#SBATCH -p short" in script and "#SBATCH -A chem" in script and "#SBATCH -t 02:00:00" in script
    assert "OMP_NUM_THREADS=1" in script and "--nthreads 1" in script and "--nworkers 4" in script
