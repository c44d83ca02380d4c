"""The page from noise to molecules: scores as cells, claims, and pictures of what was drawn."""

import numpy as np
import pandas as pd
import pytest

from molkit.chem.rdkit_tools import without_fluorine
from molkit.claims.ledger import find, load_claims
from molkit.data.qm9 import load_qm9
from molkit.experiments.show import show
from molkit.metrics.distributions import bond_lengths, element_fractions
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.studies.edm import qm9_generation as page

WEIGHTS = "edm_qm9"
SHARES = {name: Interval(0.1 * k, 0.1 * k - 0.05, 0.1 * k + 0.05) for k, name in enumerate(page.CLAIMED, start=1)}
ARM = {"weights": "w", "sampler": "s", "num_calls": 9, "n": 40, "seconds": 0.05}


@pytest.fixture()
def recorded(monkeypatch):
    """What the page records, by claim."""
    found = {}
    monkeypatch.setattr(page, "record", lambda claim, value, rows, **about: found.update({claim: (value, about)}))
    return found


def test_a_set_is_scored_whole_or_spread_evenly():
    (row,) = page.measure(page.Task("QM9 test", 300))
    molecules = load_qm9(split="test", limit=300)
    expected = proportion_interval(int(stability(molecules).molecule_stable.sum()), 300)
    assert row["n"] == 300 and row["molecules"] == [expected.value, expected.low, expected.high]
    assert row["novel"][0] > 0.98 and len(page.published_set("G-SchNet", 100)) == 100
    few, whole = page.published_set("G-SchNet", 100), page.published_set("G-SchNet", None)
    assert len(whole) == 10_000 and abs(few.num_atoms.mean() - whole.num_atoms.mean()) < 1.5
    assert len({one.positions.tobytes() for one in few}) == 100, "no molecule comes twice"


def test_of_molecules_that_come_twice_all_are_valid_and_half_are_unique(monkeypatch):
    twice = page.published_set("QM9 test", 40).select(np.repeat(np.arange(40), 2))
    monkeypatch.setattr(page, "published_set", lambda *_: twice)
    (row,) = page.measure(page.Task("QM9 test", 0))
    valid, unique, of_all = (row[name][0] for name in ("valid", "valid_unique", "novel_of_all"))
    assert valid > 0.9 and unique == valid / 2 and of_all == pytest.approx(unique * row["novel"][0])


def test_what_is_printed_stands_above_what_is_scored_and_what_is_drawn():
    scored = page.scores(pd.DataFrame([{"data": "QM9", "n": 7} | {name: [0.5, 0.4, 0.6] for name in page.CLAIMED}]))
    found = page.side_by_side(scored, pd.DataFrame([ARM | SHARES]))
    table = show(found, page.TABLE, "")
    cells = {line[0]: dict(zip(table.heads, line, strict=True)) for line in table.cells}
    assert list(cells) == [
        "EDM, printed", "QM9, printed", "G-SchNet, printed", "QM9, scored here", "w, s, 9 calls"
    ]  # fmt: skip
    printed, ours = cells["EDM, printed"], cells["w, s, 9 calls"]
    assert (printed["stable molecules, %"], printed["stable atoms, %"]) == ("82.0", "98.70")
    assert (printed["valid, %"], printed["valid and unique, %"]) == ("91.9", "90.7")
    assert ours["stable atoms, %"].startswith("10.00") and ours["stable molecules, %"].startswith("20.0\n[15.0, 25.0]")
    assert ours["valid, %"].startswith("30.0") and ours["valid and unique, %"].startswith("40.0")
    assert ours["novel of these, %"].startswith("50.0") and ours["CPU s a molecule"] == "0.050"
    assert cells["QM9, scored here"]["valid, %"] == "50.0\n[40.0, 60.0]"


def test_each_share_is_recorded_for_the_claim_about_it_in_per_cent(recorded):
    page.record_shares("edm.qm9.edm", ARM | SHARES, None, basis="trained_here", weights=WEIGHTS)
    values = {claim.rpartition(".")[2]: round(value.value, 6) for claim, (value, _) in recorded.items()}
    assert values == {
        "atom_stable": 10, "molecule_stable": 20, "valid": 30, "valid_unique": 40, "novel": 50, "valid_unique_novel": 60
    }  # fmt: skip
    kinds = {claim.rpartition(".")[2]: about["interval_kind"] for claim, (_, about) in recorded.items()}
    assert "bootstrap" in kinds["atom_stable"] and "Wilson" in kinds["molecule_stable"]
    assert all(about["n"] == 40 and about["training_passes"] == 2_489_945 for _, about in recorded.values())


