"""Loaded by Python itself at the start of a chapter's kernel: notes which data and package files the chapter opens.

The folder of this file is put on PYTHONPATH by `molkit.book.execute`, so worker processes of a chapter are seen too.
MOLKIT_TRACE names the file to append to, MOLKIT_TRACE_DATA the data folders and MOLKIT_TRACE_PACKAGES the package
folders to watch. Each line is `open` or `list`, a tab, and an absolute path; compiled files stand for their sources.
"""

import os
import sys


def _watch(trace: str, data: tuple, packages: tuple) -> None:
    """Append one line for each file read below the folders, and for each data folder listed."""
    seen = set()
    journal = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(kind, path):
        if (kind, path) not in seen:
            seen.add((kind, path))
            os.write(journal, f"{kind}\t{path}\n".encode())

    def hook(event, arguments):
        if event not in ("open", "os.scandir", "os.listdir"):
            return
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
        except TypeError:  # an open descriptor, or None
            return
        inside = path + os.sep
        if event != "open":
            if inside.startswith(data):
                note("list", path)
        elif not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            if inside.startswith(data):
                note("open", path)
            elif path.endswith(".pyc") and inside.startswith(packages):  # an import looks for the compiled file first
                note("open", _source_of(path))

    sys.addaudithook(hook)


def _source_of(path: str) -> str:
    """`a/__pycache__/b.cpython-311.pyc` -> `a/b.py`."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py")


def _folders(variable: str) -> tuple:
    """Folders named by a variable, each with a separator at its end."""
    return tuple(folder + os.sep for folder in os.environ.get(variable, "").split(os.pathsep) if folder)


def _run_the_next_one() -> None:
    """Load the `sitecustomize` that this one hides, if the installation has one."""
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_run_the_next_one()
if os.environ.get("MOLKIT_TRACE"):
    _watch(os.environ["MOLKIT_TRACE"], _folders("MOLKIT_TRACE_DATA"), _folders("MOLKIT_TRACE_PACKAGES"))
