"""From a claim and a result to one of seven words. Nothing here knows which profile is being shown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from molkit.claims.ledger import PUBLISHED_ENERGIES, STORED_PROFILES, Claim, Measurement

REPRODUCED = "reproduced"
CONSISTENT = "consistent at reduced scale"
DIRECTION = "direction only"
UNDECIDED = "undecided"
NOT_COMPARABLE = "not comparable yet"
DIFFERS = "differs"
NOT_ATTEMPTED = "not attempted"
VERDICTS = (REPRODUCED, CONSISTENT, DIRECTION, UNDECIDED, NOT_COMPARABLE, DIFFERS, NOT_ATTEMPTED)
FEWEST_FOR_AN_ORDER = 8  # independent items of every result that is put in order


@dataclass(frozen=True)
class Verdict:
    """One of the seven words, and the reason in a few more. `stale` names what changed since it was recorded."""

    word: str
    reason: str = ""
    stale: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = self.reason and self.word in (NOT_ATTEMPTED, NOT_COMPARABLE)
        text = f"{self.word} ({self.reason})" if told else self.word
        return f"{text}, stale" if self.stale else text


@dataclass(frozen=True)
class Difference:
    """Ours less another claim's value, in the claim's unit.

    `side` is 1 where the two intervals are apart as the claim says, -1 the other way round, 0 where they overlap.
    """

    other: Claim
    value: float
    interval: tuple[float, float] | None  # None where either result has none
    side: int


def judge(
    claim: Claim,
    measurement: Measurement | None,
    *,
    claims: Mapping[str, Claim],
    measurements: Mapping[str, Measurement] | None = None,
    stale: tuple[str, ...] = (),
) -> Verdict:
    """The verdict that the claim's own rule gives, from the interval wherever there is one.

    claims: all of them, for rules that compare with another row; measurements: ours by claim id, for rules of kind
    `order` that compare results of ours. A result of a smoke or by-hand run, or one that counts fewer than the rule's
    `min_n`, gives no verdict. The rule is met where the value keeps to its tolerance *and* the interval reaches the
    published value; "reproduced" needs that at the paper's scale, see `shortfalls`. A result whose interval reaches it
    and whose value does not is undecided. A miss is "not comparable yet" where something was smaller than the paper's,
    see `lesser`, and else "differs".
    """
    if measurement is None or claim.attempt == "none":
        return Verdict(NOT_ATTEMPTED, claim.why or "no result recorded yet")
    refusal = _refusal(claim, measurement)
    if refusal:
        return Verdict(NOT_ATTEMPTED, refusal)
    if measurement.basis == PUBLISHED_ENERGIES:
        return Verdict(NOT_COMPARABLE, "leans on published energies, so it says nothing of a functional", stale)
    if claim.accept.kind == "order":
        return _judge_order(claim, measurement, claims, measurements or {}, stale)
    close, reached = _within_rule(claim, measurement), _reaches(claim, measurement)
    if close and reached:
        return _met(shortfalls(claim, measurement), stale)
    baseline = claims[claim.accept.baseline] if claim.accept.baseline else None
    if baseline is not None and baseline.value is not None and _side(claim, _ends(measurement), baseline.value) > 0:
        return Verdict(DIRECTION, f"on the paper's side of {baseline.label}, short of the published value", stale)
    if reached:
        return Verdict(UNDECIDED, "the interval holds the published value, ours is off by more than the rule", stale)
    why = "the interval leaves the published value out" if close else "the acceptance rule is not met"
    return _missed(lesser(claim, measurement), why, stale)


def lesser(claim: Claim, measurement: Measurement) -> list[str]:
    """What was smaller than the paper's: the kind of evidence, the n, the training. Empty when nothing was."""
    if measurement.basis == "exact" and "exact" in claim.basis:
        return []  # a count is what it is, however many the paper counted
    missing = []
    if measurement.basis not in claim.basis:
        missing.append(f"basis {measurement.basis}, not {' or '.join(claim.basis) or 'any that was named'}")
    if claim.n is not None and measurement.n < claim.n:
        missing.append(f"n {measurement.n:,} of {claim.n:,} {claim.counts}")
    if claim.training_passes is not None and measurement.basis == "trained_here":
        share = (measurement.training_passes or 0.0) / claim.training_passes
        if share < 1.0:
            missing.append(f"{100.0 * share:.2g} % of the paper's training")
    return missing


