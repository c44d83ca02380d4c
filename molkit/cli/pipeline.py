"""`molkit pipeline`: from noise to electrons in one command."""

from pathlib import Path

import click

from molkit.cli.options import SEED, Engine, Keep, Whole, engine_options, keep_options, retry_in
from molkit.cli.outputs import OutFolder, end_of_parts
from molkit.config import whole_ranges

LARGEST = 400  # atoms


@click.command()
@click.option("--count", default=20, show_default=True, type=Whole(min=1), help="Molecules to draw.")
@click.option("--sizes", default="", help="Numbers of atoms, as 3-8 or 5,9,12; default: as in the training data.")
@click.option("--generator", default="edm_qm9_preconditioned", show_default=True, help="Weights that draw.")
@click.option("--relaxer", default="edm_qm9_low_noise", show_default=True, help="Weights that pre-relax.")
@click.option("--calls", default=100, show_default=True, type=Whole(min=2), help="Network calls a molecule.")
@click.option("--flow", default="cgcf_qm9", show_default=True, help="Weights that make conformers.")
@click.option("--etm", default="etm_qm9", show_default=True, help="Their energy; '' leaves it out.")
@click.option("--conformers", default=10, show_default=True, type=Whole(min=1), help="A molecule.")
@click.option("--functional", default="ofdft_small", show_default=True, help="Weights of the density functional.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--out", type=OutFolder(), required=True, help="Folder; continued.")
@engine_options
@keep_options
def pipeline(
    count: int,
    sizes: str,
    generator: str,
    relaxer: str,
    calls: int,
    flow: str,
    etm: str,
    conformers: int,
    functional: str,
    seed: int,
    out: Path,
    engine: Engine,
    keep: Keep,
) -> None:
    """Draw molecules, relax them, find their conformers, rank these, and compute energy and density; with a report.

    A molecule that a stage refuses is named there with the reason, and the others are finished. One that the density
    functional does not serve goes on to Kohn-Sham without it.
    """
    from molkit.figures.pipeline_report import write_report
    from molkit.pipeline.journey import STAGES, PipelineSettings
    from molkit.pipeline.run import run_pipeline, write_results

    settings = PipelineSettings(
        generator=generator,
        relaxer=relaxer,
        num_calls=calls,
        flow=flow,
        energy=etm,
        num_conformers=conformers,
        functional=functional,
        seed=seed,
    )
    folder, wanted = keep.folder or out, numbers_of_atoms(sizes)
    retry_in(folder, keep.retry)
    with engine.open(apart=True) as executor:
        result = run_pipeline(count, folder, sizes=wanted, settings=settings, executor=executor, progress=True)
    written = write_results(result, out)
    passed = (f"{sum(journey.passed(name) for journey in result.journeys)} {name}" for name in STAGES)
    click.echo(f"of {count}: {', '.join(passed)}")
    click.echo(f"{write_report(result, out)} ({', '.join(path.name for path in written)} beside it)")
    stopped = {journey.name: why for journey in result.journeys if (why := journey.stopped())}
    never = {f"chain {k + 1} of those that failed": "it gave no molecule" for k in range(result.num_failed_chains)}
    end_of_parts(len(result.journeys) - len(stopped), never, stopped)


def numbers_of_atoms(text: str) -> list[int]:
    """`3-5,9` -> [3, 4, 5, 9]. Raises InvalidInput for anything else."""
    return whole_ranges(text, what="--sizes (such as 3-8 or 5,9,12)", low=2, high=LARGEST)
