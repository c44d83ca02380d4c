"""Which first-party files a piece of code can reach, computed from its imports and never declared by hand."""

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path


def reachable_files(code: Iterable[str], *, root: Path, packages: tuple[str, ...]) -> list[Path]:
    """Every file of the packages below `root` that the code's imports reach, sorted.

    Imports inside functions count, so do the `__init__` of every parent, `import_module("a.b")` with a plain name, all
    modules of a package whose `__init__` answers attributes lazily, and the files beside a reached module that are not
    Python (tables, C source). A name put together at run time is not seen here; the trace of the run sees it.
    """
    finder = _Finder(root, packages)
    waiting = sorted({name for text in code for name in finder.imported(_parse(plain_python(text)), package="")})
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = finder.file_of(name)
        if path is None:
            continue
        tree = _parse_file(path, path.stat().st_mtime_ns)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += finder.imported(tree, package=package)
        if path.name == "__init__.py" and _answers_lazily(tree):
            waiting += finder.modules_inside(name)
    files = {path for name in seen if (path := finder.file_of(name)) is not None}
    return sorted(files | {data for folder in {path.parent for path in files} for data in _package_data(folder)})


def plain_python(text: str) -> str:
    """A notebook cell without the lines that only IPython understands."""
    return "\n".join("pass" if line.startswith(("%", "!")) else line for line in text.splitlines())


class _Finder:
    """Maps module names of the packages to files below the root."""

    def __init__(self, root: Path, packages: tuple[str, ...]) -> None:
        self.root = root
        self.packages = packages

    def file_of(self, name: str) -> Path | None:
        """The file of a module or the `__init__` of a package; None if there is no such first-party file."""
        if name.partition(".")[0] not in self.packages or not all(part.isidentifier() for part in name.split(".")):
            return None
        base = self.root.joinpath(*name.split("."))
        return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)

    def modules_inside(self, package: str) -> list[str]:
        """Modules and packages directly inside a package."""
        folder = self.root.joinpath(*package.split("."))
        files = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        return [f"{package}.{stem}" for stem in [*files, *(path.parent.name for path in folder.glob("*/__init__.py"))]]

    def imported(self, tree: ast.AST, *, package: str) -> set[str]:
        """Names of the first-party modules a syntax tree mentions, with all their parents."""
        return {
            parent
            for name in _mentioned(tree, package)
            if name.partition(".")[0] in self.packages
            for parent in _with_parents(name)
        }


def _mentioned(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*_climb(package, node.level), *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            yield from (item.value for item in node.args[:1] if isinstance(item, ast.Constant))


def _climb(package: str, level: int) -> list[str]:
    """The package that a relative import of this level starts from."""
    if level == 0:
        return []
    parts = package.split(".")
    return parts[: len(parts) - (level - 1)]


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _answers_lazily(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)


def _package_data(folder: Path) -> Iterator[Path]:
    """Files beside the modules of a folder that are not Python, and those of subfolders that are no packages."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").is_file():
            yield from _package_data(path)
        elif path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])  # the run will say it better than we can


@lru_cache(maxsize=4096)
def _parse_file(path: Path, _modified: int) -> ast.Module:
    return _parse(path.read_text(encoding="utf-8"))
