"""Loaded by Python itself at the start of a chapter's kernel: notes which data files and modules the chapter uses.

The folder of this file is put on PYTHONPATH by `molkit.book.execute`, so worker processes of a chapter are seen too.
MOLKIT_TRACE names the file to append to, MOLKIT_TRACE_ROOTS the folders to watch, MOLKIT_TRACE_PACKAGES the packages.
Each line is a kind (open, list or import), a tab, and a path or module name.
"""

import os
import sys


def _watch(trace: str, roots: tuple, packages: tuple) -> None:
    """Append one line for each file read, folder listed or module imported below the roots and packages."""
    seen = set()
    journal = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(kind, name):
        if (kind, name) not in seen:
            seen.add((kind, name))
            os.write(journal, f"{kind}\t{name}\n".encode())

    def hook(event, arguments):
        if event == "import":
            if arguments[0].partition(".")[0] in packages:
                note("import", arguments[0])
        elif event in ("open", "os.scandir", "os.listdir"):
            try:
                path = os.path.abspath(os.fsdecode(arguments[0]))
            except TypeError:  # an open descriptor, or None
                return
            if not (path + os.sep).startswith(roots):
                return
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if not writes:
                note("open" if event == "open" else "list", path)

    sys.addaudithook(hook)


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
    _watch(
        os.environ["MOLKIT_TRACE"],
        tuple(root + os.sep for root in os.environ.get("MOLKIT_TRACE_ROOTS", "").split(os.pathsep) if root),
        tuple(os.environ.get("MOLKIT_TRACE_PACKAGES", "").split(",")),
    )
