"""`molkit relax`: structures through a diffusion model, as a first step before a real relaxation."""

from math import isfinite
from pathlib import Path

import click

from molkit.cli.options import SEED, Engine, Keep, Whole, engine_options, keep_options
from molkit.cli.outputs import (
    OUT_HELP,
    STRUCTURE_FILES,
    OutFile,
    end_of_parts,
    read_input,
    require_some,
    tell,
    write_output,
)
from molkit.errors import InvalidInput


@click.command()
@click.argument("structures", type=click.Path(path_type=Path))
@click.option(
    "--with", "weights", default="edm_qm9_low_noise", show_default=True, help="Weights; edm stands for edm_qm9."
)
@click.option("--sigma", default="0.3", show_default=True, help="Noise in angstrom, or auto for each molecule's own.")
@click.option("--ending", type=click.Choice(["mean", "sample"]), default="mean", show_default=True, help="Last step.")
@click.option(
    "--sampler",
    type=click.Choice(["ancestral", "ddim"]),
    default="ddim",
    show_default=True,
    help="Path down the chain: with fresh noise, or without.",
)
@click.option("--copies", default=1, show_default=True, type=Whole(min=1), help="Chains to average.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@engine_options
@keep_options
@click.option("--out", type=OutFile(*STRUCTURE_FILES, standard=True), required=True, help=OUT_HELP)
def relax(
    structures: Path,
    weights: str,
    sigma: str,
    ending: str,
    sampler: str,
    copies: int,
    seed: int,
    engine: Engine,
    keep: Keep,
    out: Path,
) -> None:
    """Relax the molecules of STRUCTURES (.xyz, .sdf, .npz, or -) with a diffusion model.

    Elements, order, place and isotopes are kept.
    A molecule that cannot be relaxed is named with its reason and left out: charged or open shells, elements and sizes
    the training did not hold, structures further from a minimum than those that were tested (MMFF94's, of QM9
    molecules). How far off the tested ones were is printed. Weights, noise, path and ending were chosen on other
    molecules than the tested ones; the chapter on force fields says more.
    """
    from molkit.relaxation.recipe import moved_too_far, relax_many
    from molkit.studies.relaxation.versus_force_field import known_error

    options = {"sigma": sigma if sigma == "auto" else _number(sigma), "ending": ending, "copies": copies, "seed": seed}
    options["sampler"] = sampler
    reading = read_input(structures)
    name = "edm_qm9" if weights == "edm" else weights
    with keep.open(engine, out) as folder, engine.open() as executor:
        found = relax_many(name, reading.molecules, folder=folder, executor=executor, progress=True, **options)
    tested = known_error(name, options["sigma"], ending, sampler)
    problems = {problem.index: problem.reason for problem in reading.problems}
    problems |= {reading.indices[row]: reason for row, reason in found.problems.items()}
    made, sizes = [], []
    for index, given, molecule, level in zip(
        reading.indices, reading.molecules, found.molecules, found.levels, strict=True
    ):
        if molecule is None:
            continue
        if tested is not None and (reason := moved_too_far(given, molecule, level)):
            problems[index] = reason
            continue
        made.append(molecule)
        sizes.append((index + 1, molecule.num_atoms))
    left_out = {f"molecule {index + 1}": reason for index, reason in sorted(problems.items())}
    require_some(len(made), left_out)
    write_output(out, made)
    tell(out, f"{out}: {len(made)} molecules relaxed, {len(left_out)} left out")
    tell(out, str(tested) if tested else "how far off these weights are with these settings was not tested")
    for number, size in sizes:
        if tested is not None and not tested.num_atoms[0] <= size <= tested.num_atoms[1]:
            click.echo(f"molecule {number}: {size} atoms, a size that was not tested; its error is not known", err=True)
    end_of_parts(len(made), left_out)


def _number(text: str) -> float:
    """A finite number. Raises InvalidInput for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise InvalidInput(f"--sigma wants a number in angstrom or auto, got {text!r}")
    return number