def shortfalls(claim: Claim, measurement: Measurement) -> list[str]:
    """What keeps a result from standing at the paper's scale; empty when nothing does."""
    missing = lesser(claim, measurement)
    if claim.n is None and measurement.basis != "exact":
        missing.append("the paper's n is not known")
    if measurement.interval is None and measurement.interval_kind != "exact":
        missing.append("no interval")
    return missing


def differences(
    claim: Claim, measurement: Measurement, claims: Mapping[str, Claim], measurements: Mapping[str, Measurement]
) -> list[Difference]:
    """What an order is judged by: ours less each of the others, half widths added in quadrature on each side.

    Empty where one of the others has no result of ours and the rule asks for it. Source of the interval: Newcombe,
    Stat. Med. 17, 873 (1998), method 10; a published value counts as exact. Paired results are recorded as differences.
    """
    found = []
    for name in claim.accept.than:
        other = measurements.get(name) if claim.accept.using == "measured" else None
        if claim.accept.using == "measured" and other is None:
            return []
        value = other.value if other else claims[name].value
        low, high = _ends(other) if other else (value, value)
        start, end = _ends(measurement)
        gap = measurement.value - value
        ends = (
            gap - math.hypot(measurement.value - start, high - value),
            gap + math.hypot(end - measurement.value, value - low),
        )
        known = measurement.interval is not None and (other is None or other.interval is not None)
        found.append(Difference(claims[name], gap, ends if known else None, _side(claim, (start, end), low, high)))
    return found


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


def _reaches(claim: Claim, measurement: Measurement) -> bool:
    """Whether the interval holds the published value, as it is printed, or lies on the better side of it."""
    if measurement.interval is None:
        return _within_rule(claim, measurement)
    low, high = measurement.interval
    half_a_digit = 0.5000001 * 10.0**-claim.decimals
    above, below = high + half_a_digit >= claim.value, low - half_a_digit <= claim.value
    return {"at_least": above, "at_most": below}.get(claim.accept.kind, above and below)


def _met(missing: Sequence[str], stale: tuple[str, ...]) -> Verdict:
    return Verdict(CONSISTENT, "; ".join(missing), stale) if missing else Verdict(REPRODUCED, "", stale)


def _missed(smaller: Sequence[str], why: str, stale: tuple[str, ...]) -> Verdict:
    return Verdict(NOT_COMPARABLE, "; ".join(smaller), stale) if smaller else Verdict(DIFFERS, why, stale)


def _judge_order(
    claim: Claim,
    measurement: Measurement,
    claims: Mapping[str, Claim],
    measurements: Mapping[str, Measurement],
    stale: tuple[str, ...],
) -> Verdict:
    compared = {claim.id: (claim, measurement)}
    if claim.accept.using == "measured":
        for name in claim.accept.than:
            other = measurements.get(name)
            if other is None or other.profile not in STORED_PROFILES:
                return Verdict(NOT_ATTEMPTED, f"needs our own result for {name}")
            compared[name] = (claims[name], other)
    results = [result for _, result in compared.values()]
    fewest = min(result.n for result in results)
    if fewest < FEWEST_FOR_AN_ORDER:
        return Verdict(UNDECIDED, f"n {fewest} {claim.counts}, and an order needs {FEWEST_FOR_AN_ORDER}", stale)
    if any(result.interval is None and result.interval_kind != "exact" for result in results):
        return Verdict(UNDECIDED, "an order needs intervals", stale)
    sides = [entry.side for entry in differences(claim, measurement, claims, measurements)]
    if all(side > 0 for side in sides):
        return _met(_of_all(compared, claim, shortfalls), stale)
    if any(side < 0 for side in sides):
        return _missed(_of_all(compared, claim, lesser), "the order is the other way round", stale)
    return Verdict(UNDECIDED, "the intervals overlap", stale)


