"""`molkit train` and `molkit publish`."""

from importlib import import_module
from math import isfinite
from pathlib import Path

import click

from molkit.cli.options import SEED, Number, Whole
from molkit.cli.outputs import OutFolder

OFDFT = "molkit.ofdft"
OPTIONS = {"limit": "--limit", "start_from": "--from", "device": "--device cuda"}
LEARNERS = {  # method of a recipe -> module, what trains, what reads the recipe first, which of OPTIONS, and its name
    "edm": ("molkit.edm.training", "train_recipe", "", tuple(OPTIONS), "an EDM"),
    "cgcf": ("molkit.cgcf.training", "train_flow", "", ("limit", "start_from"), "the flow on distances"),
    "etm": ("molkit.cgcf.energy_training", "train_energy", "", ("limit",), "an energy"),
    "property": ("molkit.edm.property_network", "train_property", "", (), "a property network"),
    "ofdft_compact": (f"{OFDFT}.compact_training", "train_compact", "read_compact_recipe", (), "a compact functional"),
    "ofdft_attention": (f"{OFDFT}.attention_training", "train_attention", "read_attention_recipe", (), "a functional"),
}
TOLD = {  # method of a run -> module and function that say what is published of it
    **dict.fromkeys(("cgcf", "etm"), ("molkit.cgcf.publish", "publication")),
    "ofdft_compact": (f"{OFDFT}.compact", "publication"),
    "ofdft_attention": (f"{OFDFT}.attention_functional", "publication"),
}


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=OutFolder(), required=True, help="The run folder.")
@click.option("--time-budget", type=Number(min=1.0), help="Seconds after which the run saves and stops.")
@click.option("--total-steps", type=Whole(min=1), help="Length of the schedule; default: from the budget.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--from", "start_from", metavar="WEIGHTS", help="Begin a new run with these weights (name or folder).")
@click.option("--limit", type=Whole(min=1), help="Train on this many molecules only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", default=1, show_default=True, type=Whole(1, 1024), help="CPU threads a process.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(
    config: Path,
    out: Path,
    time_budget: float | None,
    total_steps: int | None,
    resume: bool,
    limit: int | None,
    start_from: str | None,
    device: str,
    threads: int,
    quiet: bool,
) -> None:
    """Train the model that CONFIG describes (a YAML file, or the name of one in data/recipes).

    Several devices: start with `torchrun --nproc_per_node N -m molkit train ...`.
    """
    import logging

    import torch

    from molkit.config import read_yaml
    from molkit.edm.training import recipe_path
    from molkit.errors import InvalidInput
    from molkit.training.run_folder import require_run

    if resume:
        require_run(out)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    run = {"out": out, "time_budget": time_budget, "total_steps": total_steps, "resume": resume}
    run["progress_bar"] = not quiet
    path = recipe_path(config)
    method = str(read_yaml(path).get("method"))
    module, function, reader, taken, what = LEARNERS.get(method, LEARNERS["edm"])
    choices = {"limit": limit, "start_from": start_from, "device": device if device == "cuda" else None}
    if unfit := [OPTIONS[name] for name, value in choices.items() if value is not None and name not in taken]:
        raise InvalidInput(f"{what} is trained on the CPU, from its own recipe: leave out {', '.join(unfit)}")
    choices["device"] = device
    room = import_module(module)
    recipe = getattr(room, reader)(path) if reader else path
    result = getattr(room, function)(recipe, **run, **{name: choices[name] for name in taken})
    loss = f", loss {result.loss:.4f}" if isfinite(result.loss) else ""  # none is known of runs of earlier versions
    state = "finished" if result.finished else "stopped, continue with --resume"
    click.echo(
        f"{out}: {state} at step {result.step} of {result.total_steps or 'an open number'}, "
        f"{result.passes} molecule passes, {result.seconds / 60:.1f} min{loss}"
    )


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--step", type=Whole(min=0), help="Publish the snapshot of this step, with a short card only.")
@click.option("--samples", type=click.Path(path_type=Path), help="A packed .npz of samples to keep with the weights.")
@click.option("--sample-calls", type=Whole(min=2), help="Network calls behind each of these samples.")
@click.option("--sample-seed", type=SEED, help="Their seed.")
@click.option("--sample-count", type=Whole(min=1), help="How many were asked for, failed chains included.")
@click.option("--sampler", help="Name of the sampler behind them.")
@click.option("--earlier", multiple=True, type=click.Path(path_type=Path), help="Run it began with (flows); repeat.")
@click.option("--remark", "remarks", multiple=True, help="A sentence for the card; may be given several times.")
def publish(
    run: Path,
    name: str,
    step: int | None,
    samples: Path | None,
    sample_calls: int | None,
    sample_seed: int | None,
    sample_count: int | None,
    sampler: str | None,
    earlier: tuple[Path, ...],
    remarks: tuple[str, ...],
) -> None:
    """Write the weights of RUN to data/weights/NAME, in half precision, with curve, facts and samples."""
    from molkit.config import read_yaml
    from molkit.training.publishing import publish as publish_run
    from molkit.training.weights import WEIGHTS_ROOT, folder_to_publish

    folder_to_publish(name, WEIGHTS_ROOT)
    stored = read_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    method = str(stored.get("method"))
    if step is not None:
        from molkit.edm.published import snapshot_publication as told

        folder = publish_run(told(run, step), name)
    elif method in TOLD:
        module, function = TOLD[method]
        began = {"earlier": earlier} if method in ("cgcf", "etm") else {}
        folder = publish_run(getattr(import_module(module), function)(run, remarks=remarks, **began), name)
    elif method == "property":
        folder = _publish_network(run, name)
    else:
        about = {"sample_calls": sample_calls, "sample_seed": sample_seed, "sampler": sampler, "remarks": remarks}
        about["samples_requested"] = sample_count
        if stored.get("context_names"):
            from molkit.studies.edm_card import publish_generator

            folder, samples = publish_generator(run, name, samples=samples, **about), None
        else:
            from molkit.edm.published import publication as told

            folder = publish_run(told(run, **about), name, samples=samples)
        if samples is not None:
            from molkit.studies.edm_card import publish_card  # needs RDKit; a bare training machine does without

            click.echo(f"{publish_card(folder)}: scored and written")
    click.echo(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 2**20:.2f} MiB")


def _publish_network(run: Path, name: str) -> Path:
    """Publish a property network; its part is the word in its name."""
    from molkit.errors import InvalidInput
    from molkit.studies.edm_card import publish_network

    parts = [part for part in ("judge", "labeller") if part in name]
    if len(parts) != 1:
        raise InvalidInput(f"the name of a property network says judge or labeller, got {name!r}")
    return publish_network(run, name, part=parts[0])
