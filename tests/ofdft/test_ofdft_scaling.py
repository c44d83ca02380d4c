"""The measurement of cost: fits, ratios, the farm of fresh processes, and PySCF with kept basis values."""

import numpy as np
import pytest
from pyscf import dft

from molkit.chem.chains import alkane
from molkit.errors import DataNotFound, InvalidInput
from molkit.ofdft.basis import orbital_mole
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.studies import ofdft_scaling as study


def cost(method, size, cpu, **changed):
    values = {"family": "alkane", "num_electrons": 8 * size + 2, "num_atoms": 3 * size + 2, "num_functions": 1}
    values |= {"wall": cpu, "steps": 1000, "memory": 1.0, "finite": True} | changed
    return study.Cost(method=method, size=size, cpu=cpu, **values)


def exact(method, exponent, factor, sizes):
    return [cost(method, n, [0.0, 0.0, factor * (8 * n + 2) ** exponent]) for n in sizes]


@pytest.fixture
def found():
    costs = exact("orbital-free", 1.5, 1e-3, (3, 30, 60, 100)) + exact("Kohn-Sham", 2.5, 1e-4, (3, 6, 12))
    return study.ScalingStudy(tuple(costs), 10, 1, {})


def test_exponents_of_power_laws_are_found(found):
    ours, theirs = (study.law_of(found.of(method)) for method in study.METHODS)
    assert ours.exponent == pytest.approx(1.5) and theirs.exponent == pytest.approx(2.5)
    assert ours.interval.low == pytest.approx(1.5) and ours.interval.high == pytest.approx(1.5)
    ratio = study.extrapolated_ratio(found, 2700.0)
    assert ratio.value == pytest.approx(0.1 * 2700.0) and ratio.low == pytest.approx(ratio.high)
    assert np.allclose(ours.band(100.0)[:, 0], ours.seconds(100.0))


def test_the_last_decade_leaves_the_small_ones_out(found):
    assert [entry.size for entry in study.last_decade(found.of("orbital-free"))] == [30, 60, 100]


def test_noise_widens_the_band():
    random = np.random.default_rng(0)
    electrons = np.geomspace(26, 2506, 8)
    law = study.power_law(electrons, electrons**1.4 * np.exp(0.2 * random.standard_normal(8)))
    assert law.interval.low < 1.4 < law.interval.high and law.interval.high - law.interval.low > 0.02
    with pytest.raises(InvalidInput, match="three molecules"):
        study.power_law([1.0, 2.0], [1.0, 2.0])


def test_a_thousand_steps_are_charged_for_however_few_were_measured():
    few = cost("orbital-free", 3, [1.0, 2.0, 4.0], steps=200)
    assert few.stages == [1.0, 2.0, 20.0] and few.total == 23.0
    assert cost("Kohn-Sham", 3, [1.0, 2.0, 4.0], steps=7).total == 7.0


def test_ratios_are_those_of_the_same_molecule(found):
    assert [(a.size, b.size) for a, b in found.ratios()] == [(3, 3)]


def test_tasks_are_sorted_and_bounded():
    tasks = study.tasks_of(study.METHODS, ("alkane",), 60, steps=5)
    assert [(t.method, t.size) for t in tasks.values()] == [
        ("orbital-free", 3),
        ("Kohn-Sham", 3),
        ("orbital-free", 6),
        ("Kohn-Sham", 6),
    ]
    for wrong in ((("orbitals",), ("alkane",)), (study.METHODS, ("ring",))):
        with pytest.raises(InvalidInput):
            study.tasks_of(*wrong, 60)


def test_a_study_is_measured_continued_written_and_read(tmp_path):
    tasks = study.tasks_of(("orbital-free",), ("alkane",), 30, steps=3)
    found = study.run_study(tasks, tmp_path / "keep")
    (one,) = found.costs
    assert (one.num_electrons, one.steps, one.finite) == (26, 3, True) and min(one.cpu) > 0.0 and one.memory > 0.01
    again = study.run_study(tasks, tmp_path / "keep")
    assert again.costs == found.costs
    study.write_study(found, tmp_path / "a.json")
    assert study.stored_study(tmp_path / "a.json").costs == found.costs
    with pytest.raises(DataNotFound, match="ofdft-scaling"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a study of cost"):
        study.stored_study(tmp_path / "b.json")
    with pytest.raises(InvalidInput, match="no molecule"):
        study.run_study({}, tmp_path / "keep")


def test_kept_basis_values_change_no_energy():
    molecule, stages = alkane(1), []
    found = tuned_energy(molecule, grid_level=0, note=stages.append)
    plain = dft.RKS(orbital_mole(molecule), xc="pbe,pbe").density_fit(auxbasis="def2-universal-jfit")
    plain.grids.level, plain.grids.prune, plain.conv_tol = 0, dft.gen_grid.nwchem_prune, 1e-6
    assert found.kept and abs(found.energy - plain.kernel()) < 1e-8
    assert stages == list(study.STAGES)
