"""`molkit sample`, `molkit evaluate` and `molkit edit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.options import SEED, Engine, Keep, Number, Whole, engine_options, keep_options
from molkit.cli.outputs import (
    OUT_HELP,
    STRUCTURE_FILES,
    OutFile,
    end_of_parts,
    read_input,
    require_some,
    tell,
    write_output,
)
from molkit.errors import InvalidInput

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
    help="How steps are taken; default: sde-2m-extra, sde-2m below 50 calls, and ancestral for the full chain.",
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
    from molkit.edm.samplers import DEFAULT, default_sampler
    from molkit.errors import InvalidInput, PartlyDone

    require_device(device, engine)
    config = load(weights, fast=False).config
    num_calls = min(DEFAULT.num_calls, config.num_steps + 1) if calls is None else number_of_calls(calls)
    asked = parse_conditions(conditions)
    request = request_of(
        weights,
        seed=seed,
        num_calls=num_calls,
        sampler=sampler or default_sampler(num_calls),
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

    from molkit.studies import edm_card
    from molkit.studies.edm import ablations, drug_size

    heavy = ablations.without_hydrogens(weights)
    kind = drug_size if drug_size.is_for(weights) else ablations if heavy else edm_card
    report = kind.evaluate_weights(weights, samples=samples, nll_molecules=nll_molecules, draws=draws, seed=seed)
    click.echo(json.dumps(report, indent=2))


if TYPE_CHECKING:
    from molkit.edm.editing import Edits
    from molkit.molecule import Molecule

INPUT = click.Path(path_type=Path)


@click.group()
def edit() -> None:
    """Complete, vary or compose molecules with a trained model."""


def shared(command: Callable) -> Callable:
    """The options that the three commands have in common."""
    options = (
        click.option("--count", default=20, show_default=True, type=Whole(min=1), help="How many molecules."),
        click.option("--calls", help="Network calls of one pass, or all for every step; default: 100."),
        click.option("--guidance", type=Number(min=0.0), help="Strength of the pull; 0 for none. [default: 4]"),
        click.option("--seed", default=0, show_default=True, type=SEED),
        click.option("--out", type=OutFile(*STRUCTURE_FILES, standard=True), required=True, help=OUT_HELP),
    )
    for option in reversed(options):
        command = option(command)
    return command


def resampling(command: Callable) -> Callable:
    """The option of the commands that walk stretches of the chain again."""
    return click.option(
        "--resamplings", default=1, show_default=True, type=Whole(min=1), help="Passes of every stretch."
    )(command)


@edit.command()
@click.argument("weights")
@click.argument("fragment", type=INPUT)
@click.option("--add", help="Atoms to add: a number (6) or a formula (C2H5). Default: a size drawn for each molecule.")
@click.option(
    "--start", type=Number(), help="Noise, in angstrom, that new atoms at open valences begin with. [default: 0.3]"
)
@click.option("--from-noise", is_flag=True, help="Begin with noise alone, whatever valences are open.")
@resampling
@shared
def complete(
    weights: str,
    fragment: Path,
    add: str | None,
    start: float | None,
    from_noise: bool,
    resamplings: int,
    out: Path,
    **options,
) -> None:
    """Keep the atoms of FRAGMENT (.xyz, .sdf, .npz, or -) in place and make the missing ones with WEIGHTS.

    The fixed atoms come first in every molecule, with their coordinates unchanged. New atoms begin beside the atoms
    that lack bonds.
    """
    from molkit.edm import editing

    if from_noise and start is not None:
        raise InvalidInput("give --start or --from-noise, not both")
    wanted = _wanted(add) | {"start": None if from_noise else editing.START if start is None else start}
    fixed = _one_molecule(fragment, without_hydrogens=True)
    _report(
        out,
        lambda edm, common: editing.complete(edm, fixed, **wanted, resamplings=resamplings, **common),
        weights,
        **options,
    )


@edit.command()
@click.argument("weights")
@click.argument("molecule", type=INPUT)
@click.option(
    "--sigma", type=Number(), required=True, help="Noise on each coordinate, in angstrom; 0.3 changes little."
)
@click.option("--keep-elements", is_flag=True, help="Noise the positions only.")
@click.option("--keep-atoms", default="", help="Atoms that stay in place, counted from 1: 1,2,5-8.")
@shared
def vary(
    weights: str, molecule: Path, sigma: float, keep_elements: bool, keep_atoms: str, out: Path, **options
) -> None:
    """Noise MOLECULE (.xyz, .sdf, .npz, or -) to a level and clean it up again with WEIGHTS."""
    from molkit.edm import editing

    original = _one_molecule(molecule)
    kept = {"keep_atoms": _atoms(keep_atoms, original.num_atoms), "keep_elements": keep_elements}
    _report(out, lambda edm, common: editing.vary(edm, original, sigma=sigma, **kept, **common), weights, **options)


@edit.command()
@click.argument("weights")
@click.argument("formula")
@resampling
@shared
def compose(weights: str, formula: str, resamplings: int, out: Path, **options) -> None:
    """Make molecules of a FORMULA such as C7H10O2 with WEIGHTS."""
    from molkit.chem.composition import parse_formula
    from molkit.edm import editing

    composition = parse_formula(formula)
    _report(
        out,
        lambda edm, common: editing.with_composition(edm, composition, resamplings=resamplings, **common),
        weights,
        **options,
    )


def _wanted(add: str | None) -> dict:
    """The new atoms as arguments of `complete`."""
    if add is None:
        return {"num_new": None}
    from molkit.chem.composition import parse_formula
    from molkit.config import whole_number

    if not add.strip()[:1].isalpha():
        return {"num_new": whole_number(add, what="--add, where it is no formula,", low=1)}

    return {"new_elements": [number for number, times in parse_formula(add).items() for _ in range(times)]}


def _atoms(text: str, num_atoms: int) -> list[int]:
    """Atoms counted from 0 of a list such as 1,2,5-8, which counts from 1."""
    from molkit.config import whole_ranges

    return [number - 1 for number in whole_ranges(text, what="--keep-atoms (such as 1,2,5-8)", low=1, high=num_atoms)]


def _one_molecule(path: Path, *, without_hydrogens: bool = False) -> Molecule:
    """The only molecule of a file. Raises InvalidInput for none, several, or one that cannot be used."""
    reading = read_input(path, check_overlap=False, without_hydrogens=without_hydrogens)
    if reading.problems:
        raise InvalidInput(reading.problems[0].reason)
    if len(reading.molecules) != 1:
        raise InvalidInput(f"{path}: expected one molecule, got {len(reading.molecules)}")
    return reading.molecules[0]


def _report(
    out: Path,
    run: Callable[..., Edits],
    weights: str,
    *,
    count: int,
    calls: str | None,
    guidance: float | None,
    seed: int,
) -> None:
    """Check the target, run the edit, write the molecules, and say how many came out and how many are stable."""
    from molkit.edm.editing import GUIDANCE
    from molkit.edm.model import load
    from molkit.edm.samplers import DEFAULT, default_sampler
    from molkit.rng import generator_from

    edm = load(weights, precision="auto")
    num_calls = min(DEFAULT.num_calls, edm.config.num_steps + 1) if calls is None else number_of_calls(calls)
    common = {
        "count": count,
        "num_calls": num_calls,
        "sampler": default_sampler(num_calls),
        "guidance": GUIDANCE if guidance is None else guidance,
        "generator": generator_from("edit", seed),
        "progress": True,
    }
    edits = run(edm, common)
    reason = "its chain did not stay finite, or ended in other elements; another --guidance or --calls may help"
    left_out = {f"molecule {row + 1}": reason for row in edits.failed}
    require_some(len(edits.molecules), left_out)
    write_output(out, edits.molecules)
    tell(out, f"{out}: {len(edits.molecules)} molecules{_stable_share(edits)}, {edits.num_calls} network calls each")
    end_of_parts(len(edits.molecules), left_out)


def _stable_share(edits: Edits) -> str:
    """How many are stable by EDM's rule, in words; nothing where the rule does not know an element."""
    from molkit.metrics.stability import stability

    try:
        return f", {int(stability(edits.molecules).molecule_stable.sum())} of them stable by EDM's rule"
    except InvalidInput:
        return ""
