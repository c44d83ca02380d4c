"""Molecules in three dimensions, drawn in the page by 3Dmol.js, each with a sentence for those who cannot see it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from molkit.errors import InvalidInput
from molkit.molecule import Molecule

if TYPE_CHECKING:
    import py3Dmol
    from IPython.display import HTML

ONLINE_3DMOL = "https://cdn.jsdelivr.net/npm/3dmol@2.5.5/build/3Dmol-min.js"
# Okabe-Ito colours told apart from each other and from white; hydrogen light, carbon dark
ELEMENT_COLOURS = {1: "#d9dee2", 6: "#4d5358", 7: "#0072B2", 8: "#D55E00", 9: "#009E73", 15: "#CC79A7", 16: "#E69F00"}
OTHER_COLOUR = "#CC79A7"
SPHERE_SCALE = 0.26
STICK_RADIUS = 0.13
HALO_SCALE, HALO_COLOUR = 0.42, "#F0E442"


def show_molecule(
    molecule: Molecule, *, caption: str, description: str | None = None, width: int = 420, height: int = 320
) -> "HTML":
    """One molecule that can be turned. `description` is the text alternative; default: the caption and the formula."""
    view = _new_view(width, height)
    view.addModel(xyz_text(facing(molecule)), "xyz")
    _style(view, [molecule])
    view.zoomTo()
    return _figure(view, caption, description or f"{caption} 3D view of {molecule.formula}.", width)


def show_grid(
    molecules: Sequence[Molecule],
    *,
    caption: str,
    columns: int = 4,
    description: str | None = None,
    cell: int = 170,
    marked: Sequence[int] | None = None,
) -> "HTML":
    """Many molecules in one picture, row by row, each turned by itself. Raises InvalidInput when there is none.

    `marked`: how many atoms of each molecule, the first ones, stand in a halo.
    """
    if not molecules or columns < 1:
        raise InvalidInput(f"a grid needs molecules and columns, got {len(molecules)} and {columns}")
    columns = min(columns, len(molecules))
    rows = -(-len(molecules) // columns)
    view = _new_view(cell * columns, cell * rows, grid=(rows, columns))
    for index, molecule in enumerate(molecules):
        place = divmod(index, columns)
        view.addModel(xyz_text(facing(molecule)), "xyz", viewer=place)
        _style(view, [molecule], viewer=place)
        if marked is not None and marked[index]:
            halo = {"sphere": {"scale": HALO_SCALE, "color": HALO_COLOUR, "opacity": 0.45}}
            view.addStyle({"index": list(range(marked[index]))}, halo, viewer=place)
        view.zoomTo(viewer=place)
    text = description or f"{caption} 3D views of {', '.join(molecule.formula for molecule in molecules)}."
    return _figure(view, caption, text, cell * columns)


def show_trajectory(
    frames: Sequence[np.ndarray],
    atomic_numbers: np.ndarray,
    *,
    caption: str,
    description: str | None = None,
    interval_ms: int = 120,
    reps: int = 1,
    hold: int = 6,
    width: int = 460,
    height: int = 360,
) -> "HTML":
    """A film of one molecule: frames of positions [A, 3] in angstrom, the last one held for `hold` frames.

    Elements do not change during the film; bonds are drawn anew in each frame, where atoms are close enough. reps: how
    often it plays (0 for ever; a page that never rests is hard to read and to check). Raises InvalidInput for no
    frames or frames of different shapes.
    """
    shapes = {np.shape(frame) for frame in frames}
    if shapes != {(len(atomic_numbers), 3)}:
        raise InvalidInput(f"a film needs frames of shape ({len(atomic_numbers)}, 3), got {sorted(shapes) or 'none'}")
    turn = _broadside(np.asarray(frames[-1]))
    stills = [Molecule(np.asarray(atomic_numbers), np.asarray(frame) @ turn).centred() for frame in frames]
    stills += [stills[-1]] * hold
    view = _new_view(width, height)
    view.addModelsAsFrames("".join(xyz_text(still) for still in stills), "xyz")
    _style(view, [stills[-1]])
    view.zoomTo({"frame": len(stills) - 1})
    view.zoom(0.7)
    view.animate({"loop": "forward", "reps": reps, "interval": interval_ms})
    text = description or f"{caption} Film of {len(frames)} steps that ends in {stills[-1].formula}."
    return _figure(view, caption, text, width)


def facing(molecule: Molecule) -> Molecule:
    """The molecule turned so that its longest extent lies across the picture and its shortest points at the reader."""
    return molecule.with_positions(molecule.positions @ _broadside(molecule.positions)).centred()


def xyz_text(molecule: Molecule) -> str:
    """The molecule in XYZ format with 3 decimals, enough for a picture."""
    lines = [
        f"{symbol} {x:.3f} {y:.3f} {z:.3f}"
        for symbol, (x, y, z) in zip(molecule.symbols, molecule.positions, strict=True)
    ]
    return "\n".join([str(molecule.num_atoms), molecule.formula, *lines]) + "\n"


def script_address() -> str:
    """Where the page finds 3Dmol.js: MOLKIT_3DMOL_JS, which the book sets to its own copy; in live Jupyter, online."""
    return os.environ.get("MOLKIT_3DMOL_JS") or ONLINE_3DMOL


def _broadside(positions: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] to the principal axes of points [A, 3], longest first; its determinant is +1, so no mirror."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1].copy()
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return axes


def _new_view(width: int, height: int, *, grid: tuple[int, int] | None = None) -> "py3Dmol.view":
    import py3Dmol

    return py3Dmol.view(width=width, height=height, viewergrid=grid, linked=False, js=script_address())


def _style(view: "py3Dmol.view", molecules: Sequence[Molecule], **where: Any) -> None:
    """Balls and sticks in colours that everybody can tell apart."""
    numbers = sorted({int(number) for molecule in molecules for number in molecule.atomic_numbers})
    symbols: Mapping[int, str] = {
        int(number): symbol
        for molecule in molecules
        for number, symbol in zip(molecule.atomic_numbers, molecule.symbols, strict=True)
    }
    for number in numbers:
        colour = ELEMENT_COLOURS.get(number, OTHER_COLOUR)
        balls = {"scale": SPHERE_SCALE * (0.8 if number == 1 else 1.0), "color": colour}
        style = {"sphere": balls, "stick": {"radius": STICK_RADIUS, "color": colour}}
        view.setStyle({"elem": symbols[number]}, style, **where)


def _figure(view: "py3Dmol.view", caption: str, description: str, width: int) -> "HTML":
    """The view with its caption and its text alternative; the same view gives the same HTML."""
    from IPython.display import HTML

    html = view._make_html()
    name = hashlib.sha256(html.replace(view.uniqueid, "").encode()).hexdigest()[:16]
    html = html.replace(view.uniqueid, name)
    return HTML(
        f'<figure class="molkit-view" style="max-width:{width}px">'
        f'<div role="img" aria-label="{escape(description)}">{html}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
