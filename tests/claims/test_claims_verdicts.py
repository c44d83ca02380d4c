"""The five verdicts follow from rule, n, basis and training, and from nothing else."""

from dataclasses import replace

import pytest

from molkit.claims.ledger import BASES, Claim, Measurement, Rule
from molkit.claims.verdicts import (
    CONSISTENT,
    DIFFERS,
    DIRECTION,
    NOT_ATTEMPTED,
    REPRODUCED,
    VERDICTS,
    judge,
    shortfalls,
)

COMMON = {
    "paper": "A paper",
    "place": "a table",
    "status": "confirmed",
    "metric": "molkit.metrics.stability.stability",
    "direction": "higher",
    "unit": "%",
    "n": 10_000,
    "counts": "molecules",
    "basis": ("trained_here", "published_weights"),
}
BASELINE = Claim(id="a.other.stable", label="other model", value=70.0, accept=Rule(kind="within"), **COMMON)
CLAIM = Claim(
    id="a.ours.stable",
    label="stable",
    value=82.0,
    accept=Rule(kind="at_least", tolerance=1.0, min_n=500, baseline="a.other.stable"),
    training_passes=1e8,
    **COMMON,
)
ORDER = Claim(
    id="a.words.better",
    label="better than the other",
    accept=Rule(kind="order", than=("a.other.stable",)),
    **COMMON,
)
CLAIMS = {claim.id: claim for claim in (BASELINE, CLAIM, ORDER)}
FULL = Measurement(
    claim_id="a.ours.stable",
    value=82.5,
    interval=(81.7, 83.2),
    interval_kind="bootstrap 95 %",
    n=10_000,
    counts="molecules",
    basis="trained_here",
    profile="paper",
    training_passes=1.1e8,
)


def word(measurement: Measurement | None, claim: Claim = CLAIM, **options) -> str:
    return judge(claim, measurement, claims=CLAIMS, **options).word


def test_the_rule_met_at_the_papers_scale_is_reproduced():
    assert word(FULL) == REPRODUCED
    assert shortfalls(CLAIM, FULL) == []


def test_the_rule_met_with_fewer_samples_is_consistent_at_reduced_scale():
    verdict = judge(CLAIM, replace(FULL, n=2_000), claims=CLAIMS)
    assert verdict.word == CONSISTENT
    assert verdict.reason == "n 2,000 of 10,000 molecules"


def test_above_the_baseline_but_short_of_the_rule_is_direction_only():
    assert word(replace(FULL, value=75.0, interval=(74.0, 76.0))) == DIRECTION


def test_an_interval_that_reaches_the_baseline_is_not_even_the_direction():
    assert word(replace(FULL, value=70.5, interval=(69.5, 71.5))) == DIFFERS


def test_below_the_baseline_differs():
    assert word(replace(FULL, value=60.0, interval=(59.0, 61.0))) == DIFFERS


def test_nothing_recorded_is_not_attempted_and_says_why():
    assert str(judge(CLAIM, None, claims=CLAIMS)) == "not attempted (no result recorded yet)"
    later = replace(CLAIM, attempt="none", why="comes later")
    assert str(judge(later, FULL, claims=CLAIMS)) == "not attempted (comes later)"


@pytest.mark.parametrize("profile", ["smoke", "by hand"])
def test_a_smoke_run_never_yields_a_verdict_whatever_it_claims(profile):
    """Adversarial: full n, full training, a value beyond the paper's."""
    verdict = judge(CLAIM, replace(FULL, profile=profile, value=99.0, interval=(98.9, 99.1), n=10**6), claims=CLAIMS)
    assert verdict.word == NOT_ATTEMPTED
    assert profile in verdict.reason


def test_the_verdict_does_not_depend_on_which_kept_profile_made_the_result():
    for changed in (FULL, replace(FULL, n=2_000), replace(FULL, value=60.0, interval=(59.0, 61.0))):
        assert word(replace(changed, profile="fast")) == word(replace(changed, profile="paper"))


@pytest.mark.parametrize("n", [500, 5_000, 9_999])
def test_an_n_below_the_papers_is_never_reproduced(n):
    assert word(replace(FULL, n=n, value=100.0, interval=(100.0, 100.0))) == CONSISTENT


