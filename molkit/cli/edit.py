"""`molkit edit`: complete given atoms, vary a molecule, make isomers of a formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.numbers import SEED, Number, Whole
from molkit.cli.outcome import end_of_parts, require_some
from molkit.cli.outputs import OUT_HELP, STRUCTURE_FILES, OutFile, read_input, tell, write_output
from molkit.errors import InvalidInput

if TYPE_CHECKING:
    from molkit.edm.editing import Edits
    from molkit.molecule import Molecule

INPUT = click.Path(path_type=Path)


@click.group()
def edit() -> None:
    """Complete, vary or compose molecules with a trained model."""


def shared(command: Callable) -> Callable:
    """The options that the three commands have in common."""
    options = (
        click.option("--count", default=20, show_default=True, type=Whole(min=1), help="How many molecules."),
        click.option("--calls", help="Network calls of one pass, or all for every step; default: 100."),
        click.option("--guidance", type=Number(min=0.0), help="Strength of the pull; 0 for none. [default: 4]"),
        click.option("--seed", default=0, show_default=True, type=SEED),
        click.option("--out", type=OutFile(*STRUCTURE_FILES, standard=True), required=True, help=OUT_HELP),
    )
    for option in reversed(options):
        command = option(command)
    return command


def resampling(command: Callable) -> Callable:
    """The option of the commands that walk stretches of the chain again."""
    return click.option(
        "--resamplings", default=1, show_default=True, type=Whole(min=1), help="Passes of every stretch."
    )(command)


@edit.command()
@click.argument("weights")
@click.argument("fragment", type=INPUT)
@click.option("--add", help="Atoms to add: a number (6) or a formula (C2H5). Default: a size drawn for each molecule.")
@resampling
@shared
def complete(weights: str, fragment: Path, add: str | None, resamplings: int, out: Path, **options) -> None:
    """Keep the atoms of FRAGMENT (.xyz, .sdf, .npz, or -) in place and make the missing ones with WEIGHTS.

    The fixed atoms come first in every molecule, with their coordinates unchanged.
    """
    from molkit.edm import editing

    wanted = _wanted(add)
    fixed = _one_molecule(fragment, without_hydrogens=True)
    _report(
        out,
        lambda edm, common: editing.complete(edm, fixed, **wanted, resamplings=resamplings, **common),
        weights,
        **options,
    )


@edit.command()
@click.argument("weights")
@click.argument("molecule", type=INPUT)
@click.option(
    "--sigma", type=Number(), required=True, help="Noise on each coordinate, in angstrom; 0.3 changes little."
)
@click.option("--keep-elements", is_flag=True, help="Noise the positions only.")
@click.option("--keep-atoms", default="", help="Atoms that stay in place, counted from 1: 1,2,5-8.")
@shared
def vary(
    weights: str, molecule: Path, sigma: float, keep_elements: bool, keep_atoms: str, out: Path, **options
) -> None:
    """Noise MOLECULE (.xyz, .sdf, .npz, or -) to a level and clean it up again with WEIGHTS."""
    from molkit.edm import editing

    original = _one_molecule(molecule)
    kept = {"keep_atoms": _atoms(keep_atoms, original.num_atoms), "keep_elements": keep_elements}
    _report(out, lambda edm, common: editing.vary(edm, original, sigma=sigma, **kept, **common), weights, **options)


@edit.command()
@click.argument("weights")
@click.argument("formula")
@resampling
@shared
def compose(weights: str, formula: str, resamplings: int, out: Path, **options) -> None:
    """Make molecules of a FORMULA such as C7H10O2 with WEIGHTS."""
    from molkit.chem.composition import parse_formula
    from molkit.edm import editing

    composition = parse_formula(formula)
    _report(
        out,
        lambda edm, common: editing.with_composition(edm, composition, resamplings=resamplings, **common),
        weights,
        **options,
    )


def _wanted(add: str | None) -> dict:
    """The new atoms as arguments of `complete`."""
    if add is None:
        return {"num_new": None}
    from molkit.chem.composition import parse_formula
    from molkit.config import whole_number

    if not add.strip()[:1].isalpha():
        return {"num_new": whole_number(add, what="--add, where it is no formula,", low=1)}

    return {"new_elements": [number for number, times in parse_formula(add).items() for _ in range(times)]}


def _atoms(text: str, num_atoms: int) -> list[int]:
    """Atoms counted from 0 of a list such as 1,2,5-8, which counts from 1."""
    from molkit.config import whole_ranges

    return [number - 1 for number in whole_ranges(text, what="--keep-atoms (such as 1,2,5-8)", low=1, high=num_atoms)]


def _one_molecule(path: Path, *, without_hydrogens: bool = False) -> Molecule:
    """The only molecule of a file. Raises InvalidInput for none, several, or one that cannot be used."""
    reading = read_input(path, check_overlap=False, without_hydrogens=without_hydrogens)
    if reading.problems:
        raise InvalidInput(reading.problems[0].reason)
    if len(reading.molecules) != 1:
        raise InvalidInput(f"{path}: expected one molecule, got {len(reading.molecules)}")
    return reading.molecules[0]


def _report(
    out: Path,
    run: Callable[..., Edits],
    weights: str,
    *,
    count: int,
    calls: str | None,
    guidance: float | None,
    seed: int,
) -> None:
    """Check the target, run the edit, write the molecules, and say how many came out and how many are stable."""
    from molkit.cli.edm import number_of_calls
    from molkit.edm.editing import GUIDANCE
    from molkit.edm.model import load
    from molkit.edm.samplers import DEFAULT
    from molkit.rng import generator_from

    edm = load(weights, precision="auto")
    common = {
        "count": count,
        "num_calls": min(DEFAULT.num_calls, edm.config.num_steps + 1) if calls is None else number_of_calls(calls),
        "guidance": GUIDANCE if guidance is None else guidance,
        "generator": generator_from("edit", seed),
        "progress": True,
    }
    edits = run(edm, common)
    reason = "its chain did not stay finite, or ended in other elements; another --guidance or --calls may help"
    left_out = {f"molecule {row + 1}": reason for row in edits.failed}
    require_some(len(edits.molecules), left_out)
    write_output(out, edits.molecules)
    tell(out, f"{out}: {len(edits.molecules)} molecules{_stable_share(edits)}, {edits.num_calls} network calls each")
    end_of_parts(len(edits.molecules), left_out)


def _stable_share(edits: Edits) -> str:
    """How many are stable by EDM's rule, in words; nothing where the rule does not know an element."""
    from molkit.metrics.stability import stability

    try:
        return f", {int(stability(edits.molecules).molecule_stable.sum())} of them stable by EDM's rule"
    except InvalidInput:
        return ""
