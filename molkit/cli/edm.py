"""`molkit sample` and `molkit evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path

import click

from molkit.cli.engines import Engine, Keep, engine_options, keep_options
from molkit.cli.numbers import SEED, Number, Whole
from molkit.cli.outputs import OUT_HELP, STRUCTURE_FILES, OutFile, tell, write_output

CONDITION_HELP = (
    "A property to aim at, for weights trained with properties; may be given for several: alpha (bohr^3), gap, homo, "
    "lumo (eV), mu (D), cv (cal/(mol K), without the free atoms). Sizes follow from it unless --num-atoms is given."
)
GUIDANCE_HELP = "Weight of the conditions: 1 as trained, 2 to listen harder at twice the cost."


@click.command()
@click.argument("weights")
@click.option("--count", default=100, show_default=True, type=Whole(min=1), help="How many molecules.")
@click.option("--calls", help="Network calls a molecule, or all for the full chain; default: 100.")
@click.option(
    "--sampler",
    help="How steps are taken; default: sde-2m, and ancestral for the full chain; sde-2m-extra loses fewer molecules.",
)
@click.option("--condition", "conditions", multiple=True, metavar="NAME=VALUE", help=CONDITION_HELP)
@click.option("--guidance", default=1.0, show_default=True, type=Number(min=0.0), help=GUIDANCE_HELP)
@click.option("--num-atoms", type=Whole(min=1), help="Only molecules of this size.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@engine_options
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@keep_options
@click.option("--out", type=OutFile(*STRUCTURE_FILES, ".npz", standard=True), required=True, help=".npz, " + OUT_HELP)
def sample(
    weights: str,
    count: int,
    calls: str | None,
    sampler: str | None,
    conditions: tuple[str, ...],
    guidance: float,
    num_atoms: int | None,
    seed: int,
    engine: Engine,
    device: str,
    keep: Keep,
    out: Path,
) -> None:
    """Sample molecules from WEIGHTS: a run folder, or the name of published weights.

    Sizes that the training did not hold and values of properties that it did not show are refused. How many of the
    stored samples of the weights are stable is printed: what can be expected of these.
    """
    from molkit.edm.farm import check_request, draw_many, request_of
    from molkit.edm.model import load
    from molkit.edm.samplers import ANCESTRAL, DEFAULT
    from molkit.errors import InvalidInput, PartlyDone

    require_device(device, engine)
    config = load(weights, fast=False).config
    num_calls = min(DEFAULT.num_calls, config.num_steps + 1) if calls is None else number_of_calls(calls)
    asked = parse_conditions(conditions)
    request = request_of(
        weights,
        seed=seed,
        num_calls=num_calls,
        sampler=sampler or (ANCESTRAL.name if num_calls is None else DEFAULT.sampler),
        num_atoms=num_atoms,
        conditions=asked,
        guidance=guidance,
        device=device,
    )
    check_request(weights, request)
    if guidance != 1.0 and not asked:
        raise InvalidInput("--guidance weighs what --condition asks for; give a condition")
    with keep.open(engine, out) as folder, engine.open() as executor:
        drawn = draw_many(request, count, folder=folder, executor=executor, progress=True)
    for which, reason in drawn.failed.items():
        click.echo(f"left out, {which}: {reason}", err=True)
    if not len(drawn.molecules):
        raise InvalidInput(f"none of {count} molecules could be drawn; nothing was written")
    write_output(out, drawn.molecules)
    tell(out, f"{out}: {len(drawn.molecules)} molecules")
    tell(out, known_quality(weights, num_calls, request.sampler.name, plain=not asked and num_atoms is None))
    if lost := count - len(drawn.molecules):
        raise PartlyDone(f"{lost} of {count} molecules left out, as their chains failed; the others are written")


def known_quality(weights: str, num_calls: int | None, sampler: str, *, plain: bool) -> str:
    """What the stored samples of these weights say about new ones, in words; `plain` without conditions and sizes."""
    from molkit.edm.published import stored_samples, training_facts
    from molkit.errors import DataNotFound, InvalidInput
    from molkit.metrics.stability import stability

    try:
        facts, molecules = training_facts(weights), stored_samples(weights)
        stable = stability(molecules).molecule_stable.mean()
    except DataNotFound:
        return "how good molecules of these weights are was not tested: nothing is stored with them"
    except InvalidInput:
        return "EDM's rule does not know all their elements; the card of the weights says how good their molecules are"
    said = f"of {len(molecules):,} stored samples of these weights {100 * stable:.0f} % are stable by EDM's rule"
    same = plain and (facts.sample_calls, facts.sampler) == (num_calls, sampler)
    return said if same else f"{said} ({facts.sample_calls} calls, {facts.sampler}); these settings are others"


def number_of_calls(text: str) -> int | None:
    """A number of network calls, or None for "all". Raises InvalidInput for anything else."""
    from molkit.config import whole_number

    return (
        None if text == "all" else whole_number(text, what="--calls (network calls, or all for the full chain)", low=1)
    )


def parse_conditions(texts: Sequence[str]) -> dict[str, float]:
    """NAME=VALUE texts as numbers by property. Raises InvalidInput for another form, or a property named twice."""
    from molkit.errors import InvalidInput

    found: dict[str, float] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        name = name.strip().lower()
        try:
            number = float(value)
        except ValueError:
            number = nan
        if not separator or not name or not isfinite(number):
            raise InvalidInput(f"--condition takes NAME=VALUE with a finite number, as in alpha=80; got {text!r}")
        if name in found:
            raise InvalidInput(f"--condition names {name} twice")
        found[name] = number
    return found


def require_device(device: str, engine: Engine) -> None:
    """Refuse a GPU that is not there, and several processes on one."""
    if device == "cpu":
        return
    import torch

    from molkit.errors import InvalidInput

    if not torch.cuda.is_available():
        raise InvalidInput("device cuda was asked for, but PyTorch sees no GPU here; use --device cpu")
    if not engine.is_local_process:
        raise InvalidInput("one process feeds the GPU; leave out --workers, --dask and --slurm")


@click.command()
@click.argument("weights")
@click.option("--samples", type=click.Path(path_type=Path), help="A packed .npz; default: the samples kept with them.")
@click.option("--nll-molecules", default=500, show_default=True, type=Whole(min=0), help="Of the test split.")
@click.option("--draws", default=1, show_default=True, type=Whole(min=1), help="Steps t a molecule.")
@click.option("--seed", default=0, show_default=True, type=SEED)
def evaluate(weights: str, samples: Path | None, nll_molecules: int, draws: int, seed: int) -> None:
    """Stability, validity, uniqueness and novelty of samples of WEIGHTS, and the likelihood bound; prints JSON.

    Weights of the drug-size set are measured against that set, all others against QM9; those that place no hydrogens
    against its heavy atoms, by validity alone.
    """
    import json

    from molkit.studies import edm_drug_size, edm_evaluation, edm_heavy

    heavy = edm_heavy.is_for(weights)
    kind = edm_drug_size if edm_drug_size.is_for(weights) else edm_heavy if heavy else edm_evaluation
    report = kind.evaluate_weights(weights, samples=samples, nll_molecules=nll_molecules, draws=draws, seed=seed)
    click.echo(json.dumps(report, indent=2))
