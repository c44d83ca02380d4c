"""Structure drawings of many molecules as one SVG picture."""

import html
from collections.abc import Sequence

from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from molkit.chem.rdkit_tools import mol_from_smiles, perceive_bonds
from molkit.errors import InvalidInput
from molkit.molecule import Molecule


def svg_grid(
    entries: Sequence[str | Molecule],
    *,
    legends: Sequence[str] | None = None,
    columns: int = 5,
    panel: tuple[int, int] = (180, 150),
) -> str:
    """Structure drawings of SMILES or molecules (bonds perceived, hydrogens on carbon left out) as one SVG element.

    A molecule whose bonds are not perceived gets an empty panel that says so. Raises InvalidInput for an empty list,
    an unreadable SMILES, or legends of another number.
    """
    if not entries or columns < 1:
        raise InvalidInput(f"a grid needs at least one molecule and one column, got {len(entries)} and {columns}")
    if legends is not None and len(legends) != len(entries):
        raise InvalidInput(f"a grid needs one legend per molecule, got {len(legends)} for {len(entries)} molecules")
    labels = list(legends) if legends is not None else [""] * len(entries)
    mols = [_drawable(entry) for entry in entries]
    columns = min(columns, len(entries))
    width, height = panel
    canvas = rdMolDraw2D.MolDraw2DSVG(width * columns, height * -(-len(entries) // columns), width, height)
    canvas.drawOptions().clearBackground = False
    canvas.DrawMolecules([mol if mol is not None else Chem.Mol() for mol in mols], legends=labels)
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    notes = [  # RDKit writes no legend under an empty panel
        _note(labels[index], (index % columns + 0.5) * width, (index // columns + 0.5) * height)
        for index, mol in enumerate(mols)
        if mol is None
    ]
    return text[text.index("<svg") : text.rindex("</svg>")] + "".join(notes) + "</svg>\n"


def _note(label: str, x: float, y: float) -> str:
    """Centred lines in the middle of an empty panel."""
    style = "text-anchor='middle' font-family='sans-serif' font-size='12' fill='#555555'"
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {style}>bonds not perceived</text>\n"
        f"<text x='{x:.1f}' y='{y + 18:.1f}' {style}>{html.escape(label)}</text>\n"
    )


def _drawable(entry: str | Molecule) -> Chem.Mol | None:
    """A flat copy without plain hydrogens, ready to draw, or None where bonds were not perceived."""
    mol = mol_from_smiles(entry) if isinstance(entry, str) else perceive_bonds(entry).mol
    if mol is None:
        return None
    with rdBase.BlockLogs():
        flat = Chem.RemoveHs(mol)
    flat.RemoveAllConformers()
    Chem.RemoveStereochemistry(flat)
    return rdMolDraw2D.PrepareMolForDrawing(flat, kekulize=True)
