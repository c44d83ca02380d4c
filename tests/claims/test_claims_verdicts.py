"""The seven verdicts follow from rule, interval, n, basis and training, and from nothing else."""

from dataclasses import replace

import pytest

from molkit.claims.ledger import BASES, PUBLISHED_ENERGIES, Claim, Measurement, Rule
from molkit.claims.verdicts import (
    CONSISTENT,
    DIFFERS,
    DIRECTION,
    NOT_ATTEMPTED,
    NOT_COMPARABLE,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    differences,
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


def test_a_value_within_the_tolerance_whose_interval_leaves_the_published_one_out_is_not_consistent():
    """The exponent 1.75 [1.65, 1.86] against 2, allowed to be off by 0.3."""
    claim = replace(CLAIM, value=2.0, direction="equal", decimals=2, accept=Rule(kind="within", tolerance=0.3))
    exponent = replace(FULL, value=1.75, interval=(1.65, 1.86))
    assert word(exponent, claim) == DIFFERS
    assert word(replace(exponent, training_passes=5e6), claim) == NOT_COMPARABLE
    assert word(replace(exponent, interval=(1.65, 2.01)), claim) == REPRODUCED
    assert word(replace(exponent, interval=(1.65, 1.996)), claim) == REPRODUCED, "2.00 is printed, 1.996 rounds to it"
    assert word(replace(exponent, interval=None, interval_kind="none"), claim) == CONSISTENT


def test_an_interval_that_holds_the_published_value_around_a_value_beyond_the_tolerance_is_undecided():
    claim = replace(CLAIM, accept=replace(CLAIM.accept, baseline=None))
    assert word(replace(FULL, value=80.0, interval=(77.0, 83.0)), claim) == UNDECIDED
    assert word(replace(FULL, value=80.0, interval=(79.0, 81.0)), claim) == DIFFERS


@pytest.mark.parametrize(("kind", "beyond"), [("at_least", (90.0, 92.0)), ("at_most", (70.0, 72.0))])
def test_the_better_side_of_a_one_sided_rule_needs_not_hold_the_published_value(kind, beyond):
    claim = replace(CLAIM, accept=Rule(kind=kind))
    assert word(replace(FULL, value=sum(beyond) / 2, interval=beyond), claim) == REPRODUCED


def test_a_miss_for_want_of_training_says_how_much_was_missing():
    verdict = judge(CLAIM, replace(FULL, value=60.0, interval=(59.0, 61.0), training_passes=2.3e6), claims=CLAIMS)
    assert str(verdict) == "not comparable yet (2.3 % of the paper's training)"
    assert word(replace(FULL, value=60.0, interval=(59.0, 61.0), n=900)) == NOT_COMPARABLE


def test_an_energy_that_leans_on_published_ones_is_never_consistent():
    verdict = judge(CLAIM, replace(FULL, basis=PUBLISHED_ENERGIES), claims=CLAIMS)
    assert verdict.word == NOT_COMPARABLE and "leans on published energies" in verdict.reason


def test_an_exact_count_that_agrees_is_reproduced_whatever_the_paper_counted():
    claim = replace(CLAIM, n=None, value=138.0, basis=("exact",), accept=Rule(kind="within"), training_passes=None)
    count = replace(FULL, value=138.0, interval=None, interval_kind="exact", n=1, basis="exact")
    assert word(count, claim) == REPRODUCED
    assert word(replace(count, value=139.0), claim) == DIFFERS


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
    for basis in set(BASES) - {*CLAIM.basis, PUBLISHED_ENERGIES}:
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
    ("value", "expected"), [(68.0, REPRODUCED), (67.9, UNDECIDED), (68.2, REPRODUCED), (68.3, UNDECIDED)]
)
def test_the_edge_of_a_tolerance_belongs_to_it(value, expected):
    claim = replace(CLAIM, value=68.1, accept=Rule(kind="within", tolerance=0.1))
    assert word(replace(FULL, value=value, interval=(value - 0.3, value + 0.3)), claim) == expected


