"""Claims and results in words, as tables show them."""

from collections.abc import Sequence

from molkit.claims.ledger import Claim, Measurement
from molkit.claims.verdicts import FEWEST_FOR_AN_ORDER, Difference


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
