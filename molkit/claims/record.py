"""Results made of rows of an experiment: they say what the rows say about themselves, and nothing newer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from molkit.claims import provenance
from molkit.claims.ledger import STORED_PROFILES, Claim, Measurement, find, load_claims, study_of
from molkit.claims.store import current_profile, require_valid, results_folder, write_result
from molkit.errors import InvalidInput


class Estimate(Protocol):
    """A number with its interval."""

    value: float
    low: float
    high: float


def record(
    claim_id: str,
    estimate: Estimate | float,
    rows: Any,
    *,
    n: int,
    basis: str,
    interval_kind: str = "exact",
    weights: str | None = None,
    training_passes: float | None = None,
    seeds: Sequence[int] = (),
    device: str = "cpu",
    notes: str = "",
    claims: Mapping[str, Claim] | None = None,
) -> Measurement:
    """Record a number that follows from `rows`, the table that `run` returned, with the origin of these rows.

    estimate: in the claim's unit, with `value`, `low` and `high`, or a plain number that has no interval. Commit, date,
    machine and versions are those of the newest of the rows. Kept on disk as `molkit.claims.store.record` keeps
    results. Raises InvalidInput for rows that do not say where they come from, and as that function does.
    """
    claim = find(load_claims(study=study_of(claim_id)) if claims is None else claims, claim_id)
    account = getattr(rows, "attrs", {}).get("account")
    if account is None:
        raise InvalidInput(f"{claim_id}: the rows do not say where they come from; give the table that `run` returned")
    origin = account.origin()
    newest = max(origin["batches"], key=lambda batch: batch["date"])
    plain = isinstance(estimate, int | float)
    value = float(estimate if plain else estimate.value)
    interval = None if plain else (float(estimate.low), float(estimate.high))
    if interval is not None and all(map(math.isnan, interval)):
        interval, interval_kind = None, "one item, no interval"
    require_valid(claim, value, interval, int(n), claim.counts)
    measurement = Measurement(
        claim_id=claim.id,
        value=value,
        interval=interval,
        interval_kind=interval_kind,
        n=int(n),
        counts=claim.counts,
        basis=basis,
        profile=current_profile(),
        weights=weights,
        training_passes=training_passes,
        seeds=tuple(int(seed) for seed in seeds),
        seconds=account.seconds,
        notes=notes,
        recorded=newest["date"],
        claim_fingerprint=claim.fingerprint,
        commit=newest["commit"],
        dirty=newest["dirty"],
        source_hash=provenance.digest([batch["code"] for batch in origin["batches"]]),
        versions=dict(newest["versions"]),
        machine=newest["machine"],
        device=device,
        origin=origin,
    )
    if measurement.profile in STORED_PROFILES:
        write_result(measurement, results_folder())
    return measurement
