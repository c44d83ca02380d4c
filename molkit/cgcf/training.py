"""Train the flow of a recipe."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.datasets import ConformerChoice, load_conformers
from molkit.cgcf.flow import Flow
from molkit.cgcf.model import METHOD, build_flow, load_flow, read_config
from molkit.cgcf.task import FlowTask, Objective
from molkit.config import from_dict, read_yaml
from molkit.errors import InvalidInput
from molkit.training.config import TrainConfig
from molkit.training.files import write_text
from molkit.training.loop import TrainResult, make_fabric, train
from molkit.training.weights import resolve


@dataclass(frozen=True, kw_only=True)
class FlowRecipe:
    """One YAML file: conformers, model, objective and training."""

    data: ConformerChoice
    model: FlowConfig
    training: TrainConfig
    objective: Objective = "likelihood"


def read_flow_recipe(path: Path) -> FlowRecipe:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section, key or objective."""
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "data", "model", "training", "objective"}, key=str)
    if unknown:
        raise InvalidInput(
            f"{path}: unknown section {unknown[0]!r}; known are method, objective, data, model, training"
        )
    objective = values.get("objective", "likelihood")
    if objective not in ("likelihood", "matching"):
        raise InvalidInput(f"{path}: objective must be likelihood or matching, got {objective!r}")
    sections = {"data": ConformerChoice, "model": FlowConfig, "training": TrainConfig}
    read = {name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    return FlowRecipe(objective=objective, **read)


def train_flow(
    path: Path,
    *,
    out: Path,
    seed: int | None = None,
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    limit: int | None = None,
    start_from: str | None = None,
    progress_bar: bool = True,
) -> TrainResult:
    """Train, or continue, the flow of a recipe in the run folder `out`, on one CPU process.

    start_from begins a new run with the weights of another. Raises what the recipe, data and training loop raise.
    """
    started = time.monotonic()
    recipe = read_flow_recipe(path)
    training = recipe.training if seed is None else replace(recipe.training, seed=seed)
    data = load_conformers(recipe.data, limit=limit)
    model = replace(recipe.model, elements=data.elements)
    if resume and (out / "config.yaml").is_file() and read_config(out) != model:
        raise InvalidInput(f"{out}: the run there trains another {METHOD} model; use its recipe, or another --out")
    flow = build_flow(model, seed=training.seed)
    if start_from is not None:
        take_flow(flow, start_from)
    keep_recipe(path, out)
    return train(
        FlowTask(data, objective=recipe.objective, noise=model.noise),
        flow,
        training,
        out=out,
        fabric=make_fabric("cpu"),
        time_budget=None if time_budget is None else max(0.01, time_budget - (time.monotonic() - started)),
        resume=resume,
        total_steps=total_steps,
        started_from=start_from,
        progress_bar=progress_bar,
    )


def keep_recipe(path: Path, out: Path) -> None:
    """A copy of the recipe in the run folder, for the card of the weights."""
    write_text(out / "recipe.yaml", path.read_text(encoding="utf-8"))


def take_flow(flow: Flow, source: str) -> None:
    """Begin with the weights of a run or published weights. Raises InvalidInput when their shapes differ."""
    other = load_flow(resolve(source)).flow
    if any(getattr(other.config, key) != getattr(flow.config, key) for key in ("width", "num_layers", "table_rows")):
        raise InvalidInput(f"{source}: another model ({other.config}); its weights do not fit this recipe")
    flow.load_state_dict(other.state_dict())