def test_sets_without_a_claim_about_novelty_record_none(recorded):
    page.record_shares("edm.qm9.gschnet", ARM | SHARES, None, basis="published_samples")
    assert {claim.rpartition(".")[2] for claim in recorded} == {
        "atom_stable", "molecule_stable", "valid", "valid_unique"
    }  # fmt: skip


def test_the_ratio_to_the_published_share_of_e_nf(recorded):
    page.record_ratio(ARM | SHARES, None, weights=WEIGHTS)
    value, _ = recorded["edm.words.ratio_to_enf"]
    assert value.value == pytest.approx(20.0 / find(load_claims(study="edm"), "edm.qm9.enf.molecule_stable").value)


def test_bars_are_judged_by_the_lower_limit_and_by_the_papers_chain():
    best = ARM | {"molecules": Interval(0.9, 0.84, 0.93), "atoms": Interval(0.99, 0, 1), "seconds": 0.2}
    best |= {"valid_unique": Interval(0.92, 0, 1)}
    found = page.aims(best, {"molecules": Interval(0.71, 0.5, 0.8)})
    assert found["verdict"].tolist() == ["not met", "met", "met", "met", "not met"]
    assert found["measured"].tolist() == ["84.0 %", "99.0 %", "92.0 %", "71.0 %", "200 s"]


def test_counts_of_the_papers_model(recorded):
    rows = pd.DataFrame(page.measure_model(page.ModelTask()))
    page.record_model(rows)
    assert {claim: value for claim, (value, _) in recorded.items()} == {
        "edm.model.num_parameters": 5_339_920,
        "edm.cost.network_calls": 1001,
    }


@pytest.mark.parametrize(
    ("smiles", "analogue"), [("FC(F)(F)C", "CC"), ("c1cc(cnc1)F", "c1ccncc1"), ("FC=O", "C=O"), ("CCO", "CCO")]
)
def test_fluorine_becomes_hydrogen(smiles, analogue):
    assert without_fluorine(smiles) == analogue


def test_hydrogen_analogues_of_the_fluorine_molecules_explain_the_papers_row_of_qm9():
    """Paper: 95.2 % of molecules, 97.7 % valid. The interval is that of 179 analogues."""
    rows = pd.DataFrame(page.measure_fluorine(page.FluorineTask(5000)))
    _, packed, alone, whole = page.fluorine_table(rows).to_dict("records")
    assert (whole["n"], alone["n"]) == (208, 179)
    assert 100 * packed["molecules"] == pytest.approx(95.73, abs=0.05)
    assert alone["molecules"].high < 0.7
    assert whole["molecules"].low < 0.9525 and whole["molecules"].high > 0.9515
    assert 100 * whole["valid"] == pytest.approx(97.7, abs=0.4)
    assert 0.990 < whole["atoms"] < packed["atoms"]


def test_noised_copies_start_at_the_molecule_and_spread():
    copies = page.noised_copies(WEIGHTS, row=9000, steps=[0, 900], seed=0)
    start = load_qm9(split="test")[9000].centred()
    assert np.abs(copies[0].positions - start.positions).max() < 0.03
    assert np.abs(copies[1].positions - start.positions).max() > 0.5


def test_published_weights_turn_with_the_molecule():
    assert page.equivariance_error(WEIGHTS) < 1e-9


def drawn() -> pd.DataFrame:
    """Rows of 40 molecules of 5 atoms, 10 of them stable, and one of 6."""
    return pd.DataFrame({"num_atoms": [5] * 40 + [6], "stable": [True] * 10 + [False] * 31})


def test_the_curve_over_sizes_counts_every_molecule_of_the_kept_sizes():
    data = load_qm9(split="test", limit=400)
    (axis,) = page.draw_by_size(drawn(), data).axes
    first, ours = axis.containers
    assert ours.lines[0].get_xydata().tolist() == [[5.0, 25.0]]
    share = proportion_interval(10, 40)
    assert ours.lines[2][0].get_segments()[0][:, 1] == pytest.approx([100 * share.low, 100 * share.high])
    sizes, counts = np.unique(data.num_atoms, return_counts=True)
    assert first.lines[0].get_xdata().tolist() == sizes[counts >= 20].tolist()
    assert "number of atoms" in axis.get_xlabel() and "%" in axis.get_ylabel()


