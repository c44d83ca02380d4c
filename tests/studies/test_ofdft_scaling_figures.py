"""Tables and figures of cost."""

import pytest

from molkit.figures import ofdft_scaling as draw
from molkit.studies import ofdft_scaling as study


def cost(method, family, size, seconds, memory=1.0):
    electrons = 8 * size + 2 if family == "alkane" else 38 * size + 40
    cpu = [0.1 * seconds, 0.05 * seconds, 0.85 * seconds]
    return study.Cost(method, family, size, electrons, 3 * size + 2, 100 * size, cpu, cpu, 1000, memory, True)


@pytest.fixture
def found():
    costs = [cost("orbital-free", "alkane", n, 1e-2 * n**1.5) for n in (3, 10, 30, 60, 100)]
    costs += [cost("Kohn-Sham", "alkane", n, 1e-1 * n**2.5) for n in (3, 10, 12)]
    costs += [cost("orbital-free", "peptide", n, 1e-1 * n) for n in (1, 4)]
    return study.ScalingStudy(tuple(costs), 10, 1, {})


def test_tables_name_molecules_and_ratios(found):
    assert "C100H202" in draw.costs_table(found.costs).data and "Ace-Ala4-NMe" in draw.costs_table(found.costs).data
    assert "GiB" not in draw.costs_table(found.costs, memory=False).data
    ratios = draw.ratios_table(found).data
    assert "C10H22" in ratios and "lines extended" in ratios and "27.4" in ratios
    exponents = draw.exponents_table(found).data
    assert (
        "orbital-free, alkanes, total" in exponents
        and "Kohn-Sham, alkanes, set-up" in exponents
        and "1.46" in exponents
    )


def test_the_figures_have_lines_bands_and_the_extended_ratio(found):
    (totals,) = draw.totals_figure(found).axes
    left, right = draw.stages_figure(found).axes
    assert len(totals.collections) == 4 and any("if extended" in text.get_text() for text in totals.texts)
    assert len(left.lines) == 3 and len(right.lines) == 2


def test_the_legend_gives_the_exponent_that_the_ledger_judges(found):
    """Dear calls for the small molecules: an exponent over all sizes is another one than over the last decade."""
    small = [cost("orbital-free", "alkane", n, 5.0) for n in (1, 2)]
    bent = study.ScalingStudy(tuple(small) + found.costs, 10, 1, {})
    (totals,) = draw.totals_figure(bent).axes
    first = totals.get_legend().get_texts()[0].get_text()
    assert first.startswith("orbital-free, 82 to 802 electrons: exponent 1.5") and first.endswith("published 1.46")
    assert study.law_of(bent.of("orbital-free")).exponent < 1.0


def test_too_few_molecules_give_no_line(found):
    few = study.ScalingStudy(found.costs[:2], 10, 1, {})
    assert not draw.totals_figure(few).axes[0].texts and "–" in draw.ratios_table(few).data
