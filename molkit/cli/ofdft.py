"""Labelled densities, packed sets of them, and densities from a learned functional."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.options import SEED, Engine, Number, Whole, engine_options, retry_option
from molkit.cli.outputs import OutFile, OutFolder, end_of_parts, read_input

if TYPE_CHECKING:
    from molkit.ofdft.density import MoleculeDensity


@click.command()
@click.argument("name", metavar="CLASS")
@click.option("--split", default="train", show_default=True, help="train, valid or test.")
@click.option("--count", default=10, show_default=True, type=Whole(min=1), help="Geometries.")
@click.option("--first", default=0, show_default=True, type=Whole(min=0), help="Number of the first one.")
@click.option("--frozen", default=40, show_default=True, type=Whole(min=0), help="Frozen-potential samples.")
@click.option("--largest", default=0.4, show_default=True, type=Number(min=0.004), help="Perturbation.")
@click.option("--in-loop", is_flag=True, help="Also a calculation with perturbed cycles.")
@click.option("--grid-level", default=2, show_default=True, type=Whole(0, 9), help="PySCF's grid level.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the perturbations.")
@click.option("--out", type=OutFolder(), required=True, help="Folder; continued.")
@engine_options
@retry_option("out")
def labels(
    name: str,
    split: str,
    count: int,
    first: int,
    frozen: int,
    largest: float,
    in_loop: bool,
    grid_level: int,
    seed: int,
    out: Path,
    engine: Engine,
) -> None:
    """Kohn-Sham densities of geometries of CLASS, with value and gradient labels.

    Classes: water, ethanol, ethanol_torsions, small, larger, up_to_five, beyond_five. A folder holds labels of one
    kind; the same command continues after an interruption.
    """
    from molkit.ofdft.geometries import geometry
    from molkit.ofdft.label_files import LabelSettings, generate
    from molkit.ofdft.labels import FrozenSampling

    geometry(name, split, first + count - 1)
    settings = LabelSettings(FrozenSampling(count=frozen, scale=(0.003, largest)), in_loop, grid_level, seed)
    with engine.open() as executor:
        numbers = range(first, first + count)
        report = generate(name, split, numbers, out, settings=settings, executor=executor, progress=True)
    click.echo(f"{out}: {len(report.done)} of {count} geometries labelled")
    end_of_parts(len(report.done), report.failed, noun="geometries")


@click.command("labels-pack")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("name", metavar="CLASS")
@click.option("--split", default="train", show_default=True, help="train, valid or test.")
@click.option("--samples", default=2, show_default=True, type=Whole(min=1), help="Of a molecule, at most.")
@click.option("--limit", type=Whole(min=1), help="Molecules; default: all in the folder.")
@click.option("--out", type=OutFile(".npz"), required=True, help="An .npz file.")
def labels_pack(folder: Path, name: str, split: str, samples: int, limit: int | None, out: Path) -> None:
    """Thin the labels of CLASS in FOLDER (of `molkit labels`) into one small file that a training can read.

    The ground state of every molecule and a few other samples, with the slopes of the total energy.
    """
    from molkit.ofdft.label_files import load_folder
    from molkit.ofdft.label_packs import write_pack

    entries = load_folder(folder, name, split, limit=limit)
    write_pack(out, entries, name=name, split=split, samples=samples)
    click.echo(f"{out}: {len(entries)} molecules, {out.stat().st_size / 2**20:.2f} MiB")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--weights", help="Published weights, or a run.  [default: the first published ones that serve it]")
@click.option(
    "--start", default="minao", show_default=True, help="minao, huckel, reference, or mean (of the weights of water)."
)
@click.option("--method", default="lbfgs", show_default=True, help="lbfgs or descent.")
@click.option("--steps", default=500, show_default=True, type=Whole(min=1), help="At most.")
@click.option("--cube", type=OutFile(), help="Write the (first) density there.")
def density(file: Path, weights: str | None, start: str, method: str, steps: int, cube: Path | None) -> None:
    """Minimise the density of the molecules in FILE (.xyz, .sdf, .npz, or -) with a learned functional, no orbitals.

    Beside the energy stands the error to expect of it, from molecules held out of trainings: it is seldom off by more
    than twice that. A molecule whose atoms are not surrounded as in those tests is left out with the reason. The dipole
    is that of the density as fitted in the density basis, which keeps energies, not moments (about 0.1 D from that of
    orbitals); charges are Hirshfeld's.
    """
    import torch

    from molkit.errors import MolkitError
    from molkit.ofdft.density import density_of, functional_for, load_functional, write_cube
    from molkit.ofdft.optimise import OptimiseOptions

    torch.set_num_threads(1)
    chosen, options = weights and load_functional(weights), OptimiseOptions(method=method, max_steps=steps, step=0.3)
    reading = read_input(file)
    left_out = {f"molecule {problem.index + 1}": problem.reason for problem in reading.problems}
    first, done = None, 0
    for number, molecule in zip((index + 1 for index in reading.indices), reading.molecules, strict=True):
        try:
            functional = chosen or functional_for(molecule)
            found = density_of(molecule, functional, start=start, options=options)
        except MolkitError as error:
            left_out[f"molecule {number}"] = str(error)
            continue
        first, done = first or found, done + 1
        click.echo(f"{_density_line(number, found)}, by {functional.name}")
    if cube is not None and first is not None:
        write_cube(cube, first)
        click.echo(f"{cube}: density of the first molecule")
    end_of_parts(done, left_out)


def _density_line(number: int, found: "MoleculeDensity") -> str:
    result, expected = found.result, found.expected_error
    charges = ", ".join(f"{value:+.3f}" for value in found.charges)
    state = "converged" if result.converged else "NOT converged"
    error = "not known, nothing was held out" if expected is None else f"{expected:.2g} kcal/mol"
    return (
        f"molecule {number}: {result.energy:.6f} Ha, expected error {error} ({state} in {result.num_steps} steps; "
        f"selected step {result.selected}: {result.selected_energy:.6f} Ha), {found.num_electrons:.4f} electrons, "
        f"dipole of the fitted density {found.dipole:.3f} D, Hirshfeld charges {charges}"
    )
