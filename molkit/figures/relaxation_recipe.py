"""Tables of what improves a relaxation by diffusion, and of its cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from molkit.figures.tables import html_table, with_interval
from molkit.studies.relaxation_recipe import Cost, VariantResult

if TYPE_CHECKING:
    from IPython.display import HTML


def variants_table(found: Sequence[VariantResult]) -> "HTML":
    """Energy excess of every variant."""
    rows = [
        (
            one.label if not one.weights else f"{one.weights}: {one.label}",
            with_interval(one.mean()),
            with_interval(one.median()),
            str(len(one.excesses)),
            str(one.num_failed),
        )
        for one in found
    ]
    caption = (
        "QM9 validation molecules, energy of the structure above the GFN2-xTB minimum next to MMFF94's structure, "
        "kcal/mol, bootstrap 95 % intervals over molecules. Elements held. The default of `molkit relax` was chosen on "
        "validation molecules too."
    )
    return html_table(("", "mean", "median", "n", "failed"), rows, caption=caption)


def costs_table(found: Sequence[Cost]) -> "HTML":
    """CPU seconds a molecule."""
    rows = [(one.label, f"{1000 * one.seconds:.0f}", str(one.num)) for one in found]
    caption = (
        "CPU milliseconds a molecule on one core, QM9 test molecules; diffusion in one batch, everything else molecule "
        "by molecule, xTB in internal coordinates from MMFF94's structure."
    )
    return html_table(("", "CPU ms", "n"), rows, caption=caption)
