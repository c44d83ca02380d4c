"""The pages of the interface: which modules each shows, and how Sphinx reads our docstrings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CORE = ("molecule", "units", "geometry", "graphs", "rng", "errors", "config")
ROOMS: Mapping[str, str] = {
    "core": "Molecules, units, errors",
    "chem": "Chemistry: files, bonds, conformers, energies",
    "data": "Data sets",
    "metrics": "Metrics",
    "training": "Training",
    "farm": "Farms",
    "experiments": "Experiments: rows, origins, audits, tables",
    "edm": "Equivariant diffusion",
    "cgcf": "Flows for conformers",
    "ofdft": "Energy without orbitals",
    "relaxation": "Diffusion and electronic structure",
    "pipeline": "The pipeline",
    "claims": "Claims and verdicts",
    "studies": "Studies: what the chapters measure",
}


def modules(room: str, package: Path) -> list[str]:
    """Dotted names of the public modules of a room of the package at that path, in order."""
    if room == "core":
        return [f"molkit.{name}" for name in CORE]
    found = sorted(path for path in (package / room).rglob("*.py") if not path.name.startswith("_"))
    return [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in found]


def module_page(room: str, package: Path) -> str:
    """The Markdown of one page."""
    lines = [f"# {ROOMS[room]}", "", "```{eval-rst}"]
    for name in modules(room, package):
        lines += [name, "-" * len(name), "", f".. automodule:: {name}", "   :members:", ""]
    return "\n".join([*lines[:-1], "```", ""])


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: |x| is an absolute value in our docstrings, not a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point of an extension."""
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True}
