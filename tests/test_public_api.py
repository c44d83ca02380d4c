"""What every public function owes its reader: types and a docstring; and no import may do work."""

import ast
import subprocess
import sys

import pytest

from molkit.book.layout import REPOSITORY

FILES = [path for path in sorted((REPOSITORY / "molkit").rglob("*.py")) if path.name != "sitecustomize.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_public_functions_are_typed_and_described(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "the file says what it is about"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    for function in functions:
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        assert all(argument.annotation for argument in arguments), f"{function.name}: every argument has a type"
        assert function.returns is not None, f"{function.name}: what comes out has a type"
        assert ast.get_docstring(function), f"{function.name}: a sentence that says what it is"


def test_the_command_line_answers_without_heavy_imports():
    heavy = "torch, rdkit, matplotlib, papermill, pyscf, pandas, scipy"
    code = f"import sys, molkit.cli.book, molkit.cli; print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