def test_an_n_below_the_rules_own_minimum_gives_no_verdict():
    """One lucky sample out of one must not read as agreement."""
    assert word(replace(FULL, n=1, value=100.0, interval=(100.0, 100.0))) == NOT_ATTEMPTED


def test_a_scaled_down_basis_is_never_reproduced_and_no_claim_can_ask_for_it():
    assert word(replace(FULL, basis="scaled_down")) == CONSISTENT
    for basis in set(BASES) - set(CLAIM.basis):
        assert word(replace(FULL, basis=basis)) == CONSISTENT


def test_a_shorter_training_is_never_reproduced():
    assert word(replace(FULL, training_passes=5e7)) == CONSISTENT
    assert word(replace(FULL, training_passes=None)) == CONSISTENT
    assert word(replace(FULL, training_passes=None, basis="published_weights")) == REPRODUCED


def test_a_paper_that_hides_its_n_cannot_be_reproduced():
    assert word(FULL, replace(CLAIM, n=None)) == CONSISTENT


def test_a_result_without_interval_is_not_reproduced_unless_it_is_exact():
    assert word(replace(FULL, interval=None, interval_kind="none")) == CONSISTENT
    assert word(replace(FULL, interval=None, interval_kind="exact")) == REPRODUCED


def test_an_unverified_number_gives_no_verdict():
    claim = replace(CLAIM, value=None, status="unverified")
    assert judge(claim, FULL, claims=CLAIMS).reason == "the published number is unverified"


@pytest.mark.parametrize(
    ("value", "expected"), [(68.0, REPRODUCED), (67.9, DIFFERS), (68.2, REPRODUCED), (68.3, DIFFERS)]
)
def test_the_edge_of_a_tolerance_belongs_to_it(value, expected):
    claim = replace(CLAIM, value=68.1, accept=Rule(kind="within", tolerance=0.1))
    assert word(replace(FULL, value=value, interval=(value, value)), claim) == expected


def test_at_most_is_for_figures_that_should_be_low():
    claim = replace(CLAIM, value=-110.7, direction="lower", unit="nats", accept=Rule(kind="at_most", tolerance=3.0))
    assert word(replace(FULL, value=-120.0, interval=(-121.0, -119.0)), claim) == REPRODUCED
    assert word(replace(FULL, value=-100.0, interval=(-101.0, -99.0)), claim) == DIFFERS


def test_an_order_must_hold_beyond_the_interval():
    better = replace(FULL, claim_id="a.words.better", training_passes=None)
    assert word(better, ORDER) == REPRODUCED
    assert word(replace(better, value=70.4, interval=(69.9, 71.0)), ORDER) == DIRECTION
    assert word(replace(better, value=69.0, interval=(68.0, 71.0)), ORDER) == DIFFERS


def test_an_order_between_our_own_results_needs_both_of_them_and_the_scale_of_both():
    ours = replace(FULL, claim_id="a.words.better")
    claim = replace(ORDER, accept=replace(ORDER.accept, using="measured"))
    other = replace(FULL, claim_id="a.other.stable", value=71.0, interval=(70.0, 72.0))
    assert word(ours, claim) == NOT_ATTEMPTED
    assert word(ours, claim, measurements={"a.other.stable": replace(other, profile="smoke")}) == NOT_ATTEMPTED
    assert word(ours, claim, measurements={"a.other.stable": other}) == REPRODUCED
    assert word(ours, claim, measurements={"a.other.stable": replace(other, n=900)}) == CONSISTENT
    overlapping = replace(other, value=82.0, interval=(81.0, 83.0))
    assert word(ours, claim, measurements={"a.other.stable": overlapping}) == DIRECTION


def test_staleness_is_said_beside_the_verdict():
    verdict = judge(CLAIM, FULL, claims=CLAIMS, stale=("molkit/metrics/stability.py",))
    assert str(verdict) == "reproduced, stale"


def test_there_are_exactly_five_words():
    assert VERDICTS == ("reproduced", "consistent at reduced scale", "direction only", "differs", "not attempted")
