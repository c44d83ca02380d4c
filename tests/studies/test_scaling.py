"""The page on cost: fits, ratios, the process of its own, and rows as cells and points."""

import numpy as np
import pandas as pd
import pytest

from molkit.errors import InvalidInput
from molkit.studies.ofdft import scaling as page


def row(method, family, size, total, **changed):
    """A molecule whose counted seconds are 10 % set-up, 5 % guess; a descent was measured for 200 of 1,000 steps."""
    taken = 200 if method == page.ORBITAL_FREE else 12
    measured = 0.85 * total * (0.2 if method == page.ORBITAL_FREE else 1.0)
    found = {"method": method, "family": family, "size": size, "num_electrons": page.ELECTRONS[family](size)}
    found |= {"num_atoms": 3 * size + 2, "num_functions": 100 * size, "set_up": 0.1 * total, "guess": 0.05 * total}
    return found | {"optimisation": measured, "wall": 7.0, "taken": taken, "memory": size / 8.0, **changed}


def frame(*more):
    rows = [row(page.ORBITAL_FREE, "alkane", n, 1e-3 * (8 * n + 2) ** 1.5) for n in (3, 30, 60, 100)]
    rows += [row(page.KOHN_SHAM, "alkane", n, 1e-4 * (8 * n + 2) ** 2.5) for n in (3, 6, 12)]
    rows += [row(page.ORBITAL_FREE, "peptide", n, 0.1 * n) for n in (1, 4)]
    return pd.DataFrame([*more, *rows])


def test_tasks_are_sorted_and_bounded_and_wrong_names_refused():
    tasks = page.tasks(families=("alkane",), largest=60, steps=5)
    pairs = [(task.method, task.size) for task in tasks]
    assert pairs == [(page.ORBITAL_FREE, 3), (page.KOHN_SHAM, 3), (page.ORBITAL_FREE, 6), (page.KOHN_SHAM, 6)]
    assert [bool(task.files) for task in tasks] == [True, False, True, False]
    for wrong, words in (({"methods": ["orbitals"]}, "methods"), ({"families": ["ring"]}, "families")):
        with pytest.raises(InvalidInput, match=words):
            page.tasks(**wrong)
    with pytest.raises(InvalidInput, match="no molecule"):
        page.tasks(largest=20)


def test_a_molecule_is_measured_in_a_process_of_its_own():
    (task,) = page.tasks(methods=(page.ORBITAL_FREE,), families=("alkane",), largest=30, steps=3)
    (found,) = page.measure(task)
    assert (found["num_electrons"], found["num_atoms"], found["taken"], found["finite"]) == (26, 11, 3, True)
    seconds = [found[stage] for stage in page.STAGES]
    assert min(seconds) > 0.0 and found["memory"] > 0.01
    assert found["log_seconds"] == pytest.approx(np.log10(sum(seconds)))


def test_a_thousand_steps_are_charged_for_however_few_were_measured():
    few, cycles = page.charged(frame()).iloc[[0, 4]].to_dict("records")
    assert few["total"] == pytest.approx(1e-3 * 26**1.5) and few["optimisation"] == pytest.approx(0.85 * few["total"])
    assert few["step"] == pytest.approx(few["optimisation"])  # milliseconds of one of a thousand steps
    assert cycles["total"] == pytest.approx(1e-4 * 26**2.5)
    assert cycles["step"] == pytest.approx(1000 * cycles["optimisation"] / 12)


def test_exponents_and_the_extended_ratio_are_those_of_the_laws():
    ours, theirs = (page.law_of(page.chosen(frame(), method)) for method in page.METHODS)
    assert ours.exponent == pytest.approx(1.5) and theirs.exponent == pytest.approx(2.5)
    assert ours.interval.low == pytest.approx(1.5) and ours.interval.high == pytest.approx(1.5)
    assert np.allclose(ours.band(100.0)[:, 0], ours.seconds(100.0))
    ratio = page.extrapolated_ratio(frame())
    assert ratio.value == pytest.approx(0.1 * 2700.0) and ratio.low == pytest.approx(ratio.high)
    assert page.extrapolated_ratio(frame().head(5)) is None
    with pytest.raises(InvalidInput, match="three molecules"):
        page.law_of(page.chosen(frame(), page.ORBITAL_FREE).head(2))


