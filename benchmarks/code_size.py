"""Lines of code of the package: blank lines, comments, docstrings and imports are not counted. Needs no PyTorch.

python -m benchmarks.code_size
"""

import ast
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "molkit"
APPARATUS = ("studies", "figures", "cli", "experiments")  # what carries numbers from the methods to the pages
BARS = {"molkit": 23_000, "files": 220, "apparatus": 7_500}
WITHOUT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count_lines(source: str) -> int:
    """Lines of a module that hold code other than an import or a docstring."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in WITHOUT_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in _not_counted(ast.parse(source)):
        found.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(found)


def _not_counted(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every import, and the docstring of every module, class and function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        holds_words = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if holds_words and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def code_size(root: Path = ROOT) -> dict[str, object]:
    """Lines of the package, its files, lines of each room and of the apparatus, and the bars beside them."""
    rooms: dict[str, int] = {}
    paths = sorted(root.rglob("*.py"))
    for path in paths:
        inside = path.relative_to(root).parts
        room = inside[0] if len(inside) > 1 else "top"
        rooms[room] = rooms.get(room, 0) + count_lines(path.read_text(encoding="utf-8"))
    apparatus = sum(rooms.get(room, 0) for room in APPARATUS)
    sizes = {"molkit": sum(rooms.values()), "files": len(paths), "apparatus": apparatus}
    return {"sizes": sizes, "bars": BARS, "rooms": dict(sorted(rooms.items(), key=lambda room: -room[1]))}


if __name__ == "__main__":
    print(json.dumps(code_size(), indent=2))
