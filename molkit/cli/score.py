"""`molkit score`: stability and validity of somebody's molecules, beside the same figures of QM9."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from molkit.cli.options import Engine, engine_options, retry_option
from molkit.cli.outputs import OutFolder, end_of_parts, read_input, require_some
from molkit.errors import DataNotFound

if TYPE_CHECKING:
    from molkit.metrics.score import Score
    from molkit.molecule import Molecule

COLUMNS = (
    ("atom_stability", "atoms stable"),
    ("molecule_stability", "molecules stable"),
    ("validity", "valid"),
    ("valid_and_unique", "valid and unique"),
    ("novelty", "novel of unique"),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rule",
    type=click.Choice(["edm", "formal_charge", "geom"]),
    default="edm",
    show_default=True,
    help="Stability convention: bond orders from distances (edm, geom), or perceived with charges and aromaticity.",
)
@click.option("--strain", "with_strain", is_flag=True, help="Relax each with GFN2-xTB: energy drop and RMSD.")
@click.option("--posebusters", is_flag=True, help="PoseBusters' checks of the geometry, bonds perceived.")
@engine_options
@click.option("--keep", type=OutFolder(), help="Folder of --strain; continued.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@retry_option("keep")
def score(
    file: Path, rule: str, with_strain: bool, posebusters: bool, engine: Engine, keep: Path | None, as_json: bool
) -> None:
    """Stability, validity and uniqueness of the molecules in FILE (.xyz, .sdf, .mol, .npz, or -).

    Intervals are for 95 %; the row of QM9's test molecules shows what real molecules reach by the same rule. Molecules
    that cannot be scored are listed and left out.
    """
    from molkit.metrics.score import scorable, score_molecules
    from molkit.molecule import PackedMolecules

    reading = read_input(file)
    good, unknown = scorable(reading.molecules, rule=rule)
    skipped = {problem.index: problem.reason for problem in reading.problems}
    skipped |= {reading.indices[row]: f"{file}: {reason}" for row, reason in unknown.items()}
    left_out = {f"molecule {index + 1}": reason for index, reason in sorted(skipped.items())}
    require_some(len(good), left_out)
    molecules = PackedMolecules.from_molecules([reading.molecules[row] for row in good])
    data, reference, note = _data_row(rule)
    ours = score_molecules(molecules, rule=rule, reference=reference)
    extras = _extras([reading.molecules[row] for row in good], with_strain, posebusters, engine, keep)
    if as_json:
        report = {"file": str(file), "rule": rule, "score": ours.as_dict(), "qm9_test": data and data.as_dict()}
        report["skipped"] = [{"index": index, "reason": reason} for index, reason in sorted(skipped.items())]
        report["counting_skipped_as_failures"] = _with_failures(ours, len(skipped))
        click.echo(json.dumps(_without_nan({**report, **extras, "note": note}), indent=2, allow_nan=False))
    else:
        _print_table(file.name, ours, data, note)
        _print_extras(extras)
        if skipped:
            shares = _with_failures(ours, len(skipped))
            figures = ", ".join(f"{label} {100 * shares[key]:.1f}" for key, label in COLUMNS if key in shares)
            click.echo(f"counting the {len(skipped)} left out as failures: {figures} %")
    end_of_parts(len(good), left_out)


def _extras(
    molecules: list[Molecule], with_strain: bool, posebusters: bool, engine: Engine, keep: Path | None
) -> dict[str, dict]:
    """What the options ask for besides, as plain values."""
    found: dict[str, dict] = {}
    if with_strain:
        from molkit.metrics.strain import strain

        with engine.open(apart=True) as executor:
            found["strain"] = asdict(strain(molecules, executor=executor, folder=keep, progress=True))
    if posebusters:
        from molkit.metrics.validity import poses

        found["posebusters"] = asdict(poses(molecules))
    return found


def _print_extras(extras: dict[str, dict]) -> None:
    """A few lines for each."""
    if strain := extras.get("strain"):
        lost = ", ".join(
            f"{strain[f'num_{word}']} {word.replace('_', ' ')}" for word in ("odd", "failed", "not_converged")
        )
        drop, rmsd = strain["energy_drop"], strain["rmsd"]
        median = (
            "no molecule relaxed"
            if drop is None
            else (
                f"median energy drop {drop['value']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}] kcal/mol, "
                f"RMSD {rmsd['value']:.3f} [{rmsd['low']:.3f}, {rmsd['high']:.3f}] angstrom"
            )
        )
        click.echo(f"strain (GFN2-xTB): {median}; of {strain['num_molecules']} molecules {lost}")
    if checks := extras.get("posebusters"):
        click.echo(f"PoseBusters: no bonds found for {checks['num_not_perceived']} of {checks['num_molecules']}")
        for name, share in checks["shares"].items():
            click.echo(f"  {name.replace('_', ' '):<32}{100 * share['value']:6.1f} %")
        click.echo(f"  {'all, of all molecules':<32}{100 * checks['all_passed']['value']:6.1f} %")


def _data_row(rule: str) -> tuple[Score | None, frozenset[str] | None, str]:
    """The score of QM9's test molecules, the training SMILES, and what to say about both."""
    from molkit.chem.rdkit_tools import rdkit_version
    from molkit.data.qm9 import load_reference_smiles
    from molkit.metrics.score import score_of_qm9_test

    try:
        reference = load_reference_smiles()
        data = score_of_qm9_test(rule)
    except DataNotFound as error:
        return None, None, f"no row of QM9 and no novelty: {error}"
    note = f"novelty against {reference.description}; RDKit {rdkit_version()}"
    if reference.rdkit_version != rdkit_version():
        note += f" (the reference SMILES were written by {reference.rdkit_version}, novelty may be off)"
    return data, reference.smiles, note


def _with_failures(ours: Score, skipped: int) -> dict[str, float]:
    """Shares of all molecules of the file, those left out being failures."""
    share = ours.num_molecules / (ours.num_molecules + skipped)
    return {key: getattr(ours, key).value * share for key in ("molecule_stability", "validity", "valid_and_unique")}


def _print_table(name: str, ours: Score, data: Score | None, note: str) -> None:
    """Percentages with intervals, one line a figure."""
    header = f"{f'{name} ({ours.num_molecules})':>34}"
    click.echo(
        f"{'% by rule ' + ours.rule:<22}{header}" + (f"{f'QM9 test ({data.num_molecules})':>34}" if data else "")
    )
    for key, label in COLUMNS:
        cells = "".join(f"{_cell(row, key):>34}" for row in (ours, data) if row is not None)
        click.echo(f"{label:<22}{cells}")
    if ours.num_not_perceived:
        click.echo(f"{ours.num_not_perceived} molecules count as unstable because no bond graph was found")
    if ours.num_in_pieces:
        click.echo(f"{ours.num_in_pieces} molecules lie in pieces (the distance rules count their atoms all the same)")
    if ours.num_overlapping:
        click.echo(f"{ours.num_overlapping} molecules have atoms closer than 0.5 angstrom and count as unstable")
    click.echo(note)


def _without_nan(value: Any) -> Any:
    """The same with null for the ends of an interval that a single molecule does not have: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(row: Score, key: str) -> str:
    interval = getattr(row, key)
    if interval is None:
        return "-"
    percent = interval.scaled(100.0)
    ends = f"[{percent.low:.1f}, {percent.high:.1f}]" if percent.known else "(n = 1, no interval)"
    return f"{percent.value:.1f}  {ends}"
