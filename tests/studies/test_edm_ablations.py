"""Arms put together from single trainings, and what is recorded of them."""

import pytest

from molkit.claims.ledger import load_claims
from molkit.figures import edm_ablations as draw
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.studies import edm_ablations as study
from molkit.studies.edm_suite import ArmResult

PROTOCOL = {"num_calls": 100, "sampler": "ancestral", "nll_molecules": 2000}


def training(arm, seed, *, atoms, molecules=0.2, nll=0.0, failure=""):
    shares = {
        "atom_stability": Interval(atoms, atoms - 0.01, atoms + 0.01),
        "molecule_stability": proportion_interval(round(1000 * molecules), 1000),
        "validity": proportion_interval(600, 1000),
        "valid_and_unique": proportion_interval(590, 1000),
        "nll": Interval(nll, nll - 2.0, nll + 2.0),
    }
    return ArmResult(
        suite="ablations",
        arm=arm,
        seed=seed,
        failure=failure,
        passes=200_000,
        steps=8000,
        num_parameters=150_000,
        cpu_seconds=160.0,
        wall_seconds=200.0,
        error=((100_000, 0.2), (200_000, 0.1)),
        num_samples=1000,
        num_failed=0,
        provenance=PROTOCOL,
        **(dict.fromkeys(shares) if failure else shares),
    )


def stored(monkeypatch, results):
    monkeypatch.setattr(study, "stored_results", lambda suite: results)
    return study.ablations()


@pytest.fixture
def found(monkeypatch):
    results = [training("gdm", 0, atoms=0.60, nll=30.0)]
    results += [training("gdm_aug", seed, atoms=0.65, nll=35.0) for seed in range(2)]
    results += [training("egnn", seed, atoms=0.80 + 0.01 * seed, nll=float(seed)) for seed in range(3)]
    results += [training("unscaled", 0, atoms=0.0, failure="the loss is not finite")]
    return stored(monkeypatch, results)


def test_arms_stand_in_the_order_of_the_paper_and_pool_their_trainings(found):
    assert [arm.name for arm in found.arms] == ["egnn", "gdm_aug", "gdm", "unscaled"]
    egnn = found.arm("egnn")
    assert egnn.figures["atom_stability"].value == pytest.approx(0.81) and egnn.mean("cpu_seconds") == 160.0
    assert egnn.figures["atom_stability"].high - 0.81 > 0.0248  # t alone: 4.303 * 0.01 / sqrt 3
    assert found.arm("gdm").figures["nll"] == Interval(30.0, 28.0, 32.0)


def test_a_failed_training_is_counted_and_gives_no_figure(found):
    failed = found.arms[-1]
    assert failed.num_trainings == 1 and not failed.figures and "not finite" in failed.failures[0]
    assert found.arm("unscaled") is None


def test_differences_are_taken_from_the_equivariant_arm(found):
    difference = found.differences("nll")["GDM"]
    assert difference.value == pytest.approx(29.0) and difference.low < 29.0 - 2.0


def test_what_is_recorded_has_a_claim_that_is_attempted(found):
    claims = load_claims()
    names = [*study.ROWS, *study.ORDERS]
    assert all(claims[name].attempt == "now" and not claims[name].measured_as for name in names)
    measured = {measurement.claim_id: measurement for measurement in study.record_arms(found)}
    assert measured["edm.qm9.gdm_aug.atom_stable"].n == 2000 and measured["edm.qm9.gdm.nll"].n == 2000
    assert measured["edm.qm9.gdm_aug.atom_stable"].value == pytest.approx(65.0)
    assert not any(name.startswith("edm.scaling") for name in measured)


def test_arms_that_were_trained_once_or_not_at_all_enter_no_order(found):
    """gdm was trained once here, unscaled failed."""
    assert not any(measurement.claim_id.startswith("edm.order") for measurement in study.record_arms(found))


@pytest.mark.parametrize(("share", "allowed"), [(0.05, False), (0.2, True)])
def test_orders_of_stable_molecules_wait_for_a_tenth(monkeypatch, share, allowed):
    names = ("egnn", "gdm_aug", "gdm")
    found = stored(monkeypatch, [training(n, k, atoms=0.8, molecules=share) for n in names for k in range(2)])
    recorded = [measurement.claim_id for measurement in study.record_arms(found)]
    assert ("edm.order.symmetry.molecule_stable" in recorded) is allowed
    assert "edm.order.symmetry.atom_stable" in recorded and "edm.order.scaling.atom_stable" not in recorded


def test_the_tables_show_published_rows_failures_and_costs(found):
    html = draw.arms_table(found, []).data
    for text in ("GDM-aug, published", "1 (1 failed)", "200 k", "160 s", "97.6"):
        assert text in html
    assert "not shown" in draw.differences_table(found).data or "lower" in draw.differences_table(found).data
    assert len(draw.arms(found).axes) == 2 and len(draw.curves(found).axes) == 1
