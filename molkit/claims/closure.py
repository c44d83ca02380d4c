"""Which first-party files a piece of code can reach, computed from its imports and never declared by hand; and
fingerprints of what they say: syntax trees without comments and docstrings.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from molkit.errors import DataNotFound

BESIDE_THE_NUMBERS = ("molkit.claims", "molkit.experiments", "molkit.figures", "molkit.book", "molkit.cli")
NOT_SAID = {"type_comment", "type_ignores", "kind", "ctx"}  # fields of a syntax tree that change nothing


def code_of(path: Path, name: str, *, root: Path, packages: tuple[str, ...] = ("molkit",)) -> dict[str, str]:
    """Fingerprints of all code that the function `name` of a file reaches, by path below `root`.

    Of its own file only the definitions count that it mentions, directly or through others (as `path:name`); of every
    other file the whole, but for the rooms beside the numbers. Raises DataNotFound where file or function is gone.
    """
    own = _needed(_parse_whole(path), name)
    if not own:
        raise DataNotFound(f"{path}: there is no {name!r} in it")
    text = "\n".join(ast.unparse(node) for node in own)
    files = reachable_files([text], root=root, packages=packages, without=BESIDE_THE_NUMBERS)
    found = {_below(file, root): fingerprint(file) for file in files}
    return {**found, f"{_below(path, root)}:{name}": _digest(_said(own))}


def fingerprint(path: Path) -> str:
    """16 digits that change with what a Python file does, not with its comments, docstrings or layout; of any other
    file, with its bytes.
    """
    return _fingerprint(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=4096)
def _fingerprint(path: Path, _modified: int, _size: int) -> str:
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return _digest(_said(ast.parse(path.read_text(encoding="utf-8"))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(node: object) -> str:
    """A syntax tree in words, alike in every version of Python: no empty fields, no strings that stand alone."""
    if isinstance(node, list):
        return f"[{' '.join(_said(item) for item in node if not _stands_alone(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, getattr(node, name, None)) for name in node._fields if name not in NOT_SAID]
    return (
        f"({type(node).__name__} {' '.join(f'{name}={_said(x)}' for name, x in fields if x is not None and x != [])})"
    )


def _stands_alone(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """Top-level statements that `name` needs, in their order: what it mentions, and what binds no name at all."""
    bound = [(names_bound(node), node) for node in tree.body if not _stands_alone(node)]
    if not any(name in names for names, _ in bound):
        return []
    wanted, waiting = set(), [name, *(word for names, node in bound if not names for word in _words(node))]
    while waiting:
        word = waiting.pop()
        if word not in wanted:
            wanted.add(word)
            waiting += [other for names, node in bound if word in names for other in _words(node)]
    return [node for names, node in bound if not names or names & wanted]


def names_bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    aliases = {alias.asname or alias.name.partition(".")[0] for part in ast.walk(node) for alias in _aliases(part)}
    stored = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    inside = {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef | ast.ClassDef)}
    return aliases | stored | inside


def _aliases(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def _words(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _parse_whole(path: Path) -> ast.Module:
    if not path.is_file():
        raise DataNotFound(f"{path} is named as the source of a result and does not exist")
    return _parse_file(path, path.stat().st_mtime_ns)


def reachable_files(
    code: Iterable[str], *, root: Path, packages: tuple[str, ...], without: tuple[str, ...] = ()
) -> list[Path]:
    """Every file of the packages below `root` that the code's imports reach, sorted; not into the rooms `without`.

    Imports inside functions count, so do the `__init__` of every parent, `import_module("a.b")` with a plain name, all
    modules of a package whose `__init__` answers attributes lazily, and the files beside a reached module that are not
    Python (tables, C source). A name put together at run time is not seen here; the trace of the run sees it.
    """
    finder = _Finder(root, packages)
    waiting = sorted({name for text in code for name in finder.imported(_mentioned(_parse(plain_python(text)), ""))})
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or any(name == room or name.startswith(f"{room}.") for room in without):
            continue
        seen.add(name)
        path = finder.file_of(name)
        if path is None:
            continue
        modified = path.stat().st_mtime_ns
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += finder.imported(_mentioned_in(path, modified, package))
        if path.name == "__init__.py" and _answers_lazily(_parse_file(path, modified)):
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

    def imported(self, mentioned: Iterable[str]) -> set[str]:
        """Those of the names that are first-party, with all their parents."""
        own = [name for name in mentioned if name.partition(".")[0] in self.packages]
        return {parent for name in own for parent in _with_parents(name)}


def _mentioned(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*_climb(package, node.level), *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
            yield from (item.value for item in node.args[:1] if isinstance(item, ast.Constant))


def _last_name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


@lru_cache(maxsize=4096)
def _mentioned_in(path: Path, modified: int, package: str) -> frozenset[str]:
    return frozenset(_mentioned(_parse_file(path, modified), package))


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
