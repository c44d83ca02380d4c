"""The fast engine against the readable network: the same chains, and what rounding does to the molecules."""

import json
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time

import numpy as np
import torch

from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, hash_files, machine
from molkit.config import stored_json
from molkit.edm.engine import accelerate, available, has_bfloat16
from molkit.edm.model import load, resolve
from molkit.edm.sampling import sample
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import fork, generator_from
from molkit.training.files import write_text

CHUNK = 250  # chains per task
STORED = REPOSITORY / "data" / "studies" / "edm_engine.json"
EXECUTIONS: tuple[str, ...] = ("readable", "float32", "bfloat16")


@dataclass(frozen=True)
class Outcomes:
    """What became of the chains of one execution, row by row; a chain that failed has no stable atom."""

    stable_atoms: np.ndarray  # [B]
    num_atoms: np.ndarray  # [B]
    molecule_stable: np.ndarray  # [B] bool
    seconds: float  # CPU seconds of the sampling


@dataclass(frozen=True)
class PairedComparison:
    """The same trajectories in two executions; differences are second minus first, in shares."""

    first: str
    second: str
    num_chains: int
    num_calls: int
    molecule_stability: tuple[float, float]
    atom_stability: tuple[float, float]
    molecule_difference: Interval  # bootstrap over pairs
    atom_difference: Interval
    discordant: tuple[int, int]  # stable in the first only, in the second only
    seconds: tuple[float, float]


def run_chunk(weights: str, execution: str, *, chunk: int, num_calls: int, seed: int) -> Outcomes:
    """CHUNK chains whose sizes and noise follow from (seed, chunk) alone, run by one execution of the network."""
    torch.set_num_threads(1)
    edm = load(weights, fast=False)
    if execution != "readable":
        edm = replace(edm, network=accelerate(edm.network, precision=execution))
    generator = generator_from("engine", seed, chunk)
    sizes = edm.draw_sizes(CHUNK, generator=generator)
    generators = fork(generator, CHUNK)
    started = process_time()
    result = sample(edm, sizes, generator=generators, num_calls=num_calls)
    seconds = process_time() - started
    found = stability(result.molecules)
    rows = np.delete(np.arange(CHUNK), list(result.failed))
    atoms, flags = np.zeros(CHUNK, dtype=np.int64), np.zeros(CHUNK, dtype=bool)
    atoms[rows], flags[rows] = found.stable_atoms, found.molecule_stable
    return Outcomes(atoms, sizes.numpy(), flags, seconds)


def join(parts: list[Outcomes]) -> Outcomes:
    """Chunks one after the other, seconds added."""
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("stable_atoms", "num_atoms")]
    flags = np.concatenate([part.molecule_stable for part in parts])
    return Outcomes(*columns, flags, sum(part.seconds for part in parts))


def paired_outcomes(
    weights: str, executions: tuple[str, ...], *, num_chains: int, num_calls: int, seed: int, executor: Executor | None
) -> dict[str, Outcomes]:
    """The same chains (rounded up to whole chunks) in every execution."""
    chunks = range(-(-num_chains // CHUNK))
    options = {"num_calls": num_calls, "seed": seed}
    if executor is None:
        return {name: join([run_chunk(weights, name, chunk=k, **options) for k in chunks]) for name in executions}
    tasks = {
        name: [executor.submit(run_chunk, weights, name, chunk=k, **options) for k in chunks] for name in executions
    }
    return {name: join([task.result() for task in tasks[name]]) for name in executions}


def compare(outcomes: dict[str, Outcomes], first: str, second: str, *, num_calls: int) -> PairedComparison:
    """Differences of the two executions with intervals from resampling pairs of trajectories."""
    one, two = outcomes[first], outcomes[second]
    pairs = two.molecule_stable.astype(float) - one.molecule_stable
    total = one.num_atoms.sum()
    atoms = (two.stable_atoms - one.stable_atoms) / total * len(pairs)  # their mean is the difference of the shares
    return PairedComparison(
        first=first,
        second=second,
        num_chains=len(pairs),
        num_calls=num_calls,
        molecule_stability=(float(one.molecule_stable.mean()), float(two.molecule_stable.mean())),
        atom_stability=(float(one.stable_atoms.sum() / total), float(two.stable_atoms.sum() / total)),
        molecule_difference=bootstrap_interval(pairs),
        atom_difference=bootstrap_interval(atoms),
        discordant=(int((pairs < 0).sum()), int((pairs > 0).sum())),
        seconds=(one.seconds, two.seconds),
    )


def executions_here() -> tuple[str, ...]:
    """The executions that differ on this machine; without bfloat16 products the last one would be float32 again."""
    return EXECUTIONS if has_bfloat16() else EXECUTIONS[:2] if available() else EXECUTIONS[:1]


def trajectories(
    weights: str, *, num_chains: int, num_calls: int, seed: int, executor: Executor | None = None
) -> PairedComparison | None:
    """The same chains with float32 and with bfloat16 products; None where this CPU has no such products."""
    if not has_bfloat16():
        return None
    options = {"num_chains": num_chains, "num_calls": num_calls, "seed": seed, "executor": executor}
    return compare(paired_outcomes(weights, EXECUTIONS[1:], **options), *EXECUTIONS[1:], num_calls=num_calls)


def write_trajectories(weights: str, path: Path, comparison: PairedComparison, *, seed: int) -> None:
    """Keep a comparison with what is needed to trust it. Raises RunError when the disk refuses."""
    head, dirty = commit()
    stamp = {"weights": weights, "seed": seed, "commit": head, "dirty": dirty, "machine": machine()}
    stamp["weights_sha256"] = hash_files([resolve(weights) / "weights.safetensors"])
    write_text(path, json.dumps({**stamp, "comparison": asdict(comparison)}, indent=1) + "\n")


def stored_trajectories(path: Path = STORED) -> tuple[str, PairedComparison]:
    """The weights and the comparison that `molkit bench trajectories` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a comparison of trajectories", f"molkit bench trajectories --out {path}") as stored:
        fields = stored["comparison"]
        for name in ("molecule_difference", "atom_difference"):
            fields[name] = Interval(**fields[name])
        for name in ("molecule_stability", "atom_stability", "discordant", "seconds"):
            fields[name] = tuple(fields[name])
        return stored["weights"], PairedComparison(**fields)
