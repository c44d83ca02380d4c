"""The run cache: which chapters run again when a byte changes."""

import json

import pytest

from molkit.book.cache import dependency_hashes, read_record, reasons_to_run
from molkit.book.execute import run_chapters
from molkit.book.parameters import load_profile


def run(book, profile="smoke", **options):
    outcomes = run_chapters(book, profile, load_profile(book, profile), jobs=2, **options)
    assert [outcome.record.error for outcome in outcomes if outcome.state == "failed"] == []
    return {outcome.chapter: outcome for outcome in outcomes}


def would_run(book, profile="smoke"):
    settings = load_profile(book, profile)
    return {name: why for name in settings if (why := reasons_to_run(book, name, profile, settings[name].parameters))}


def append(path, text="\n"):
    path.write_text(path.read_text() + text)


def test_the_second_run_takes_every_chapter_from_the_cache(toy):
    for state in ("run", "cached"):
        found = run(toy)
        assert {outcome.state for outcome in found.values()} == {state}, [o.record.error for o in found.values()]


def test_exactly_the_chapters_that_depend_on_a_changed_byte_run_again(toy):
    run(toy)
    assert would_run(toy) == {}
    changes = {
        "toylab/sums.py": {"first"},
        "toylab/inner/convert.py": {"first"},  # imported inside a function
        "toylab/inner/__init__.py": {"first"},  # parent of an imported module
        "toylab/inner/table.csv": {"first"},  # package data
        "toylab/deep.py": {"second"},  # imported by a name in a string
        "toylab/constants.py": {"second"},  # relative import
        "toylab/__init__.py": {"first", "second"},
        "toylab/unused.py": set(),
        "data/values.txt": {"first"},  # opened while it ran
        "data/unused.txt": set(),
        "requirements.txt": {"first", "second"},
        "intro.md": set(),
    }
    for name, expected in changes.items():
        before = (toy.root / name).read_bytes()
        append(toy.root / name)
        assert {chapter: name for chapter in expected} == {k: v[0] for k, v in would_run(toy).items()}, name
        (toy.root / name).write_bytes(before)
    assert would_run(toy) == {}


def test_only_code_cells_and_parameters_of_a_notebook_count(toy):
    run(toy)
    path = toy.source("first")
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["source"] = "# Another title"
    path.write_text(json.dumps(notebook))
    assert would_run(toy) == {}
    notebook["cells"][2]["source"] += "\nprint(1)"
    path.write_text(json.dumps(notebook))
    assert would_run(toy) == {"first": ["code of the notebook"]}
    assert would_run(toy, "fast") == {"first": ["never run"], "second": ["never run"]}
    assert reasons_to_run(toy, "second", "smoke", {"seed": 1}) == ["parameters"]


def test_a_damaged_notebook_or_record_is_not_reused(toy):
    run(toy)
    append(toy.executed("first", "smoke"))
    toy.record("second", "smoke").write_text('{"half": ')
    assert would_run(toy) == {
        "first": ["the executed notebook is gone or was changed"],
        "second": ["never run"],
    }


def test_a_module_or_file_reached_only_at_run_time_counts(toy):
    """A name put together at run time is invisible to the syntax tree; weights count as whole folders."""
    notebook = json.loads(toy.source("second").read_text())
    notebook["cells"][2]["source"] = (
        "from importlib import import_module\nfrom pathlib import Path\n\n"
        "part = import_module('.'.join(['toylab', 'unused']))\n"
        "print(Path('../data/weights/tiny/config.yaml').read_text())\nprint(sorted(Path('../data').glob('*.txt')))"
    )
    toy.source("second").write_text(json.dumps(notebook))
    assert "toylab/unused.py" not in dependency_hashes(toy, "second")
    run(toy)
    for name in ("toylab/unused.py", "data/weights/tiny/weights.bin"):
        before = (toy.root / name).read_bytes()
        append(toy.root / name)
        assert would_run(toy) == {"second": [name]}
        (toy.root / name).write_bytes(before)
    (toy.root / "data" / "new.txt").write_text("a file more in a folder that was listed")
    assert would_run(toy) == {"second": ["data"]}


def test_of_the_list_of_checksums_only_the_lines_of_the_files_used_count(toy):
    notebook = json.loads(toy.source("second").read_text())
    notebook["cells"][2]["source"] = "\n".join(
        ["from pathlib import Path", *(f"Path('../data/{name}').read_text()" for name in ("SHA256SUMS", "values.txt"))]
    )
    toy.source("second").write_text(json.dumps(notebook))
    listing = toy.root / "data" / "SHA256SUMS"
    listing.write_text("1  values.txt\n2  unused.txt\n")
    run(toy)
    listing.write_text("1  values.txt\n3  unused.txt\n4  new.txt\n")
    assert would_run(toy) == {}
    listing.write_text("5  values.txt\n")
    assert would_run(toy) == {"second": ["data/SHA256SUMS"]}


def test_the_record_tells_how_the_run_was_made(toy):
    record = run(toy, "fast")["first"].record
    assert record == read_record(toy, "first", "fast")
    assert record.parameters == {"count": 3} and record.budget_seconds == 30
    assert record.seconds > 0 and record.peak_memory_mib > 10
    assert record.versions["python"] and record.machine and record.finished.endswith("+00:00")
    assert set(record.files) == {
        "requirements.txt",
        "toylab/__init__.py",
        "toylab/inner/__init__.py",
        "toylab/inner/convert.py",
        "toylab/inner/table.csv",
        "toylab/sums.py",
    }
    assert set(record.inputs) == {"data/values.txt"}


@pytest.mark.parametrize("profile, kept", [("smoke", False), ("fast", True)])
def test_results_of_a_run_are_kept_beside_it_and_published_ones_are_seen(toy, profile, kept):
    published = toy.data_folder / "results"
    published.mkdir()
    (published / "old.json").write_text("{}")
    notebook = json.loads(toy.source("second").read_text())
    notebook["cells"][2]["source"] = (
        "import os\nfrom pathlib import Path\n\n"
        "folder = Path(os.environ.get('MOLKIT_RESULTS_DIR', '../data/results'))\n"
        "assert (folder / 'old.json').read_text() == '{}'\n"
        "if os.environ['MOLKIT_PROFILE'] == 'fast':\n    (folder / 'new.json').write_text('{}')"
    )
    toy.source("second").write_text(json.dumps(notebook))
    assert run(toy, profile)["second"].state == "run"
    assert [path.name for path in toy.results("second", profile).glob("*")] == (["new.json"] if kept else [])
    (published / "old.json").write_text("[]")
    assert would_run(toy, profile) == {"second": ["data/results/old.json"]}


@pytest.mark.parametrize("said", ["Kernel died before replying to kernel_info", "Kernel didn't respond in 90 seconds"])
def test_a_kernel_that_does_not_begin_is_started_once_more(said, monkeypatch):
    import papermill

    from molkit.book import worker

    job = {"source": "a", "output": "b", "parameters": {}, "folder": ".", "limit_seconds": 60, "budget_seconds": 15}
    calls = []

    def start(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError(said)

    monkeypatch.setattr(papermill, "execute_notebook", start)
    assert worker.execute(job) == "" and len(calls) == 2
    monkeypatch.setattr(papermill, "execute_notebook", lambda *a, **k: calls[99])
    with pytest.raises(IndexError):
        worker.execute(job)
