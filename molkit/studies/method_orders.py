"""Records of claims of the form "this method is better than that one": a paired difference and its interval."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.metrics.statistics import Interval


def record_order(
    claim: str,
    difference: Interval,
    *,
    n: int,
    seconds: float,
    weights: str | None = None,
    seeds: Sequence[int] = (),
    stored: Path | None = None,
    factor: float = 1.0,
    notes: str = "",
) -> Measurement:
    """Record `cgcf.order.<claim>`: a mean paired difference over n molecules, times a factor for the claim's unit.

    stored: the file that the difference was read from. Raises what `record` raises.
    """
    scaled = replace(difference, **{name: factor * getattr(difference, name) for name in ("value", "low", "high")})
    return record(
        f"cgcf.order.{claim}",
        scaled.value,
        interval=(scaled.low, scaled.high),
        interval_kind="bootstrap over molecules, 95 %",
        n=n,
        counts="molecules",
        basis="trained_here",
        weights=weights,
        seeds=seeds,
        seconds=seconds,
        data_files=[stored] if stored is not None and stored.is_file() else [],
        notes=notes,
    )
