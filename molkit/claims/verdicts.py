"""From a claim and a result to one of five words. Nothing here knows which profile is being shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from molkit.claims.ledger import STORED_PROFILES, Claim, Measurement

REPRODUCED = "reproduced"
CONSISTENT = "consistent at reduced scale"
DIRECTION = "direction only"
DIFFERS = "differs"
NOT_ATTEMPTED = "not attempted"
VERDICTS = (REPRODUCED, CONSISTENT, DIRECTION, DIFFERS, NOT_ATTEMPTED)


@dataclass(frozen=True)
class Verdict:
    """One of the five words, and the reason in a few more. `stale` names what changed since the result was recorded."""

    word: str
    reason: str = ""
    stale: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.word} ({self.reason})" if self.word == NOT_ATTEMPTED and self.reason else self.word
        return f"{text}, stale" if self.stale else text


def judge(
    claim: Claim,
    measurement: Measurement | None,
    *,
    claims: Mapping[str, Claim],
    measurements: Mapping[str, Measurement] | None = None,
    stale: tuple[str, ...] = (),
) -> Verdict:
    """The verdict that the claim's own rule gives.

    claims: all of them, for rules that compare with another row; measurements: ours by claim id, for rules of kind
    `order` that compare results of ours. A result of a smoke or by-hand run, or one that counts fewer than the rule's
    `min_n`, gives no verdict. "reproduced" needs the rule met at the paper's scale, see `shortfalls`.
    """
    if measurement is None or claim.attempt == "none":
        return Verdict(NOT_ATTEMPTED, claim.why or "no result recorded yet")
    refusal = _refusal(claim, measurement)
    if refusal:
        return Verdict(NOT_ATTEMPTED, refusal)
    if claim.accept.kind == "order":
        return _judge_order(claim, measurement, claims, measurements or {}, stale)
    if _within_rule(claim, measurement):
        return _met(claim, measurement, stale)
    baseline = claims[claim.accept.baseline] if claim.accept.baseline else None
    if baseline is not None and baseline.value is not None and _clears(claim, measurement, baseline.value):
        return Verdict(DIRECTION, f"on the paper's side of {baseline.label}, short of the published value", stale)
    return Verdict(DIFFERS, "the acceptance rule is not met", stale)


def shortfalls(claim: Claim, measurement: Measurement) -> list[str]:
    """What keeps a result from standing at the paper's scale; empty when nothing does."""
    missing = []
    if measurement.basis not in claim.basis:
        missing.append(f"basis {measurement.basis}, not {' or '.join(claim.basis) or 'any that was named'}")
    if claim.n is None:
        missing.append("the paper's n is not known")
    elif measurement.n < claim.n:
        missing.append(f"n {measurement.n:,} of {claim.n:,} {claim.counts}")
    if claim.training_passes is not None and measurement.basis == "trained_here":
        passes = measurement.training_passes or 0.0
        if passes < claim.training_passes:
            missing.append(f"{passes:.2g} of {claim.training_passes:.2g} training passes")
    if measurement.interval is None and measurement.interval_kind != "exact":
        missing.append("no interval")
    return missing


def _refusal(claim: Claim, measurement: Measurement) -> str:
    if measurement.profile not in STORED_PROFILES:
        return f"a {measurement.profile} run gives no verdict"
    if claim.accept.kind == "not_measurable":
        return claim.why or "no number here can settle it"
    if claim.accept.kind != "order" and claim.value is None:
        return "the published number is unverified"
    if measurement.n < claim.accept.min_n:
        return f"n {measurement.n:,} is below the {claim.accept.min_n:,} the rule asks for"
    return ""


def _within_rule(claim: Claim, measurement: Measurement) -> bool:
    rule, published = claim.accept, claim.value
    rounding = 1e-9 * max(1.0, abs(published))  # 68.1 - 0.1 is not quite 68.0 in binary
    if rule.kind == "within":
        return abs(measurement.value - published) <= rule.tolerance + rounding
    if rule.kind == "at_least":
        return measurement.value >= published - rule.tolerance - rounding
    return measurement.value <= published + rule.tolerance + rounding


def _met(claim: Claim, measurement: Measurement, stale: tuple[str, ...]) -> Verdict:
    missing = shortfalls(claim, measurement)
    return Verdict(CONSISTENT, "; ".join(missing), stale) if missing else Verdict(REPRODUCED, "", stale)


def _clears(claim: Claim, measurement: Measurement, other: float) -> bool:
    low, high = measurement.interval or (measurement.value, measurement.value)
    if claim.direction == "higher":
        return low > other
    return high < other if claim.direction == "lower" else False


def _judge_order(
    claim: Claim,
    measurement: Measurement,
    claims: Mapping[str, Claim],
    measurements: Mapping[str, Measurement],
    stale: tuple[str, ...],
) -> Verdict:
    others, missing = [], []  # the values to clear; what keeps the compared results from the paper's scale
    for name in claim.accept.than:
        other = measurements.get(name)
        if claim.accept.using == "published":
            others.append((claims[name].value, claims[name].value))
        elif other is None or other.profile not in STORED_PROFILES:
            return Verdict(NOT_ATTEMPTED, f"needs our own result for {name}")
        else:
            others.append((_far_edge(claim, other), other.value))
            missing += [f"{claims[name].label}: {text}" for text in shortfalls(claims[name], other)]
    if all(_clears(claim, measurement, edge) for edge, _ in others):
        return Verdict(CONSISTENT, "; ".join(missing), stale) if missing else _met(claim, measurement, stale)
    sign = 1.0 if claim.direction == "higher" else -1.0
    if all(sign * measurement.value > sign * value for _, value in others):
        return Verdict(DIRECTION, "the order holds, but not beyond the interval", stale)
    return Verdict(DIFFERS, "the order does not hold", stale)


def _far_edge(claim: Claim, other: Measurement) -> float:
    """The edge of the other's interval that ours must clear."""
    if other.interval is None:
        return other.value
    return other.interval[1] if claim.direction == "higher" else other.interval[0]
