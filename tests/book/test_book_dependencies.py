"""Files a chapter's imports reach, against what Python really loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from molkit.book.layout import REPOSITORY, Book
from molkit.book.notebooks import code_cells, read_notebook
from molkit.claims.closure import plain_python, reachable_files

LOADED = """
import sys, json
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps([file for file in files if file]))
"""


def loaded_files(code: str, root: Path) -> set[Path]:
    """Files below root that a fresh Python has loaded after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", code + LOADED], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    named = {Path(file).resolve() for file in json.loads(done.stdout.splitlines()[-1])}
    files = {file for file in named if file.is_file()}  # torch has made-up modules with names like "_ops.py"
    return {file for file in files if file.is_relative_to(root) and ".venv" not in file.parts}


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
    loaded = loaded_files(code, toy.root)
    assert len(loaded) == 7
    assert loaded <= set(found)
    assert names(set(found) - loaded, toy.root) == {"toylab/inner/table.csv"}


@pytest.mark.parametrize("chapter", Book().chapters())
def test_a_real_chapter_loads_only_files_that_were_computed(chapter):
    cells = code_cells(read_notebook(Book().source(chapter)))
    found = set(reachable_files(cells, root=REPOSITORY, packages=Book().packages))
    loaded = loaded_files(imports_of(cells), REPOSITORY)
    assert names(loaded - found, REPOSITORY) == set()


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
