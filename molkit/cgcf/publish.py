"""What is published of a run of the flow or of the energy: float32, facts and a card."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from molkit.cgcf.energy_training import METHOD as ENERGY
from molkit.cgcf.energy_training import load_energy, save_energy
from molkit.cgcf.model import load_flow, save_flow
from molkit.config import read_yaml
from molkit.errors import DataNotFound
from molkit.training.publishing import Publication
from molkit.training.run_folder import load_state

COPIED = ("metrics.jsonl", "training.yaml", "provenance.jsonl", "recipe.yaml")
CONTRASTIVE = "noise-contrastive"
ENERGY_LIMITS = (
    "Learned over a bridge of levels between data and flow samples, one part of the energy for each step; the learning "
    "curve beside the weights tells which steps it resolves.",
    "The paper's sizes and settings are not known, and its sets do not come with this repository. What the tilt "
    "repairs is measured in the chapters on conformers.",
    "A mirror image has the same energy; it saw minima only, so that what it says of strained structures is "
    "extrapolated; it belongs to the flow it names, and to the elements of its training set.",
)
PAPER_PASSES = {"QM9": 42_000 * 128, "drug": 30_600 * 64}  # conformations seen by the published flow for that size
DRUG_SETS = ("conformers_dft", "ensembles_drugs")


def publication(run: Path, *, earlier: Sequence[Path] = (), remarks: Sequence[str] = ()) -> Publication:
    """The averaged weights of a run of the flow or of the energy, in float32, with its card.

    `earlier`: run folders whose weights this run began with, first one first, for the card. Raises DataNotFound when a
    run is absent, InvalidInput for a run of another method.
    """
    for folder in (run, *earlier):
        if not (folder / "recipe.yaml").is_file():
            raise DataNotFound(f"{folder}: no recipe.yaml; is this the folder of a run of the flow or its energy?")
    if read_yaml(run / "config.yaml").get("method") == ENERGY:
        network = load_energy(run)
        save = partial(save_energy, network, network.config)
    else:
        network = load_flow(run).flow
        save = partial(save_flow, network)
    count = sum(parameter.numel() for parameter in network.parameters())
    parts = [part_facts(folder) for folder in (*earlier, run)]
    return Publication(
        run=run,
        save=save,
        facts={"parts": parts, "remarks": list(remarks), "numbers": count},
        told=[f"Numbers that were trained: {count:,}; stored in float32.", *map(_training, parts), *remarks],
        limits=ENERGY_LIMITS if parts[-1]["objective"] == CONTRASTIVE else flow_limits(parts),
        kept=COPIED,
    )


def part_facts(run: Path) -> dict:
    """What one run had seen and cost: objective, data, steps, passes, seconds, last loss, machine."""
    _, numbers = load_state(run)
    recipe = read_yaml(run / "recipe.yaml")
    last = json.loads((run / "provenance.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    curve = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "objective": CONTRASTIVE if recipe["method"] == ENERGY else recipe.get("objective", "likelihood"),
        "data": recipe["data"],
        "step": numbers["step"],
        "planned": numbers["total_steps"],
        "passes": numbers["passes"],
        "seconds": round(numbers["seconds"], 1),
        "loss": json.loads(curve[-1])["loss"] if curve else None,
        "device": f"{last['device']} ({last['processor']})",
    }


def _training(part: dict) -> str:
    """One run in words."""
    data = yaml.safe_dump(part["data"], default_flow_style=True).strip()
    ended = "" if part["step"] == part["planned"] else f" of {part['planned']:,} planned"
    loss = "" if part["loss"] is None else f", last logged loss {part['loss']:.3f}"
    return (
        f"Training by {part['objective']}: {part['step']:,} steps{ended}, {part['passes']:,} conformer passes, "
        f"{part['seconds'] / 60:.0f} minutes on a shared core of {part['device']}{loss}. Data: `{data}`."
    )


def flow_limits(parts: Sequence[dict]) -> list[str]:
    """What a user of a flow must know."""
    seen = sum(part["passes"] for part in parts)
    size = "drug" if parts[-1]["data"].get("name") in DRUG_SETS else "QM9"
    return [
        f"Conformer passes in all: {seen:,}; the published flow for {size}-size molecules saw about "
        f"{PAPER_PASSES[size]:,}.",
        "Not GEOM and not ISO17: the paper's sets do not come with this repository. What the weights reach is measured "
        "in the chapters on conformers, beside RDKit.",
        "No handedness (reflected and drawn again afterwards), nothing between atoms more than three bonds apart, "
        "formal charges and unpaired electrons not seen, elements of the training set only.",
    ]
