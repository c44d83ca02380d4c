"""`molkit data` and `molkit ensembles`: sets, and reference ensembles of conformers."""

import contextlib
from pathlib import Path

import click

from molkit.cli.options import SEED, Engine, Number, Whole, engine_options, retry_option
from molkit.cli.outputs import OutFile, OutFolder, end_of_parts, require_some


@click.group()
def data() -> None:
    """List, verify, describe and fetch data sets."""


@data.command("list")
def list_sets() -> None:
    """Name, size and content of every file that comes with the repository."""
    from molkit.data.registry import available_files, data_root, section_of

    root = data_root()
    for name in available_files():
        path = root / name
        size = f"{path.stat().st_size / 2**20:8.2f} MiB" if path.is_file() else "     missing"
        click.echo(f"{name:32}{size}  {section_of(name).title}")
    click.echo(f"in {root}; `molkit data info NAME` tells more")


@data.command()
@click.argument("name", required=False)
def verify(name: str | None) -> None:
    """Compare files with their published checksums: all of them, or those that NAME means."""
    from molkit.data.registry import available_files, data_root, match_files, verify_file
    from molkit.errors import ChecksumMismatch, DataNotFound

    names = match_files(name) if name else available_files()
    problems: list[ChecksumMismatch | DataNotFound] = []
    for file in names:
        try:
            click.echo(f"ok       {file}  {verify_file(data_root() / file)}")
        except ChecksumMismatch as error:
            click.echo(f"DAMAGED  {file}")
            problems.append(error)
        except DataNotFound as error:
            click.echo(f"MISSING  {file}")
            problems.append(error)
    for problem in problems[:-1]:
        click.echo(f"molkit: {problem}", err=True)
    if problems:
        raise problems[-1]


@data.command()
@click.argument("name")
def info(name: str) -> None:
    """What the data card says about NAME, and the arrays in its file."""
    from molkit.data.registry import data_path, load_arrays, match_files, section_of

    for file in match_files(name):
        section = section_of(file)
        path = data_path(file)
        click.echo(f"{file}: {section.title}\n{path}, {path.stat().st_size:,} bytes\n\n{section.text}\n")
        if path.suffix == ".npz":
            for key, array in load_arrays(path).items():
                click.echo(f"  {key:24} {array.dtype!s:8} {list(array.shape)}")


@data.command()
@click.argument("name", type=click.Choice(["qm9"]))
@click.option(
    "--out",
    type=OutFolder(),
    help="Folder for the packed set and, under original/, the published files.  [default: data/sets]",
)
@click.option(
    "--base-url",
    "base_urls",
    multiple=True,
    help="A folder of the web that holds the published files under their names; may be repeated.",
)
def fetch(name: str, out: Path | None, base_urls: tuple[str, ...]) -> None:
    """Fetch the original QM9 (83 MiB), check it, and pack it with all elements and properties."""
    from tqdm import tqdm

    from molkit.data.qm9_original import PUBLISHED, fetch_qm9
    from molkit.data.registry import data_root

    with contextlib.ExitStack() as stack:  # closes the bars before an error is reported
        bars: dict[str, tqdm] = {}

        def on_bytes(file: str, done: int, total: int) -> None:
            if file not in bars:
                bars[file] = stack.enter_context(tqdm(desc=file, total=total, unit="B", unit_scale=True))
            bars[file].update(done - bars[file].n)

        records = stack.enter_context(tqdm(desc="molecules", total=PUBLISHED.num_molecules, delay=1.0))
        result = fetch_qm9(out or data_root(), base_urls=base_urls, on_bytes=on_bytes, on_record=records.update)
    verb = "is there already" if result.was_there else "written"
    click.echo(f"{result.path} {verb}: {result.num_molecules:,} molecules, sha256 {result.sha256}")
    click.echo('load_qm9(split="train", source="full") reads it; nothing else uses it by itself')


@data.command()
@click.argument("name", type=click.Choice(["geom_drugs"]))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=OutFolder(),
    help="Folder for the packed parts.  [default: data/sets/geom_drugs]",
)
@click.option(
    "--conformers",
    default=30,
    show_default=True,
    type=Whole(min=1),
    help="Conformers of lowest energy to keep of each molecule.",
)
def convert(name: str, file: Path, out: Path | None, conformers: int) -> None:
    """Pack FILE, the drugs_crude.msgpack of GEOM (or its .tar.gz) that you downloaded; interrupted, it continues.

    FILE is https://dataverse.harvard.edu/api/access/datafile/4360331 (some 50 GB; doi 10.7910/DVN/JNGTDF).
    """
    from tqdm import tqdm

    from molkit.data.geom_drugs import RECIPE, convert_geom_drugs

    with tqdm(desc="molecules", unit="", delay=1.0) as bar:
        result = convert_geom_drugs(file, out, num_conformers=conformers, on_molecule=bar.update)
    click.echo(
        f"{result.folder}: {result.num_molecules:,} molecules, {result.num_conformers:,} conformers in "
        f"{result.num_parts:,} parts; {len(result.refused):,} molecules refused"
    )
    for smiles, reason in result.refused[:10]:
        click.echo(f"refused  {smiles}: {reason}")
    if result.num_conformers:
        click.echo(f"train with `molkit train {result.folder / RECIPE} --out RUN`")


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
    from molkit.chem.ensembles import EnsembleRules, make_ensemble
    from molkit.data.ensembles import choose_molecules, read_smiles_file, with_file_names
    from molkit.studies.conformers.reference_sets import ensemble_tasks, make_all

    is_file = molecules == "-" or Path(molecules).is_file()
    named = read_smiles_file(Path(molecules))[:count] if is_file else choose_molecules(molecules, count or 200)
    named = with_file_names(named)
    rules = EnsembleRules(window=window, max_relaxations=relaxations)
    tasks = ensemble_tasks(named, num_starts=starts, seed=seed, rules=rules)
    with engine.open() as executor:
        report = make_all(make_ensemble, tasks, out, executor=executor, minutes=minutes, progress=True)
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
    from molkit.studies.conformers.reference_sets import collect

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
    from molkit.studies.conformers import reference_sets as sets

    rules = LangevinRules(kelvin=kelvin, every=every, settle=settle)
    tasks = sets.trajectory_tasks(isomers, num_frames=frames, seed=seed, rules=rules)
    with engine.open() as executor:
        report = sets.make_all(sets.make_trajectory, tasks, out, executor=executor, progress=True)
    click.echo(f"{out}: {len(report.done)} of {len(tasks)} isomers done")
    if packed is not None and report.done:
        write_ensembles(packed, sets.split_by_isomer(sets.collect(out, split="train")[0]))
        click.echo(f"{packed}: {packed.stat().st_size:,} bytes")
    end_of_parts(len(report.done), report.failed, noun="isomers")