def test_noise_widens_the_band():
    random, electrons = np.random.default_rng(0), np.geomspace(26, 2506, 8)
    seconds = electrons**1.4 * np.exp(0.2 * random.standard_normal(8))
    law = page.law_of(pd.DataFrame({"num_electrons": electrons, "total": seconds}))
    assert law.interval.low < 1.4 < law.interval.high and law.interval.high - law.interval.low > 0.02


def test_the_exponent_that_is_judged_leaves_the_small_molecules_out_without_orbitals():
    """Dear calls for the small molecules: an exponent over all sizes is another one than over the last decade."""
    bent = frame(*[row(page.ORBITAL_FREE, "alkane", n, 5.0) for n in (1, 2)])
    assert page.judged(bent, page.ORBITAL_FREE)["size"].tolist() == [30, 60, 100]
    assert page.judged(bent, page.KOHN_SHAM)["size"].tolist() == [3, 6, 12]
    (totals,) = page.draw_totals(bent, caption="").axes
    first = totals.get_legend().get_texts()[0].get_text()
    assert first.startswith("orbital-free, 242 to 802 electrons: exponent 1.50") and first.endswith("published 1.46")
    assert page.law_of(page.chosen(bent, page.ORBITAL_FREE)).exponent < 1.4


def test_tables_give_stages_exponents_and_ratios_of_their_own_rows():
    lines = page.exponents(frame()).set_index("what")
    total = lines.loc["orbital-free, alkanes, total"]
    assert total["exponent"].value == pytest.approx(1.5) and total["published"] == 1.46
    assert total["late"].value == pytest.approx(1.5) and total["electrons"] == "26 to 802"
    assert lines.loc["Kohn-Sham, alkanes, set-up"]["exponent"].value == pytest.approx(2.5)
    ratios = page.ratios(frame()).set_index("kind")
    assert ratios.loc["measured"]["name"] == "C3H8"
    assert ratios.loc["measured"][page.KOHN_SHAM] == pytest.approx(1e-4 * 26**2.5)
    assert ratios.loc["measured"]["ratio"] == pytest.approx(0.1 * 26)
    assert ratios.loc["lines extended"]["ratio"].value == pytest.approx(270.0)
    assert ratios.loc["published"]["ratio"].tolist() == [25.6, 27.4]
    assert {*page.COSTS} <= {*page.charged(frame()).columns}


def test_points_of_the_figures_are_seconds_and_gibibytes_against_electrons():
    (totals,) = page.draw_totals(frame(), caption="").axes
    points = totals.get_lines()[0].get_xydata()
    assert points.tolist() == pytest.approx(np.array([[e, 1e-3 * e**1.5] for e in (26, 242, 482, 802)]))
    assert totals.get_lines()[1].get_xydata().tolist() == pytest.approx(np.array([[78, 0.1], [192, 0.4]]))
    assert len(totals.collections) == 4 and "x 270 " in totals.texts[0].get_text()
    left, right = page.draw_stages(frame(), caption="").axes
    assert [line.get_label() for line in left.get_lines()] == ["set-up", "guess", "optimisation"]
    assert left.get_lines()[2].get_ydata()[0] == pytest.approx(0.85e-3 * 26**1.5)
    assert right.get_lines()[1].get_xydata().tolist() == [[26, 0.375], [50, 0.75], [98, 1.5]]
    assert (left.get_ylabel(), right.get_ylabel()) == ("CPU seconds", "peak memory (GiB)")
