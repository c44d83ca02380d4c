"""`molkit suite`: trainings side by side, from the recipes of a suite to one file of results."""

from pathlib import Path

import click

from molkit.cli.options import Engine, engine_options, whole_numbers
from molkit.cli.outputs import OutFolder, end_of_parts


@click.group()
def suite() -> None:
    """Train, sample and score the arms of a suite with several seeds."""


@suite.command()
@click.argument("name")
@click.option("--out", type=OutFolder(), required=True, help="Folder of the runs.")
@click.option("--arms", default="", help="Names with commas; default: all.")
@click.option("--seeds", default="0", show_default=True, help="Whole numbers with commas.")
@engine_options
def run(name: str, out: Path, arms: str, seeds: str, engine: Engine) -> None:
    """Run the suite NAME of data/recipes/suites; finished arms are skipped, interrupted ones continue."""
    from molkit.studies.edm_suite import run_suite

    chosen = [arm.strip() for arm in arms.split(",") if arm.strip()]
    with engine.open() as executor:
        results = run_suite(name, out, arms=chosen, seeds=whole_numbers(seeds), executor=executor)
    for result in results:
        figures = result.failure or (
            f"atoms {100 * result.atom_stability.value:.1f} %, molecules {100 * result.molecule_stability.value:.1f} %"
            + ("" if result.nll is None else f", NLL {result.nll.value:.1f}")
        )
        click.echo(f"{result.arm}, seed {result.seed}: {result.passes} passes, {result.cpu_seconds:.0f} s, {figures}")
    failed = {f"{one.arm}, seed {one.seed}": one.failure for one in results if one.failure}
    end_of_parts(len(results) - len(failed), failed, noun="trainings")


@suite.command()
@click.argument("name")
@click.option("--out", type=click.Path(file_okay=False, exists=True, path_type=Path), required=True, help="The runs.")
def collect(name: str, out: Path) -> None:
    """Write the finished results in --out to data/studies/NAME.json."""
    from molkit.studies.edm_suite import collect as collect_results

    click.echo(str(collect_results(name, out)))
