"""`molkit study`: the long measurements whose results the chapters show."""

from pathlib import Path

import click

from molkit.cli.experiment import StudyGroup
from molkit.cli.options import Whole
from molkit.cli.outputs import OutFile


@click.group(cls=StudyGroup)
def study() -> None:
    """Compute the experiment of a page, or one of the long measurements that write one JSON file each."""


@study.command("ofdft-water")
@click.option("--arms", default="", help="Names with commas; default: all.")
@click.option("--seeds", default=3, show_default=True, type=Whole(min=1), help="Trainings of each arm.")
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="Labels of the split test.")
@click.option("--test", "num_test", type=Whole(min=1), help="Test geometries; default: all in the folder.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the runs.")
@click.option("--out", type=OutFile(makes_folder=True), required=True, help="A .json file.")
def ofdft_water(arms: str, seeds: int, labels: Path, num_test: int | None, runs: Path, out: Path) -> None:
    """Train the compact functional of water and its ablations, and minimise densities of unseen geometries."""
    import torch

    from molkit.studies import ofdft_water as water

    torch.set_num_threads(1)
    names = [name.strip() for name in arms.split(",") if name.strip()] or list(water.ARMS)
    for name in names:
        water.arm_recipe(name, seed=0)
    found = water.run_study(names, range(seeds), runs=runs, labels=labels, num_test=num_test, report=click.echo)
    water.write_study(found, out)
    click.echo(f"{out}: {len(found.runs)} runs, {found.num_test} test geometries")


@study.command("ofdft-ethanol")
@click.option("--arms", default="full:0", show_default=True, help="Pairs ARM:SEED with commas.")
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="With train, valid, test, torsions.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the runs.")
@click.option("--until", type=Whole(min=1), help="A step with a snapshot, at which trainings end.")
@click.option("--out", type=OutFile(makes_folder=True), required=True, help="A .json file.")
def ofdft_ethanol(arms: str, labels: Path, runs: Path, until: int | None, out: Path) -> None:
    """Train the functional of ethanol and its ablations, and minimise densities of unseen frames and along torsions."""
    import torch

    from molkit.studies import ofdft_ethanol as ethanol
    from molkit.studies import ofdft_small as small

    torch.set_num_threads(1)
    wanted = small.read_pairs(arms, ethanol.PLAN)
    found = ethanol.run(wanted, labels=labels, runs=runs, until=until, report=click.echo)
    ethanol.write_study(found, out)
    click.echo(f"{out}: {len(found.found.runs)} runs, {len(found.energies['test'])} test frames")
