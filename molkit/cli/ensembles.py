"""`molkit ensembles`: reference ensembles of conformers."""

from pathlib import Path

import click

from molkit.cli.engines import Engine, engine_options, retry_option
from molkit.cli.numbers import SEED, Number, Whole
from molkit.cli.outcome import end_of_parts, require_some
from molkit.cli.outputs import OutFile, OutFolder


@click.group()
def ensembles() -> None:
    """Reference ensembles of conformers by GFN2-xTB, and sets of them."""


@ensembles.command()
@click.argument("molecules")
@click.option("--count", type=Whole(min=1), help="Molecules, of a named choice.  [default: 200]")
@click.option("--starts", default=50, show_default=True, type=Whole(min=1), help="Starts a molecule.")
@click.option(
    "--relaxations",
    default=0,
    show_default=True,
    type=Whole(min=0),
    help="By xTB, a molecule; 0: all distinct.",
)
@click.option("--window", default=6.0, show_default=True, type=Number(min=0.0), help="kcal/mol.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--minutes", type=Number(min=0.0, min_open=True), help="Stop after the part in which they end.")
@click.option("--out", type=OutFolder(), required=True, help="Folder; continued.")
@engine_options
@retry_option("out")
def make(
    molecules: str,
    count: int | None,
    starts: int,
    relaxations: int,
    window: float,
    seed: int,
    minutes: float | None,
    out: Path,
    engine: Engine,
) -> None:
    """Conformers of MOLECULES: a file (one SMILES a line, then a name; or a table with a column smiles; or -),
    qm9-train, qm9-valid, qm9-test, drugs-train or drugs-test.

    ETKDGv3 and plain distance geometry, MMFF94, GFN2-xTB, energy window, duplicates removed. One file a molecule; the
    same command continues. `molkit ensembles pack` makes one file of them.
    """
    from molkit.chem.ensembles import EnsembleRules
    from molkit.data.ensemble_molecules import choose_molecules, read_smiles_file, with_file_names
    from molkit.studies.reference_ensembles import ensemble_tasks, generate

    is_file = molecules == "-" or Path(molecules).is_file()
    named = read_smiles_file(Path(molecules))[:count] if is_file else choose_molecules(molecules, count or 200)
    named = with_file_names(named)
    rules = EnsembleRules(window=window, max_relaxations=relaxations)
    tasks = ensemble_tasks(named, num_starts=starts, seed=seed, rules=rules)
    with engine.open() as executor:
        report = generate(tasks, out, executor=executor, minutes=minutes, progress=True)
    click.echo(f"{out}: {len(report.done)} of {len(tasks)} molecules done, {len(report.failed)} failed")
    end_of_parts(len(tasks) - len(report.failed), report.failed)


@ensembles.command()
@click.argument("folders", nargs=-1, required=True, metavar="SPLIT=FOLDER...")
@click.option("--out", type=OutFile(".npz"), required=True, help="An .npz file.")
def pack(folders: tuple[str, ...], out: Path) -> None:
    """Pack finished ensembles of folders into one file, each folder as one split: train, valid or test.

    A packed set (.npz) in place of a folder gives what it holds of that split.
    """
    from molkit.data.ensembles import SPLITS, read_ensembles, write_ensembles
    from molkit.errors import InvalidInput
    from molkit.studies.reference_ensembles import collect

    together = []
    for entry in folders:
        split, _, folder = entry.partition("=")
        if split not in SPLITS or not folder:
            raise InvalidInput(f"expected SPLIT=FOLDER with train, valid or test, got {entry!r}")
        if folder.endswith(".npz"):
            found, failed = [one for one in read_ensembles(Path(folder)) if one.split == split], {}
        else:
            found, failed = collect(Path(folder), split=split)
        together += found
        click.echo(f"{split}: {len(found)} molecules, {sum(map(len, found))} conformers; {len(failed)} failed")
    require_some(len(together), {}, noun="finished ensembles")
    write_ensembles(out, together)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


@ensembles.command()
@click.option("--isomers", default=20, show_default=True, type=Whole(min=1), help="Of C7H10O2, from QM9.")
@click.option("--frames", default=100, show_default=True, type=Whole(min=1), help="Kept of each.")
@click.option("--every", default=20, show_default=True, type=Whole(min=1), help="Steps (fs) between frames.")
@click.option("--settle", default=1000, show_default=True, type=Whole(min=0), help="Steps before the first.")
@click.option("--kelvin", default=500.0, show_default=True, type=Number(min=0.0, min_open=True))
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--out", type=OutFolder(), required=True, help="Folder; continued.")
@click.option("--pack", "packed", type=OutFile(".npz"), help="Also one .npz of all of it.")
@engine_options
@retry_option("out")
def trajectories(
    isomers: int,
    frames: int,
    every: int,
    settle: int,
    kelvin: float,
    seed: int,
    out: Path,
    packed: Path | None,
    engine: Engine,
) -> None:
    """Langevin trajectories by GFN2-xTB of isomers of C7H10O2, like ISO17's but not ISO17; test and train by isomer."""
    from molkit.chem.xtb import LangevinRules
    from molkit.data.ensembles import write_ensembles
    from molkit.studies.reference_ensembles import collect
    from molkit.studies.trajectories import run_trajectories, split_by_isomer, trajectory_tasks

    rules = LangevinRules(kelvin=kelvin, every=every, settle=settle)
    tasks = trajectory_tasks(isomers, num_frames=frames, seed=seed, rules=rules)
    with engine.open() as executor:
        report = run_trajectories(tasks, out, executor=executor, progress=True)
    click.echo(f"{out}: {len(report.done)} of {len(tasks)} isomers done")
    if packed is not None and report.done:
        write_ensembles(packed, split_by_isomer(collect(out, split="train")[0]))
        click.echo(f"{packed}: {packed.stat().st_size:,} bytes")
    end_of_parts(len(report.done), report.failed, noun="isomers")