def _of_all(
    compared: Mapping[str, tuple[Claim, Measurement]],
    claim: Claim,
    what: Callable[[Claim, Measurement], list[str]],
) -> list[str]:
    """What is smaller or missing in any of the results of an order, without saying the same thing twice."""
    own = what(*compared[claim.id])
    rest = [f"{other.label}: {text}" for other, result in compared.values() for text in what(other, result)]
    return own + [text for text in dict.fromkeys(rest) if text.rpartition(": ")[2] not in own]


def _ends(measurement: Measurement) -> tuple[float, float]:
    return measurement.interval or (measurement.value, measurement.value)


def _side(claim: Claim, ends: tuple[float, float], low: float, high: float | None = None) -> int:
    """1 where an interval lies beyond another (or a value) in the claim's direction, -1 the other way, 0 across it."""
    high = low if high is None else high
    above, below = ends[0] > high, ends[1] < low
    sign = {"higher": 1, "lower": -1}.get(claim.direction, 0)
    return sign * (int(above) - int(below))


def published_text(claim: Claim) -> str:
    """The published value with its spread, "unverified", or "in words"."""
    if claim.status == "unverified":
        return "unverified"
    if claim.value is None:
        return "in words"
    spread = f" ± {_number(claim.spread, claim.decimals)}" if claim.spread is not None else ""
    return f"{_number(claim.value, claim.decimals)}{spread}{_unit(claim)}"


def rule_text(claim: Claim) -> str:
    """The acceptance rule in words."""
    rule = claim.accept
    edge = {"at_least": -rule.tolerance, "at_most": rule.tolerance}.get(rule.kind, 0.0)
    bound = "" if claim.value is None else f"{_number(claim.value + edge, claim.decimals)}{_unit(claim)}"
    margin = f"{rule.tolerance:g}{_unit(claim)}"
    words = {
        "within": f"within {margin} of it" if rule.tolerance else "equal to it",
        "at_least": f"at least {bound}",
        "at_most": f"at most {bound}",
        "order": f"{claim.direction} than {', '.join(rule.than)}, intervals apart",
        "not_measurable": "nothing to measure",
    }[rule.kind]
    fewest = max(rule.min_n, FEWEST_FOR_AN_ORDER) if rule.kind == "order" else rule.min_n
    return f"accepted if {words}" + (f", n at least {fewest:,}" if fewest > 1 else "")


def ours_text(claim: Claim, result: Measurement | None) -> str:
    """Our value with its interval."""
    if result is None:
        return "–"
    ends = [] if result.interval is None or result.interval_kind == "exact" else result.interval
    interval = f" [{', '.join(_number(end, claim.decimals) for end in ends)}]" if ends else ""
    return f"{_number(result.value, claim.decimals)}{interval}{_unit(claim)}"


def order_text(claim: Claim, found: Sequence[Difference]) -> str:
    """What an order is judged by: ours less each of the others, with its interval."""
    unit = " points" if claim.unit == "%" else _unit(claim)
    parts = []
    for one in found:
        ends = ", ".join(_number(end, claim.decimals) for end in one.interval or ())
        itself = one.other.value == 0.0 and one.other.attempt == "none"  # the line that a difference is compared with
        of_what = "" if itself else f" against {one.other.label}"
        parts.append(f"{_number(one.value, claim.decimals)}{f' [{ends}]' if ends else ''}{unit}{of_what}")
    return "; ".join(parts) or "–"


def count_text(result: Measurement | None) -> str:
    """n and what it counts."""
    if result is None:
        return ""
    alone = ", no interval" if result.n == 1 and result.interval is None and result.interval_kind != "exact" else ""
    return f"n = {result.n:,} {result.counts}{alone}"


def cost_text(result: Measurement | None) -> str:
    """Wall time and device."""
    return "–" if result is None else f"{_duration(result.seconds)}, {result.device}"


def run_text(result: Measurement | None) -> str:
    """Date, commit, basis and weights."""
    if result is None:
        return ""
    commit = (result.commit or "no commit")[:7] + (" with changes" if result.dirty else "")
    weights = f"weights {result.weights}" if result.weights else ""
    return ", ".join(part for part in (result.recorded[:10], commit, result.basis.replace("_", " "), weights) if part)


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "−")


def _unit(claim: Claim) -> str:
    return f" {claim.unit}" if claim.unit else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
