"""`molkit study`: the long measurements whose results the chapters show."""

from pathlib import Path

import click

from molkit.cli.experiment import StudyGroup
from molkit.cli.options import Whole
from molkit.cli.outputs import OutFile, OutFolder


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


@study.command("ofdft-small")
@click.option("--arms", default="full:0", show_default=True, help="Pairs ARM:SEED with commas.")
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="Folder with valid, test and larger.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the runs.")
@click.option("--until", type=Whole(min=1), help="A step with a snapshot, at which trainings end.")
@click.option("--out", type=OutFile(makes_folder=True), required=True, help="A .json file.")
def ofdft_small(arms: str, labels: Path, runs: Path, until: int | None, out: Path) -> None:
    """Train the functional of several compositions and its ablations, and minimise densities of unseen molecules."""
    import torch

    from molkit.ofdft.label_files import load_folder
    from molkit.studies import ofdft_small as small

    torch.set_num_threads(1)
    wanted = small.read_pairs(arms)
    sets = {"test": load_folder(labels / "test", "small", "test")}
    sets["larger"] = load_folder(labels / "larger", "larger", "test")
    valid = load_folder(labels / "valid", "small", "valid")
    found = small.run_study(wanted, runs=runs, valid=valid, sets=sets, until=until, report=click.echo)
    small.write_study(found, out)
    click.echo(f"{out}: {len(found.runs)} runs, {len(sets['test'])} and {len(sets['larger'])} molecules")


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


@study.command("ofdft-folds")
@click.option("--arms", default="full:0", show_default=True, help="Pairs ARM:FOLD with commas.")
@click.option(
    "--labels", type=click.Path(path_type=Path), required=True, help="Labels of up_to_five: a folder, or a packed set."
)
@click.option("--displaced", type=click.Path(path_type=Path), help="The same of displaced geometries, to be asked too.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the runs.")
@click.option("--add", is_flag=True, help="Keep the other runs of the study in --out.")
@click.option("--out", type=OutFile(makes_folder=True), required=True, help="A .json file.")
def ofdft_folds(arms: str, labels: Path, displaced: Path | None, runs: Path, add: bool, out: Path) -> None:
    """Train functionals without one fold of compositions each, and minimise densities of the molecules of that fold."""
    import torch

    from molkit.ofdft.label_packs import load_labels
    from molkit.studies import ofdft_folds as folds
    from molkit.studies import ofdft_small as small

    torch.set_num_threads(1)
    wanted = small.read_pairs(arms, folds.PLAN)
    labelled = load_labels(labels, "up_to_five", "train")
    moved = load_labels(displaced, "up_to_five", "train") if displaced else []
    earlier = folds.stored_study(out) if add else None
    found = folds.run_study(wanted, runs=runs, labelled=labelled, displaced=moved, report=click.echo)
    folds.write_study(folds.with_earlier(found, earlier) if earlier else found, out)
    click.echo(f"{out}: {len(found.runs)} runs, {len(labelled)} molecules")


@study.command("ofdft-extrapolation")
@click.option("--arms", default="full,geometry", show_default=True, help="Of ofdft-folds, trained on all; with commas.")
@click.option("--weights", multiple=True, metavar="ARM=FOLDER", help="Further weights; may be repeated.")
@click.option("--qm9", default=12, show_default=True, type=Whole(min=0), help="QM9's, 6 to 9 heavy atoms.")
@click.option("--alkanes", default=10, show_default=True, type=Whole(min=0), help="Carbon atoms at most.")
@click.option("--peptides", default=2, show_default=True, type=Whole(min=0), help="Residues at most.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), required=True, help="Of ofdft-folds.")
@click.option("--keep", type=OutFolder(), required=True, help="Kohn-Sham energies.")
@click.option("--add", is_flag=True, help="Keep the energies and the other arms of the study in --out.")
@click.option("--out", type=OutFile(makes_folder=True), required=True, help="A .json file.")
def ofdft_extrapolation(
    arms: str,
    weights: tuple[str, ...],
    qm9: int,
    alkanes: int,
    peptides: int,
    runs: Path,
    keep: Path,
    add: bool,
    out: Path,
) -> None:
    """Molecules of QM9, alkanes and capped peptides larger than any molecule of the training."""
    import torch

    from molkit.errors import InvalidInput
    from molkit.studies import ofdft_extrapolation as extrapolation
    from molkit.studies.ofdft_folds import train_on_all

    torch.set_num_threads(1)
    folders = {}
    for entry in weights:
        arm, _, folder = entry.partition("=")
        if not folder:
            raise InvalidInput(f"--weights takes ARM=FOLDER, got {entry!r}")
        folders[arm] = Path(folder)
    folders |= {arm.strip(): train_on_all(arm.strip(), runs) for arm in arms.split(",") if arm.strip()}
    numbers = {"QM9": range(qm9), "alkane": range(1, alkanes + 1), "peptide": range(1, peptides + 1)}
    earlier = extrapolation.stored_study(out) if add else None
    found = extrapolation.run_study(folders, numbers, keep=keep, earlier=earlier, report=click.echo)
    extrapolation.write_study(found, out)
    click.echo(f"{out}: {len(found.errors)} energies")
