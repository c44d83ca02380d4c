"""`molkit conformers`: 3D conformers of SMILES from a trained flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.engines import Engine, engine_options
from molkit.cli.numbers import SEED, Whole
from molkit.cli.outcome import end_of_parts, require_some
from molkit.cli.outputs import require_place

if TYPE_CHECKING:
    from molkit.cgcf.conformer_jobs import JobResult


@click.command()
@click.argument("smiles", nargs=-1, required=True)
@click.option("-n", "--count", default=50, show_default=True, type=Whole(min=1), help="Conformers a molecule.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="An .sdf file.")
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
@click.option("--mmff", is_flag=True, help="Relax with MMFF94 (200 iterations) afterwards.")
@click.option(
    "--rank", type=click.Choice(["none", "etm", "xtb"]), default="none", show_default=True, help="Sort by energy."
)
@click.option("--seed", default=0, show_default=True, type=SEED)
@engine_options
def conformers(
    smiles: tuple[str, ...],
    count: int,
    out: Path,
    weights: str,
    search: str,
    stereo: str,
    etm: str,
    mmff: bool,
    rank: str,
    seed: int,
    engine: Engine,
) -> None:
    """Generate conformers of each SMILES (or of each line of a file of SMILES) into one .sdf file.

    A molecule that cannot be treated is named with its reason, and the others are finished.
    """
    import torch

    from molkit.cgcf.choice import AUTO, energy_for, flow_for
    from molkit.cgcf.conformer_jobs import ConformerJob, run_jobs
    from molkit.chem.text_files import write_atomically

    require_place(out, (".sdf",))
    torch.set_num_threads(1)
    how = {"search": search, "stereo": stereo, "mmff": mmff, "rank": rank}
    molecules = [line for text in smiles for line in expanded(text)]
    jobs = []
    for row, text in enumerate(molecules):
        flow = flow_for(text) if weights == AUTO else weights
        energy = energy_for(flow) if etm == AUTO else etm
        jobs.append(ConformerJob(smiles=text, count=count, seed=seed + row, weights=flow, energy=energy, **how))
    with engine.open() as executor:
        results = run_jobs(jobs, executor=executor)
    left_out, short = {}, {}
    for number, (job, one) in enumerate(zip(jobs, results, strict=True), start=1):
        if one.made is None:
            left_out[f"molecule {number}"] = f"{job.smiles}: {one.error}"
            continue
        click.echo(summary(one, count, job.weights))
        if len(one.made) < count:
            short[f"molecule {number}"] = (
                f"{job.smiles}: {len(one.made)} of {count} conformers have the stereo asked for"
            )
    require_some(len(jobs) - len(left_out), left_out)
    records = [record for one in results for record in one.records]
    write_atomically(out, "".join(records))
    click.echo(f"{out}: {len(records)} conformers of {len(jobs) - len(left_out)} molecules, {len(left_out)} failed")
    end_of_parts(len(jobs) - len(left_out) - len(short), left_out, short)


def expanded(text: str) -> list[str]:
    """The text itself, or the SMILES in the file of that name."""
    from molkit.data.ensemble_molecules import read_smiles_file

    is_file = text.endswith((".smi", ".txt", ".csv"))
    return [one.smiles for one in read_smiles_file(Path(text))] if is_file else [text]


def summary(result: JobResult, count: int, weights: str) -> str:
    """One line about the conformers of a molecule."""
    made = result.made
    short = f" of {count} asked for" if len(made) < count else ""
    notes = [f"{int(made.converged.sum())} converged", f"{made.num_mirrored} reflected"]
    if made.num_drawn > len(made):
        notes.append(f"{made.num_drawn} drawn")
    if wrong := int((~made.stereo_agrees).sum()):
        notes.append(f"{wrong} with wrong stereo")
    if failed := sum(energy != energy for energy in made.energies.get("gfn2_xtb_ev", ())):
        notes.append(f"{failed} without xTB energy")
    return f"{result.smiles}: {len(made)} conformers{short} by {weights} ({', '.join(notes)})"
