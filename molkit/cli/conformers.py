"""`molkit conformers`: 3D conformers of SMILES from a trained flow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.options import SEED, Engine, Keep, Number, Whole, engine_options, keep_options
from molkit.cli.outputs import STANDARD, OutFile, end_of_parts, require_some, tell
from molkit.errors import InvalidInput

if TYPE_CHECKING:
    from molkit.cgcf.conformer_jobs import ConformerJob, JobResult

SMILES_FILES = (".smi", ".smiles", ".txt", ".csv", ".tsv")
UNNAMED = re.compile(r"line_\d+")


@click.command()
@click.argument("smiles", nargs=-1, required=True)
@click.option("-n", "--count", default=50, show_default=True, type=Whole(min=1), help="Conformers a molecule.")
@click.option("--out", type=OutFile(".sdf", standard=True), required=True, help="An .sdf file, .sdf.gz, or -.")
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    help="Published weights, a run folder, or auto: by size.",
)
@click.option("--search", type=click.Choice(["lbfgs", "adam"]), default="lbfgs", show_default=True)
@click.option(
    "--stereo",
    type=click.Choice(["ignore", "mirror", "redraw"]),
    default="redraw",
    show_default=True,
    help="Wrong handedness: redraw, until right; mirror, left out unless the mirror image is right; ignore, written.",
)
@click.option("--etm", default="", help="Weights of an energy to refine with, or auto.  [default: none]")
@click.option(
    "--relax/--no-relax",
    default=True,
    show_default=True,
    help="Relax by MMFF94, or UFF where that lacks parameters, and keep each minimum once; or leave them as drawn.",
)
@click.option(
    "--rank",
    type=click.Choice(["mmff94", "xtb", "etm", "none"]),
    help="Sort by energy: of the force field that relaxed, GFN2-xTB as they are, or the ETM.  "
    "[default: mmff94, or none with --no-relax]",
)
@click.option(
    "--mix",
    type=click.Choice(["none", "etkdg"]),
    default="none",
    show_default=True,
    help="etkdg: half of the conformers begin from RDKit's ETKDGv3.",
)
@click.option(
    "--window",
    default=50.0,
    show_default=True,
    type=Number(min=0.0),
    help="Leave out relaxed conformers more than this above the lowest, kcal/mol.",
)
@click.option("--largest-fragment", is_flag=True, help="Of a salt or a solvate, take the largest organic part.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@engine_options
@keep_options
def conformers(
    smiles: tuple[str, ...],
    count: int,
    out: Path,
    weights: str,
    search: str,
    stereo: str,
    etm: str,
    relax: bool,
    rank: str | None,
    mix: str,
    window: float,
    largest_fragment: bool,
    seed: int,
    engine: Engine,
    keep: Keep,
) -> None:
    """Generate conformers of each SMILES into one .sdf file: relaxed, each minimum once, lowest energy first.

    In place of a SMILES, a file of them (.smi, .txt, .csv, .tsv, also gzipped, or -): one a line, then a name, which
    becomes the title of its records; or a table with a column smiles.

    A molecule that cannot be treated is named with its reason, and the others are finished. Conformers of another
    isomer than the SMILES specifies are not written. A record says where its conformer comes from (`origin`: cgcf or
    etkdgv3), its energy (`mmff94_kcal`, `uff_kcal`, `gfn2_xtb_ev`, `etm_energy`), and how far that is above the lowest
    one written (`..._above_lowest`). COUNT conformers are made; fewer are written where some are the same minimum.

    Published weights know what they were tested on (their card says
    it: heavy atoms, rotatable bonds, charges, elements): a molecule outside gets a line with how good they were inside.
    """
    from molkit.cgcf.choice import AUTO, energy_for, flow_for
    from molkit.cgcf.conformer_jobs import ConformerJob, run_jobs
    from molkit.chem.text_files import write_atomically

    rank = rank or ("mmff94" if relax else "none")
    how = {"search": search, "stereo": stereo, "relax": relax, "rank": rank, "mix": mix, "window": window}
    molecules = [named for text in smiles for named in expanded(text)]
    if largest_fragment:
        molecules = [(without_salt(text, row), name) for row, (text, name) in enumerate(molecules)]
    jobs = []
    for row, (text, name) in enumerate(molecules):
        flow = flow_for(text) if weights == AUTO else weights
        energy = energy_for(flow) if etm == AUTO else etm
        asked = {"smiles": text, "name": name, "count": count, "seed": seed + row}
        jobs.append(ConformerJob(**asked, weights=flow, energy=energy, **how))
    tell_domains(jobs)
    with keep.open(engine, out) as folder, engine.open() as executor:
        results = run_jobs(jobs, folder=folder, executor=executor, progress=True)
    left_out, short = {}, {}
    for row, (job, one) in enumerate(zip(jobs, results, strict=True)):
        if one.made is None:
            left_out[called(row, job)] = one.error if job.smiles in one.error else f"{job.smiles}: {one.error}"
            continue
        tell(out, summary(one, count, job.weights))
        if (right := len(one.made) + one.made.num_duplicates + one.num_high) < count:
            short[called(row, job)] = f"{job.smiles}: {right} of {count} conformers have the stereo asked for"
    require_some(len(jobs) - len(left_out), left_out)
    records = [record for one in results for record in one.records]
    click.echo("".join(records), nl=False) if out == STANDARD else write_atomically(out, "".join(records))
    tell(out, f"{out}: {len(records)} conformers of {len(jobs) - len(left_out)} molecules, {len(left_out)} failed")
    end_of_parts(len(jobs) - len(left_out) - len(short), left_out, short)


def called(row: int, job: ConformerJob) -> str:
    """The number of a molecule, and its name where it has one."""
    return f"molecule {row + 1}" + (f" ({job.name})" if job.name else "")


def without_salt(smiles: str, row: int) -> str:
    """The largest organic part of a SMILES, which is said; what is no molecule stays, its job says why."""
    from molkit.chem.rdkit_tools import largest_fragment

    try:
        found = largest_fragment(smiles)
    except InvalidInput:
        return smiles
    if found != smiles:
        click.echo(f"note, molecule {row + 1}: {found} of {smiles}", err=True)
    return found


def tell_domains(jobs: Sequence[ConformerJob]) -> None:
    """Say of every molecule in which ways it is outside of what its weights were tested on; once for the same words."""
    from molkit.cgcf.domain import outside
    from molkit.chem.bond_graph import graph_mol

    lines: dict[str, str] = {}
    for row, job in enumerate(jobs):
        try:
            words = outside(graph_mol(job.smiles), job.weights)
        except InvalidInput:
            continue  # the job says why
        if words:
            lines.setdefault(words, called(row, job))
    for words, name in lines.items():
        click.echo(f"note, {name}: {words}", err=True)


def expanded(text: str) -> list[tuple[str, str]]:
    """The text itself without a name, or SMILES and names in the file of that name (`-`: standard input)."""
    from molkit.chem.text_files import kind_of
    from molkit.data.ensembles import read_smiles_file

    if text != "-" and kind_of(Path(text)) not in SMILES_FILES:
        return [(text, "")]
    found = read_smiles_file(Path(text), distinct=False)
    return [(one.smiles, "" if UNNAMED.fullmatch(one.name) else one.name) for one in found]


def summary(result: JobResult, count: int, weights: str) -> str:
    """One line about the conformers of a molecule."""
    made = result.made
    right = len(made) + made.num_duplicates + result.num_high
    short = f" of {count} asked for" if right < count else ""
    notes = [f"{int(made.converged.sum())} converged", f"{made.num_mirrored} reflected"]
    if made.num_duplicates:
        notes.append(f"{made.num_duplicates} the same as others")
    if result.num_high:
        notes.append(f"{result.num_high} above the window of energies")
    if made.num_drawn > right:
        notes.append(f"{made.num_drawn} drawn")
    if wrong := int((~made.stereo_agrees).sum()):
        notes.append(f"{wrong} with wrong stereo")
    if "uff_kcal" in made.energies:
        notes.append("UFF, as MMFF94 lacks parameters")
    if failed := sum(energy != energy for energy in made.energies.get("gfn2_xtb_ev", ())):
        notes.append(f"{failed} without xTB energy")
    return f"{result.smiles}: {len(made)} conformers{short} by {weights} ({', '.join(notes)})"