def test_bars_of_the_composition_are_shares_of_atoms():
    data = load_qm9(split="test", limit=200)
    methane = data.select(np.arange(1))
    (axis,) = page.draw_composition(methane, data).axes
    theirs, ours = axis.containers
    labels = [text.get_text() for text in axis.get_xticklabels()]
    expected = [100 * element_fractions(data).get(symbol, 0.0) for symbol in labels]
    assert [bar.get_height() for bar in theirs] == pytest.approx(expected)
    assert sum(bar.get_height() for bar in ours) == pytest.approx(100.0)
    assert theirs.get_label() == "QM9" and "trained here" in ours.get_label()


def test_bond_lengths_stand_above_angles_and_the_data_is_the_filled_one():
    data, samples = load_qm9(split="test", limit=300), load_qm9(split="valid", limit=300)
    axes = page.draw_geometry(samples, data).axes
    assert [axis.get_title() for axis in axes[:4]] == list(bond_lengths(data))[:4]
    assert ["Å" in axis.get_xlabel() for axis in axes] == [True] * 4 + [False] * 4
    assert axes[3].get_legend().get_texts()[0].get_text() == "QM9 test"


def test_distances_are_those_of_the_commonest_kinds_with_their_units():
    data, samples = load_qm9(split="test", limit=300), load_qm9(split="valid", limit=300)
    table = page.distances(samples, data, count=3)
    assert table["unit"].tolist() == ["total variation", "total variation", "angstrom", "angstrom", "angstrom"]
    assert table["quantity"].tolist()[:3] == ["elements", "number of atoms", "bond length"]
    assert (table["distance"][2:] < 0.01).all() and table["distance"].min() > 0


def test_the_learning_curve_is_in_millions_of_passes():
    (axis,) = page.draw_learning(WEIGHTS).axes
    passes = axis.get_lines()[0].get_xdata()
    assert passes[-1] == pytest.approx(2.49, abs=0.02) and "million" in axis.get_xlabel()
    means = axis.get_lines()[1].get_xdata()
    assert len(means) < len(passes) / 4 and passes[0] <= means[0] < means[-1] <= passes[-1]


def test_a_film_ends_in_its_molecule(monkeypatch):
    shown = {}
    monkeypatch.setattr(
        page, "show_trajectory", lambda frames, numbers, **about: shown.update(frames=frames, z=numbers)
    )
    page.film(WEIGHTS, num_atoms=9, num_calls=6, num_frames=4, seed=0)
    assert len(shown["frames"]) == 6 and all(frame.shape == (9, 3) for frame in shown["frames"])
    spread = [np.abs(frame).max() for frame in shown["frames"]]
    assert len(shown["z"]) == 9 and spread[-1] > 0.5


def test_the_headline_draws_the_print_the_data_the_paper_s_model_and_the_extension_under_their_names():
    low, high = ({name: [a, a - 0.05, a + 0.02] for name in page.CLAIMED} for a in (0.5, 0.9))
    sets = [{"data": data, "n": 7} | (high if data == "QM9 test" else low) for data in ("QM9", "QM9 test", "G-SchNet")]
    arms = [pd.DataFrame([ARM | SHARES | {"molecules": Interval(a, a - 0.1, a + 0.2)}]) for a in (0.6, 0.7)]
    (axis,) = page.draw_beside(page.scores(pd.DataFrame(sets)), *arms, caption="").axes
    bars = {one.get_label(): [bar.get_height() for bar in one] for one in axis.containers if hasattr(one, "patches")}
    assert (
        list(bars) == list(page.BESIDE)
        and [mark.get_text() for mark in axis.get_xticklabels()][1] == "stable molecules"
    )
    assert bars["EDM, as printed"] == pytest.approx([98.7, 82.0, 91.9, 90.7])
    assert [heights[1] for heights in bars.values()] == pytest.approx([82.0, 90.0, 60.0, 70.0])
    whiskers = [one.lines[2][0].get_segments() for one in axis.containers if hasattr(one, "has_yerr")]
    assert whiskers[2][1][:, 1].tolist() == pytest.approx([50.0, 80.0])
    assert not [one for one in whiskers[0] if np.isfinite(one).all() and len(one)], "a printed share has no interval"
