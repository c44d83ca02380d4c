"""Nothing that runs code from a file: no pickle is read, YAML is safe, archives are not unpacked by name, no shell."""

import ast

import pytest

from molkit.book.layout import REPOSITORY

FILES = [*sorted((REPOSITORY / "molkit").rglob("*.py")), *sorted((REPOSITORY / "benchmarks").rglob("*.py"))]
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load", "marshal.loads", "shelve.open",
    "pandas.read_pickle", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen",
    "eval", "exec", "np.lib.format.read_array", "shutil.unpack_archive",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "extract"}


def calls(path):
    """(dotted name, node) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_code_comes_out_of_a_file(path):
    for name, node in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in FORBIDDEN_CALLS, f"{name} at line {node.lineno}"
        assert keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert keywords.get("shell", "False") == "False", f"line {node.lineno}"
        if name.rpartition(".")[2] in FORBIDDEN_METHODS and path.suffix == ".py":
            assert not name.startswith(("archive", "tar", "zip")), f"line {node.lineno}"


def test_numpy_files_are_opened_without_pickles():
    for path in FILES:
        for name, node in calls(path):
            if name in ("np.load", "numpy.load"):
                assert any(keyword.arg == "allow_pickle" for keyword in node.keywords), f"{path}: line {node.lineno}"
