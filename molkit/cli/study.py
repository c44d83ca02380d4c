"""`molkit study`: the long measurements whose results the chapters show."""

from pathlib import Path

import click


@click.group()
def study() -> None:
    """Repeat the long measurements behind a chapter; each writes one JSON file."""


@study.command("fewer-steps")
@click.argument("weights")
@click.option("--full", default=10_000, show_default=True, type=click.IntRange(min=2), help="Molecules by full chains.")
@click.option("--best", default=10_000, show_default=True, type=click.IntRange(min=2), help="By the default sampler.")
@click.option("--curve", default=1000, show_default=True, type=click.IntRange(min=0), help="At each point of a curve.")
@click.option("--samplers", default="", help="Names with commas, for the curves; default: all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for finished chunks (resume).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A .json file.")
def fewer_steps(
    weights: str, full: int, best: int, curve: int, samplers: str, seed: int, keep: Path | None, out: Path
) -> None:
    """Quality of samples of WEIGHTS against the number of network calls, all arms from the same noise."""
    from molkit.edm.samplers import SAMPLERS, sampler_named
    from molkit.studies import edm_fewer_steps

    names = [name.strip() for name in samplers.split(",") if name.strip()] or list(SAMPLERS)
    for name in names:
        sampler_named(name)
    arms = edm_fewer_steps.default_arms(full=full, best=best, curve=curve, samplers=names)
    result = edm_fewer_steps.run_study(weights, arms, seed=seed, folder=keep, report=click.echo)
    edm_fewer_steps.write_study(result, out)
    click.echo(f"{out}: {len(result.arms)} arms")
