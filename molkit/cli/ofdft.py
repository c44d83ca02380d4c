"""`molkit labels`: labelled densities for kinetic functionals."""

from pathlib import Path

import click

from molkit.cli.engines import Engine, engine_options


@click.command()
@click.argument("name", metavar="CLASS")
@click.option("--split", default="train", show_default=True, help="train, valid or test.")
@click.option("--count", default=10, show_default=True, type=click.IntRange(min=1), help="Geometries.")
@click.option("--frozen", default=40, show_default=True, type=click.IntRange(min=0), help="Frozen-potential samples.")
@click.option("--in-loop", is_flag=True, help="Also a calculation with perturbed cycles.")
@click.option("--grid-level", default=2, show_default=True, type=click.IntRange(0, 9), help="PySCF's grid level.")
@click.option("--seed", default=0, show_default=True, help="Of the perturbations.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; continued.")
@engine_options
def labels(
    name: str,
    split: str,
    count: int,
    frozen: int,
    in_loop: bool,
    grid_level: int,
    seed: int,
    out: Path,
    engine: Engine,
) -> None:
    """Kohn-Sham densities of geometries of CLASS (water, ethanol), with value and gradient labels.

    A folder holds labels of one kind; the same command continues after an interruption.
    """
    from molkit.ofdft.geometries import geometry
    from molkit.ofdft.label_files import LabelSettings, generate
    from molkit.ofdft.labels import FrozenSampling

    geometry(name, split, count - 1)
    settings = LabelSettings(FrozenSampling(count=frozen), in_loop, grid_level, seed)
    with engine.open() as executor:
        report = generate(name, split, count, out, settings=settings, executor=executor, progress=True)
    for key, reason in report.failed.items():
        click.echo(f"{key}: left out, {reason}")
    click.echo(f"{out}: {len(report.done)} of {count} geometries labelled")
