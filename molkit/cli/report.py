"""`molkit ledger`, `molkit doctor` and `molkit bench`: claims, this installation, its speed."""

from pathlib import Path

import click

from molkit.cli.options import SEED, Whole
from molkit.cli.outputs import OutFile


@click.command()
@click.argument("prefix", default="")
@click.option("--all", "every", is_flag=True, help="Also list each claim that nobody has tried.")
@click.option("--json", "as_json", is_flag=True, help="Print every selected claim with its result and verdict as JSON.")
def ledger(prefix: str, every: bool, as_json: bool) -> None:
    """Show the claims whose id begins with PREFIX (all without one) by verdict: published and ours."""
    from molkit.claims.table import ledger_rows, ledger_text

    rows = ledger_rows(prefix)
    click.echo(_as_json(rows) if as_json else ledger_text(rows, every=every))


def _as_json(rows: list) -> str:
    import json
    from dataclasses import asdict

    entries = [
        {
            "claim": asdict(row.claim),
            "result": None if row.measurement is None else asdict(row.measurement),
            "verdict": row.verdict.word,
            "reason": row.verdict.reason,
            "stale": list(row.verdict.stale),
        }
        for row in rows
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False)


@click.command()
@click.option("--quick", is_flag=True, help="Leave out the checksums of data and weights.")
def doctor(quick: bool) -> None:
    """Versions, processor, engine, disk, data and weights on one screen; a line with ! needs attention."""
    from molkit.doctor import examine
    from molkit.errors import RunError

    wrong = 0
    for line in examine(quick=quick):
        click.echo(str(line))
        wrong += line.ok is False
    if wrong:
        raise RunError(f"{wrong} of these need attention: the lines that begin with !")


ISAS = ("auto", "amx_bf16", "avx512_bf16", "avx512", "avx2")


@click.group()
def bench() -> None:
    """Measure speed side by side; prints JSON."""


@bench.command()
@click.option("--width", default=256, show_default=True, type=Whole(1, 4096), help="Hidden features.")
@click.option("--layers", default=9, show_default=True, type=Whole(1, 100), help="Blocks of the network.")
@click.option("--molecules", default=32, show_default=True, type=Whole(1, 4096), help="In one batch.")
@click.option("--rounds", default=3, show_default=True, type=Whole(1, 1000), help="The median is reported.")
@click.option("--isa", default="auto", show_default=True, type=click.Choice(ISAS), help="Cap on instruction sets.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(("cpu", "cuda")))
@click.option("--padded-chunk", type=Whole(min=1), help="Molecules the padded network takes at once.")
@click.option("--pair-budget", type=Whole(min=1), help="Pairs the other networks take at once.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of weights, molecules and noise.")
@click.option("--out", type=OutFile(), help="Also write the JSON to this file.")
def edm(
    width: int,
    layers: int,
    molecules: int,
    rounds: int,
    isa: str,
    device: str,
    padded_chunk: int | None,
    pair_budget: int | None,
    seed: int,
    out: Path | None,
) -> None:
    """EDM network against a padded all-pairs one: training step and sampling call on QM9 molecules, one thread.

    Outputs and gradients are compared before anything is timed. With --isa this machine shows what one with fewer
    instruction sets would do.
    """
    import json

    from molkit.errors import InvalidInput

    if isa != "auto" and device != "cpu":
        raise InvalidInput("--isa caps the CPU's instruction sets; leave it out with --device cuda")
    request = {
        **{"width": width, "layers": layers, "molecules": molecules, "rounds": rounds},
        **{"isa": isa, "device": device, "seed": seed},
        **({} if padded_chunk is None else {"padded_chunk": padded_chunk}),
        **({} if pair_budget is None else {"pair_budget": pair_budget}),
    }
    result = _launcher().run(
        "benchmarks.edm", request, isa=isa, report=lambda line: click.echo(f"molkit: {line}", err=True)
    )
    text = json.dumps(result, indent=1, allow_nan=False)
    if out is not None:
        _write(out, text + "\n")
    click.echo(text)


def _launcher():
    """The part of `benchmarks` that starts measurements. Raises ToolNotFound where that package is not at hand."""
    from molkit.errors import ToolNotFound

    try:
        from benchmarks import launch
    except ImportError:
        raise ToolNotFound(
            "the folder benchmarks/ of molkit was not found: run this from a checkout installed by `pip install -e .`"
        ) from None
    return launch


def _write(out: Path, text: str) -> None:
    """Write by temporary name and rename. Raises InvalidInput when the folder cannot be written."""
    from molkit.errors import InvalidInput

    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidInput(f"{out}: cannot be written ({error.strerror})") from None
