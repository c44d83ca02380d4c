"""Files a chapter's imports reach, against what Python really loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from molkit.book.layout import REPOSITORY, Book
from molkit.book.notebooks import code_cells, read_notebook
from molkit.claims.closure import plain_python, reachable_files

# Runs each piece of code in a child of one process that has read other people's libraries, which takes seconds, once.
LOADED = """
import importlib, json, os, sys, traceback
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not any(name.partition(".")[0] == "molkit" for name in sys.modules)
for name, code in json.load(sys.stdin).items():
    if os.fork() == 0:
        try:
            exec(code, {"__name__": "__main__"})
            files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
            told = [file for file in files if file]
        except BaseException:
            told = traceback.format_exc()
        print(json.dumps({name: told}), flush=True)
        os._exit(0)
    os.wait()
"""


def libraries() -> list[str]:
    """Modules of other people that files of the package import when they are read, without the command line's."""
    files = [path for path in (REPOSITORY / "molkit").rglob("*.py") if not {"book", "cli"} & set(path.parts)]
    nodes = [node for path in files for node in ast.parse(path.read_text(encoding="utf-8")).body]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in found if name.partition(".")[0] != "molkit")


def loaded_files(codes: dict[str, str], root: Path) -> dict[str, set[Path]]:
    """Files below root that a fresh Python has loaded after running each code."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *libraries()],
        input=json.dumps(codes),
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = {}
    for line in done.stdout.splitlines():
        for name, told in json.loads(line).items() if line.startswith("{") else ():
            assert isinstance(told, list), f"{name}: {told}"
            here = {Path(file) for file in told if file.startswith(f"{root}/") and "/.venv/" not in file}
            found[name] = {file for file in here if file.is_file()}  # torch has made-up modules, as "_ops.py"
    return found


def imports_of(cells: list[str]) -> str:
    """Only the import statements of some code cells."""
    trees = [ast.parse(plain_python(cell)) for cell in cells]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in nodes)


def names(files, root):
    return {file.relative_to(root).as_posix() for file in files}


def test_nothing_that_python_loads_is_missed(toy):
    code = "import toylab.other\nfrom toylab.sums import total\ntoylab.other.answer()\ntotal(['1'])\n"
    found = reachable_files([code], root=toy.root, packages=toy.packages)
    loaded = loaded_files({"toy": code}, toy.root)["toy"]
    assert len(loaded) == 7
    assert loaded <= set(found)
    assert names(set(found) - loaded, toy.root) == {"toylab/inner/table.csv"}


def test_real_chapters_load_only_files_that_were_computed():
    cells = {chapter: code_cells(read_notebook(Book().source(chapter))) for chapter in Book().chapters()}
    loaded = loaded_files({chapter: imports_of(own) for chapter, own in cells.items()}, REPOSITORY)
    assert set(loaded) == set(cells)
    missed = {}
    for chapter, own in cells.items():
        found = set(reachable_files(own, root=REPOSITORY, packages=Book().packages))
        assert loaded[chapter] & found
        missed[chapter] = names(loaded[chapter] - found, REPOSITORY)
    assert {chapter: files for chapter, files in missed.items() if files} == {}


def test_other_packages_and_ipython_lines_are_left_out(toy):
    code = "%matplotlib inline\n!ls\nimport numpy\nfrom toylab import constants\nimport toylab.absent"
    assert names(reachable_files([code], root=toy.root, packages=toy.packages), toy.root) == {
        "toylab/__init__.py",
        "toylab/constants.py",
    }


def test_a_package_that_answers_lazily_counts_as_a_whole(toy):
    (toy.root / "toylab" / "inner" / "__init__.py").write_text("def __getattr__(name):\n    return name\n")
    found = names(reachable_files(["import toylab.inner"], root=toy.root, packages=toy.packages), toy.root)
    assert "toylab/inner/convert.py" in found and "toylab/sums.py" not in found
