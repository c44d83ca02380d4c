"""Results on disk: one small JSON a claim and profile, written whole or not at all, read strictly."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from molkit.claims import provenance
from molkit.claims.ledger import (
    PROFILES,
    REPOSITORY,
    STORED_PROFILES,
    Claim,
    Measurement,
    find,
    load_claims,
    study_of,
)
from molkit.config import from_dict
from molkit.errors import InvalidInput, RunError


def results_folder() -> Path:
    """Where results are kept: MOLKIT_RESULTS_DIR, else data/results of the repository."""
    return Path(os.environ.get("MOLKIT_RESULTS_DIR") or REPOSITORY / "data" / "results")


def current_profile() -> str:
    """The profile of this run, from MOLKIT_PROFILE; "by hand" when nobody set one."""
    name = os.environ.get("MOLKIT_PROFILE") or "by hand"
    if name not in PROFILES:
        raise InvalidInput(f"MOLKIT_PROFILE must be smoke, fast or paper; got {name!r}")
    return name


def record(
    claim_id: str,
    value: float,
    *,
    interval: tuple[float, float] | None,
    interval_kind: str,
    n: int,
    counts: str,
    basis: str,
    weights: str | None = None,
    training_passes: float | None = None,
    seeds: Sequence[int] = (),
    seconds: float,
    source_files: Iterable[str | Path] | None = None,
    data_files: Iterable[str | Path] = (),
    device: str = "cpu",
    profile: str | None = None,
    notes: str = "",
    claims: Mapping[str, Claim] | None = None,
) -> Measurement:
    """Record a result for a claim and return it with its provenance.

    value and interval are in the claim's unit; an interval whose ends are NaN is none (one item). n counts what the
    claim counts. source_files: the molkit files that the
    number depends on (default: those loaded in this process); data_files: the data it was computed from; the files of
    `weights` (a name in data/weights) are added. Only the profiles fast and paper are kept on disk: a smoke run or a
    notebook run by hand returns its result and writes nothing. Raises InvalidInput for an unknown claim, a number that
    is not finite or lies outside its interval, or an n that counts something else; RunError if it cannot be written.
    """
    claim = find(load_claims(study=study_of(claim_id)) if claims is None else claims, claim_id)
    if interval is not None and all(map(math.isnan, interval)):
        interval, interval_kind = None, "one item, no interval"
    require_valid(claim, float(value), interval, int(n), counts)
    sources = provenance.hash_files(provenance.loaded_source_files() if source_files is None else source_files)
    head, dirty = provenance.commit()
    measurement = Measurement(
        claim_id=claim.id,
        value=float(value),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        interval_kind=interval_kind,
        n=int(n),
        counts=counts,
        basis=basis,
        profile=current_profile() if profile is None else profile,
        weights=weights,
        training_passes=training_passes,
        seeds=tuple(int(seed) for seed in seeds),
        seconds=round(float(seconds), 3),
        peak_memory_mib=round(provenance.peak_memory_mib(), 1),
        notes=notes,
        recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        claim_fingerprint=claim.fingerprint,
        commit=head,
        dirty=dirty,
        source_hash=provenance.combined_hash(sources),
        source_files=sources,
        data_files=provenance.hash_files([*data_files, *_weight_files(weights)]),
        versions=provenance.versions(),
        machine=provenance.machine(),
        device=device,
    )
    if measurement.profile in STORED_PROFILES:
        write_result(measurement, results_folder())
    return measurement


def load_results(folder: Path | None = None, *, names: Sequence[str] | None = None) -> dict[str, list[Measurement]]:
    """Every recorded result by claim id, or those of the claims in `names`, read strictly.

    Raises InvalidInput naming a file that is not a result.
    """
    folder = results_folder() if folder is None else Path(folder)
    paths = sorted(folder.glob("*.json")) if names is None else _present(folder, names)
    results: dict[str, list[Measurement]] = {}
    for path in paths:
        measurement = _read(path, path.stat().st_mtime_ns)
        results.setdefault(measurement.claim_id, []).append(measurement)
    return results


def _present(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of these claims' results. Each is opened, so that the run cache sees which ones a chapter looked for."""
    found = []
    for path in (folder / f"{name}.{profile}.json" for name in names for profile in STORED_PROFILES):
        with suppress(FileNotFoundError), path.open("rb"):
            found.append(path)
    return found


def what_changed(measurement: Measurement, claim: Claim) -> tuple[str, ...]:
    """What is no longer as it was when the result was recorded: files of code and data, or the claim itself.

    For a result made of rows of an experiment: since these were computed, unless an audit has confirmed them.
    """
    if measurement.origin:
        files = provenance.changed_origin(measurement.origin)
    else:
        files = provenance.changed_files({**measurement.source_files, **measurement.data_files})
    return files if measurement.claim_fingerprint == claim.fingerprint else (*files, "the claim or its rule")


def best(measurements: Sequence[Measurement], claim: Claim) -> Measurement | None:
    """The result that stands for a claim: fresh before stale, right basis, larger n, then newest; never by value."""

    def rank(measurement: Measurement) -> tuple:
        fresh = not what_changed(measurement, claim)
        kept = measurement.profile in STORED_PROFILES
        return kept, fresh, measurement.basis in claim.basis, measurement.n, measurement.recorded

    return max(measurements, key=rank, default=None)


def require_valid(claim: Claim, value: float, interval: tuple[float, float] | None, n: int, counts: str) -> None:
    """Raise InvalidInput for a result that cannot be one of this claim."""
    if claim.measured_as:
        raise InvalidInput(f"{claim.id} is judged by the result of {claim.measured_as}: record that one")
    if claim.attempt == "none":
        raise InvalidInput(f"{claim.id} is marked `attempt: none` ({claim.why}); change its entry before recording")
    if not math.isfinite(value):
        raise InvalidInput(f"{claim.id}: a result must be a finite number, got {value}")
    if interval is not None and not interval[0] <= value <= interval[1]:
        raise InvalidInput(f"{claim.id}: the interval {tuple(interval)} does not hold the value {value}")
    if n < 1 or counts != claim.counts:
        raise InvalidInput(f"{claim.id}: n must be a positive number of {claim.counts}, got {n} {counts}")
    if claim.unit == "%" and not 0.0 <= value <= 100.0:
        raise InvalidInput(f"{claim.id}: a percentage lies in 0..100, got {value}")


def _weight_files(name: str | None) -> list[Path]:
    if name is None:
        return []
    folder = REPOSITORY / "data" / "weights" / name
    return [folder / "weights.safetensors", *folder.glob("config.yaml")]


def write_result(measurement: Measurement, folder: Path) -> None:
    """Write CLAIM.PROFILE.json, whole or not at all. Raises RunError."""
    text = json.dumps(asdict(measurement), indent=1, allow_nan=False) + "\n"
    target = folder / f"{measurement.claim_id}.{measurement.profile}.json"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):  # nothing half-written is left, and no clean-up hides the first error
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write the result of {measurement.claim_id} to {folder}: {error.strerror}") from None


@lru_cache(maxsize=2048)
def _read(path: Path, _modified: int) -> Measurement:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not readable as a JSON result: {error}") from None
    return from_dict(Measurement, entry, source=str(path))
