"""Who may import whom: arrows point down, heavy packages stay in their rooms, and reading a method stays short."""

import ast
import json
from functools import cache
from pathlib import Path

import pytest

from molkit.book.layout import REPOSITORY
from molkit.book.notebooks import code_cells
from molkit.claims.closure import names_bound, plain_python, reachable_files

LAYERS = [  # from the ground up; rooms of one layer do not import each other unless SIDEWAYS says so
    {"units", "errors", "rng"},
    {"config"},
    {"molecule", "geometry", "graphs", "nn", "claims"},
    {"chem"},
    {"data", "training"},
    {"farm"},
    {"metrics"},
    {"experiments"},
    {"edm", "cgcf", "ofdft"},
    {"relaxation"},
    {"pipeline"},
    {"studies"},
    {"cli", "book", "figures", "doctor"},
]
SIDEWAYS = {("cli", "book"), ("cli", "doctor"), ("cli", "figures"), ("studies", "figures")}
SHARED_FIGURES = {"style", "view3d", "plots"}  # what a page's room may take from `figures`: what several pages share
METHODS = {"edm", "cgcf", "ofdft"}
ROOMS_OF_PACKAGES = {
    "rdkit": {"chem"},
    "pyscf": {"chem", "ofdft"},
    "tblite": {"chem"},
    "geometric": {"chem"},
    "matplotlib": {"figures", "studies"},
    "py3Dmol": {"figures"},
    "IPython": {"figures", "book", "claims"},
    "papermill": {"book"},
    "nbformat": {"book"},
    "nbclient": {"book"},
    "click": {"cli"},
    "pandas": {"experiments", "studies", "figures"},
    "lightning_fabric": {"training"},
    "torch_geometric": {"data", "graphs", "training", "molecule"},
    "ase": {"chem", "relaxation"},
}
FILES = sorted((REPOSITORY / "molkit").rglob("*.py"))
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(module: str) -> str:
    """`molkit.edm.network` -> `edm`; the package itself and its entry point -> ""."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, anywhere in it, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            if node.module == "molkit":
                found |= {f"molkit.{alias.name}" for alias in node.names if alias.name != "__version__"}
            else:
                found.add(node.module)
    return found


def arrows() -> list[tuple[str, str, str]]:
    """(file, its room, the room it imports) for every import between rooms."""
    return [
        (path.relative_to(REPOSITORY).as_posix(), room_of(module_of(path)), room_of(name))
        for path in FILES
        for name in imports(path)
        if name.split(".")[0] == "molkit" and room_of(name) != room_of(module_of(path)) and room_of(module_of(path))
    ]


def code_of_ours() -> list[tuple[str, str]]:
    """(where, source) of every Python file and every chapter of this repository."""
    files = [path for room in ("molkit", "tests", "benchmarks") for path in sorted((REPOSITORY / room).rglob("*.py"))]
    books = sorted((REPOSITORY / "chapters").rglob("*.ipynb"))
    told = [(path, path.read_text(encoding="utf-8")) for path in files]
    told += [(path, "\n".join(map(plain_python, code_cells(json.loads(path.read_text()))))) for path in books]
    return [(path.relative_to(REPOSITORY).as_posix(), source) for path, source in told]


@cache
def names_in(module: str) -> set[str]:
    """What a module of ours binds at its top level, and what lies in a package; empty where there is no such module."""
    base = REPOSITORY.joinpath(*module.split("."))
    path = next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
    if path is None:
        return set()
    inside = {other.stem for other in base.iterdir()} if base.is_dir() else set()
    return {"", *inside} | {
        name for node in ast.parse(path.read_text(encoding="utf-8")).body for name in names_bound(node)
    }


def test_every_import_of_ours_names_something_that_exists():
    wrong = []
    for where, source in code_of_ours():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                asked = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                asked = [(node.module, alias.name) for alias in node.names]
            else:
                continue
            ours = [(module, name) for module, name in asked if module.split(".")[0] in ("molkit", "benchmarks")]
            wrong += [f"{where}: {module} {name}" for module, name in ours if name not in names_in(module)]
    assert wrong == []


def test_every_room_has_a_layer():
    assert {room_of(module_of(path)) for path in FILES} - {""} <= set(LEVEL)


def test_no_arrow_points_up_or_sideways():
    wrong = [
        f"{file}: {source} imports {target}"
        for file, source, target in arrows()
        if target and LEVEL[target] >= LEVEL[source] and (source, target) not in SIDEWAYS
    ]
    assert wrong == []


def test_rooms_of_pages_take_from_figures_what_pages_share_and_nothing_else():
    taken = {
        name
        for path in FILES
        for name in imports(path)
        if room_of(module_of(path)) == "studies" and room_of(name) == "figures"
    }
    assert {name.split(".")[2] for name in taken if name != "molkit.figures"} <= SHARED_FIGURES


def test_methods_never_import_each_other():
    assert [arrow for arrow in arrows() if {arrow[1], arrow[2]} <= METHODS] == []


@pytest.mark.parametrize("package", ROOMS_OF_PACKAGES)
def test_a_package_stays_in_its_rooms(package):
    users = {
        path.relative_to(REPOSITORY).as_posix(): room_of(module_of(path))
        for path in FILES
        if any(name.split(".")[0] == package for name in imports(path))
    }
    allowed = ROOMS_OF_PACKAGES[package]
    assert {file: room for file, room in users.items() if room not in allowed and file != "molkit/__main__.py"} == {}


def test_the_diffusion_of_edm_can_be_read_in_ten_files_of_three_folders():
    files = reachable_files(["import molkit.edm.diffusion"], root=REPOSITORY, packages=("molkit",))
    assert len(files) <= 10, [file.name for file in files]
    assert len({file.parent for file in files}) <= 3


def test_only_the_command_line_prints():
    def prints(path):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)

    assert [module_of(path) for path in FILES if room_of(module_of(path)) != "cli" and prints(path)] == []