def test_at_most_is_for_figures_that_should_be_low():
    claim = replace(CLAIM, value=-110.7, direction="lower", unit="nats", accept=Rule(kind="at_most", tolerance=3.0))
    assert word(replace(FULL, value=-120.0, interval=(-121.0, -119.0)), claim) == REPRODUCED
    assert word(replace(FULL, value=-100.0, interval=(-101.0, -99.0)), claim) == DIFFERS


def test_an_order_holds_where_the_intervals_are_apart_and_is_undecided_where_they_overlap():
    better = replace(FULL, claim_id="a.words.better", training_passes=None)
    assert word(better, ORDER) == REPRODUCED
    assert word(replace(better, value=70.4, interval=(69.9, 71.0)), ORDER) == UNDECIDED
    assert word(replace(better, value=69.0, interval=(68.0, 71.0)), ORDER) == UNDECIDED
    assert word(replace(better, value=69.0, interval=(68.0, 69.9)), ORDER) == DIFFERS
    assert word(replace(better, value=69.0, interval=(68.0, 69.9), n=900), ORDER) == NOT_COMPARABLE
    assert word(replace(better, interval=None, interval_kind="none"), ORDER) == UNDECIDED


@pytest.mark.parametrize(("n", "expected"), [(7, UNDECIDED), (8, CONSISTENT)])
def test_an_order_needs_eight_items_in_every_result(n, expected):
    ours = replace(FULL, claim_id="a.words.better")
    assert word(replace(ours, n=n), ORDER) == expected
    claim = replace(ORDER, accept=replace(ORDER.accept, using="measured"))
    other = replace(FULL, claim_id="a.other.stable", value=71.0, interval=(70.0, 72.0), n=n)
    assert word(ours, claim, measurements={"a.other.stable": other}) == expected


def test_an_order_between_our_own_results_needs_both_of_them_and_the_scale_of_both():
    ours = replace(FULL, claim_id="a.words.better")
    claim = replace(ORDER, accept=replace(ORDER.accept, using="measured"))
    other = replace(FULL, claim_id="a.other.stable", value=71.0, interval=(70.0, 72.0))
    assert word(ours, claim) == NOT_ATTEMPTED
    assert word(ours, claim, measurements={"a.other.stable": replace(other, profile="smoke")}) == NOT_ATTEMPTED
    assert word(ours, claim, measurements={"a.other.stable": other}) == REPRODUCED
    verdict = judge(claim, ours, claims=CLAIMS, measurements={"a.other.stable": replace(other, n=900)})
    assert (verdict.word, verdict.reason) == (CONSISTENT, "other model: n 900 of 10,000 molecules")
    overlapping = replace(other, value=82.0, interval=(81.0, 83.0))
    assert word(ours, claim, measurements={"a.other.stable": overlapping}) == UNDECIDED


def test_the_difference_behind_an_order_has_the_interval_of_both():
    """20.1 [14.7, 25.4] less 21.6 [17.4, 25.8]; half widths 5.4 and 4.2 below, 5.3 and 4.2 above, in quadrature."""
    claim = replace(ORDER, accept=replace(ORDER.accept, using="measured"))
    ours = replace(FULL, claim_id="a.words.better", value=20.1, interval=(14.7, 25.4))
    other = replace(FULL, claim_id="a.other.stable", value=21.6, interval=(17.4, 25.8))
    [found] = differences(claim, ours, CLAIMS, {"a.other.stable": other})
    assert found.value == pytest.approx(-1.5) and found.side == 0
    assert found.interval == pytest.approx((-1.5 - 6.841, -1.5 + 6.762), abs=1e-3)
    assert word(ours, claim, measurements={"a.other.stable": other}) == UNDECIDED
    assert differences(claim, ours, CLAIMS, {}) == []


def test_staleness_is_said_beside_the_verdict():
    verdict = judge(CLAIM, FULL, claims=CLAIMS, stale=("molkit/metrics/stability.py",))
    assert str(verdict) == "reproduced, stale"


def test_there_are_exactly_seven_words():
    first = ("reproduced", "consistent at reduced scale", "direction only", "undecided", "not comparable yet")
    assert (*first, "differs", "not attempted") == VERDICTS
