"""`molkit data`: list, verify, describe and fetch data sets."""

import contextlib
from pathlib import Path

import click

from molkit.cli.numbers import Whole
from molkit.cli.outputs import OutFolder


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
