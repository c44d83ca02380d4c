"""Running and rendering the toy book: failures, stamps, the status page, and what is left on disk."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

from molkit.book import build as building
from molkit.book.build import first_complaint, refresh
from molkit.book.cache import duration, memory, read_record, stamp
from molkit.book.execute import Outcome, run_chapter
from molkit.book.notebooks import canonical, problems, read_notebook, with_small_pictures
from molkit.book.parameters import Settings
from molkit.book.stage import changed_verdicts, stage, staged_notebook
from molkit.book.status import status_markdown
from molkit.cli import run as molkit
from molkit.errors import RunError


def with_broken_chapter(book):
    path = book.root / "_toc.yml"
    path.write_text(
        path.read_text().replace("  - file: chapters/second", "  - file: chapters/broken\n  - file: chapters/second")
    )


def set_code(book, chapter, code):
    notebook = json.loads(book.source(chapter).read_text())
    notebook["cells"][2]["source"] = code
    book.source(chapter).write_text(json.dumps(notebook))


def test_a_failing_chapter_does_not_stop_the_others_and_its_page_says_so(toy, capsys):
    with_broken_chapter(toy)
    build = ["book", "build", "--profile", "smoke", "--root", str(toy.root), "--package", "toylab", "--jobs", "2"]
    assert molkit(build) == 3
    printed = capsys.readouterr()
    assert "broken  FAILED" in printed.err and "RuntimeError: the toy chapter fails on purpose" in printed.err
    assert "1 of 3 chapters failed: broken" in printed.err
    assert "first  ran in" in printed.out and "second  ran in" in printed.out

    partial = read_notebook(toy.executed("broken", "smoke"))
    assert any("before the fault" in str(cell.get("outputs")) for cell in partial["cells"])
    html = toy.build_folder / "html"
    page = (html / "chapters" / "broken.html").read_text()
    assert "This chapter failed in code cell" in page and "the toy chapter fails on purpose" in page
    assert "before the fault" in page and "How this page was made" in page
    status = (html / "status.html").read_text()
    assert status.count("molkit-badge molkit-run") == 2 and status.count("molkit-badge molkit-failed") == 1
    stamped = " ".join(re.sub("<[^>]*>", "", (html / "chapters" / "first.html").read_text()).split())
    assert "count = 2" in stamped and "peak memory" in stamped and "a 2 3.0" in stamped

    assert molkit(build) == 3, "a chapter that failed runs again"
    printed = capsys.readouterr()
    assert "first  cached" in printed.out and "second  cached" in printed.out and "broken  FAILED" in printed.err
    assert not list(toy.run_folder("smoke").rglob(".*")), "nothing temporary is left"


def test_pages_with_a_warning_are_an_error_and_leave_the_last_good_ones(toy, capsys):
    html = toy.build_folder / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good build")
    (toy.root / "intro.md").write_text("# Toy\n\n[a page](absent.md)\n")
    assert molkit(["book", "build", "--profile", "smoke", "--root", str(toy.root), "--package", "toylab"]) == 1
    message = capsys.readouterr().err
    assert "the pages could not be rendered" in message and "absent.md" in message and message.count("\n") == 1
    assert (html / "index.html").read_text() == "the last good build"


def test_pages_are_rendered_again_only_when_something_on_them_or_a_page_itself_changed(toy, monkeypatch):
    rendered = []

    def pretend(book, source, old):
        rendered.append(source)
        shutil.rmtree(old, ignore_errors=True)
        (book.build_folder / "next").mkdir(parents=True)
        (book.build_folder / "next" / "index.html").write_text("pages")
        return book.build_folder / "next"

    monkeypatch.setattr(building, "_rendered", pretend)
    index = building.render(toy, stage(toy, "smoke", []))
    assert building.render(toy, stage(toy, "smoke", [])) == index and len(rendered) == 1
    building.render(toy, stage(toy, "smoke", []), force=True)
    (toy.root / "intro.md").write_text("# Toy\n\nAnother sentence.\n")
    building.render(toy, stage(toy, "smoke", []))
    (toy.build_folder / "html" / "index.html").write_text("somebody wrote here")
    building.render(toy, stage(toy, "smoke", []))
    assert len(rendered) == 4 and index.read_text() == "pages"


def test_a_chapter_that_takes_far_too_long_is_stopped(toy):
    set_code(toy, "second", "print('started', flush=True)\nimport time\n\ntime.sleep(60)")
    record = run_chapter(toy, "second", "smoke", Settings(budget_seconds=1.0))
    assert record.status == "failed" and record.error == "stopped after 4 s; its budget is 1 s"
    assert 4 <= record.seconds < 40 and toy.executed("second", "smoke").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_kernel_outlives_a_run_of_the_book_that_is_ended(toy, number):
    mark = toy.root / "began"
    set_code(toy, "second", f"import time\n\nopen({str(mark)!r}, 'w').close()\ntime.sleep(300)")
    command = [sys.executable, "-m", "molkit", "book", "run", "--profile", "smoke", "--chapters", "second"]
    command += ["--root", str(toy.root), "--package", "toylab"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not mark.exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    said, _ = run.communicate(timeout=30)
    assert len(family) >= 2 and psutil.wait_procs(family, timeout=20)[1] == []
    assert number == signal.SIGKILL or (run.returncode == 130 and "molkit: interrupted" in said)


def test_a_kernel_that_dies_is_reported(toy):
    set_code(toy, "second", "import os\n\nos._exit(3)")
    record = run_chapter(toy, "second", "smoke", Settings())
    assert record.status == "failed" and "died" in record.error


def test_a_failed_run_keeps_the_results_of_the_last_good_one(toy):
    save = "import os\nfrom pathlib import Path\n\nPath(os.environ['MOLKIT_RESULTS_DIR'], 'a.json').write_text('1')"
    set_code(toy, "second", save)
    assert run_chapter(toy, "second", "fast", Settings()).status == "ok"
    set_code(toy, "second", save.replace("'1'", "'2'") + "\nraise ValueError('late')")
    assert run_chapter(toy, "second", "fast", Settings()).error == "ValueError: late"
    assert (toy.results("second", "fast") / "a.json").read_text() == "1"


def test_a_run_folder_that_cannot_be_written_is_named(toy, capsys):
    (toy.root / "_run").write_text("a file where the folder should be")
    assert molkit(["book", "run", "--profile", "smoke", "--root", str(toy.root)]) == 2
    message = capsys.readouterr().err
    assert "cannot write to" in message and "_run" in message and message.count("\n") == 1


def test_results_of_a_smoke_run_cannot_be_published(toy, capsys):
    build = ["book", "build", "--profile", "smoke", "--publish-results", "--root", str(toy.root)]
    assert molkit(build) == 2
    assert "results of the smoke profile are not kept" in capsys.readouterr().err
    assert not (toy.root / "_run").exists() and not (toy.data_folder / "results").exists()


def test_refresh_writes_canonical_outputs_into_the_committed_notebooks(toy):
    written = refresh(toy, ["first"])
    assert written == [toy.source("first")] and problems(toy.source("first")) == []
    notebook = read_notebook(toy.source("first"))
    assert notebook["cells"][2]["outputs"][0]["text"] == "a 2 3.0\n"
    once = toy.source("first").read_bytes()
    refresh(toy, ["first"])
    assert toy.source("first").read_bytes() == once


def test_committed_pictures_are_smaller_and_show_the_same():
    picture, content = Image.linear_gradient("L").resize((300, 200)).convert("RGB"), BytesIO()
    picture.putpixel((3, 5), (200, 0, 0))
    picture.save(content, "PNG", compress_level=0)
    given = {"image/png": b64encode(content.getvalue()).decode()}
    made = with_small_pictures({"cells": [{"outputs": [{"data": dict(given)}]}]})["cells"][0]["outputs"][0]["data"]
    again = with_small_pictures({"cells": [{"outputs": [{"data": dict(made)}]}]})["cells"][0]["outputs"][0]["data"]
    found = Image.open(BytesIO(b64decode(made["image/png"]))).convert("RGB")
    assert len(made["image/png"]) < 0.5 * len(given["image/png"]) and again == made
    assert found.size == (300, 200)
    assert np.abs(np.asarray(found, int) - np.asarray(picture, int))[:, 10:].max() <= 4


def test_refresh_leaves_a_notebook_alone_when_its_chapter_fails(toy):
    set_code(toy, "second", "raise ValueError('no')")
    before = toy.source("second").read_bytes()
    with pytest.raises(RunError, match="second failed .ValueError: no.; its notebook is left as it was"):
        refresh(toy, ["second"])
    assert toy.source("second").read_bytes() == before


def test_staged_parameters_are_folded_and_show_what_the_profile_changed(toy):
    run_chapter(toy, "first", "fast", Settings({"count": 3}))
    cells = staged_notebook(toy, "first", "fast")["cells"]
    folded = [cell["metadata"]["mystnb"]["code_prompt_show"] for cell in cells if "mystnb" in cell["metadata"]]
    assert folded == ["Parameters and their defaults", "Parameters that the profile changed"]
    assert "`count = 3`, `scale = 0.5`, `label = 'a'`" in cells[-1]["source"].replace('"', "'")
    assert "papermill" not in json.dumps(staged_notebook(toy, "second", "fast")["metadata"])
    assert "was not run with the `fast` profile" in staged_notebook(toy, "second", "fast")["cells"][-1]["source"]


def test_words_that_changed_after_a_run_are_on_the_page_and_the_outputs_stay(toy):
    run_chapter(toy, "first", "fast", Settings({"count": 3}))
    before = staged_notebook(toy, "first", "fast")["cells"]
    notebook = json.loads(toy.source("first").read_text())
    notebook["cells"][0]["source"] = "# Other words"
    toy.source("first").write_text(json.dumps(notebook))
    after = staged_notebook(toy, "first", "fast")["cells"]
    assert after[0]["source"] == "# Other words" != before[0]["source"] and after[1:] == before[1:]
    set_code(toy, "first", "other = 1")
    assert staged_notebook(toy, "first", "fast")["cells"][0]["source"] == before[0]["source"]


def test_the_stamp_and_the_status_page_state_what_is_known(toy):
    record = run_chapter(toy, "second", "smoke", Settings())
    assert record == read_record(toy, "second", "smoke")
    text = stamp(record, {"seed": "0"})
    for fact in ("| Profile | smoke |", "`seed = 0`", " UTC, ", "peak memory", "python 3.", "one thread"):
        assert fact in text
    page = status_markdown([Outcome("second", "cached", (), record)], profile="smoke", not_run=["first"])
    assert "molkit-run" in page and "not run" in page and record.machine in page


def test_times_and_sizes_are_written_as_people_do():
    assert [duration(s) for s in (0.44, 41.3, 60, 200, 7500)] == ["0.4 s", "41 s", "1 min", "3 min 20 s", "2 h 5 min"]
    assert [memory(m) for m in (620.2, 1843.2)] == ["620 MiB", "1.8 GiB"]


def test_canonical_form_drops_times_and_injected_cells(toy):
    run_chapter(toy, "first", "fast", Settings({"count": 3}))
    executed = read_notebook(toy.executed("first", "fast"))
    assert "papermill" in json.dumps(executed)
    clean = canonical(executed)
    assert "papermill" not in json.dumps(clean) and len(clean["cells"]) == len(executed["cells"]) - 1
    assert canonical(clean) == clean


def test_the_first_complaint_of_a_build_is_found():
    output = "reading\n/a/intro.md:3: WARNING: 'myst' cross-reference target not found\nbuild finished\n"
    assert first_complaint(output).startswith("/a/intro.md:3: WARNING:")
    assert first_complaint("") == "no output"


def test_changed_verdicts_are_listed():
    assert changed_verdicts({"a": "differs", "b": "reproduced"}, {"a": "reproduced", "b": "reproduced"}) == [
        "a: differs -> reproduced"
    ]
