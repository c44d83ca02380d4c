"""The pages on classical functionals and on labels: known rows as cells and points, and small calculations."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.labels import Labels
from molkit.studies.ofdft import classical, labels
from molkit.studies.ofdft import kinetic_functionals as page


@dataclass
class Optimised:
    """What is read of a minimisation."""

    energy: float
    num_steps: int
    converged: bool = True


def test_errors_of_functionals_on_h2_are_exact_for_vw_and_per_cent():
    (task,) = page.tasks(molecules=["H2"], grid_level=0)
    found = {row["functional"]: row for row in page.measure(task)}
    assert abs(found["vW"]["error"]) < 0.2 and found["TF"]["error"] < -5.0
    assert found["TF+vW"]["error"] == pytest.approx(100.0 + found["TF"]["error"] + found["vW"]["error"], abs=1e-6)
    assert found["vW"]["kinetic"] == pytest.approx(1.14, abs=0.05)
    for wrong in ([], ["H2", "LiH"]):
        with pytest.raises(InvalidInput, match="H2, HF, H2O"):
            page.tasks(molecules=wrong)


def test_a_line_a_molecule_holds_the_error_under_its_functional():
    rows = [
        {"molecule": name, "functional": functional, "kinetic": kinetic, "error": error}
        for name, kinetic, errors in (("H2O", 76.0, (1.0, 2.0)), ("H2", 1.1, (3.0, 4.0)))
        for functional, error in zip(("TF", "APBE"), errors, strict=True)
    ]
    wide = page.by_functional(pd.DataFrame(rows))
    assert wide[["molecule", "kinetic", "TF", "APBE"]].to_numpy().tolist() == [
        ["H2O", 76.0, 1.0, 2.0],
        ["H2", 1.1, 3.0, 4.0],
    ]


def test_the_exact_minimum_lies_between_small_and_large_orbital_sets(monkeypatch):
    """H2 with vW: below 6-31G(2df,p), above cc-pVTZ; He's 6-31G has no polarisation to gain from."""
    monkeypatch.setattr(page, "ORBITAL_BASES", ("6-31g(2df,p)", "cc-pvtz"))
    rows = [row for task in page.tasks_bases(grid_level=1) for row in page.measure_bases(task)]
    (h2, h2_large), (he, he_large) = rows[:2], rows[2:]
    assert abs(h2["offset"] + 0.40) < 0.02 and abs(he["offset"] + 2.95) < 0.02
    assert h2_large["offset"] > 0.0 and he_large["offset"] > 0.0 and h2_large["num_functions"] == 28


def test_offsets_are_drawn_in_the_order_of_their_bases():
    rows = [{"molecule": m, "num_functions": n, "offset": v} for m, n, v in (("H2", 4, -1.0), ("H2", 28, 0.5))]
    (axes,) = page.draw_bases(
        pd.DataFrame([*rows, {"molecule": "He", "num_functions": 2, "offset": -3.0}]), caption=""
    ).axes
    first, second = axes.get_lines()[:2]
    assert first.get_xydata().tolist() == [[4, -1.0], [28, 0.5]] and second.get_xydata().tolist() == [[2, -3.0]]


def test_both_starts_go_by_both_methods_and_are_counted_from_kohn_sham(monkeypatch):
    kohn_sham = page.solved(page.SMALL["H2"], grid_level=0)[1].energy
    ends = iter([0.001, 0.002, 0.003, 0.004])
    monkeypatch.setattr(
        page, "optimise", lambda *_, options, **__: Optimised(kohn_sham + next(ends), options.max_steps)
    )
    rows = pd.DataFrame(page.measure_exact(page.tasks_exact(grid_level=0, descent_steps=7)[0]))
    assert rows[["start", "method"]].agg(" ".join, axis=1).tolist() == [
        "MINAO L-BFGS",
        "MINAO descent",
        "Kohn-Sham L-BFGS",
        "Kohn-Sham descent",
    ]
    assert rows["offset"].tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0]) and rows["num_steps"].tolist()[1::2] == [7, 7]
    assert {*page.EXACT} <= {*rows.columns, "molecule"}


def test_a_minimisation_is_counted_from_kohn_sham_and_wrong_geometries_are_refused():
    """Few steps of TF from MINAO: below the energy on the Kohn-Sham density, and electrons have moved."""
    (task,) = classical.tasks(functionals=["TF"], max_steps=8, grid_level=0)
    (row,) = classical.measure(task)
    assert row["before"] == pytest.approx(-6934.0, abs=60.0) and row["after"] < row["before"]
    assert row["moved"] > 0.5 and not row["converged"] and row["num_steps"] == 8
    with pytest.raises(InvalidInput, match="CLASS:NUMBER"):
        classical.tasks(geometries=["ethanol"])


def test_label_errors_are_small_as_used_and_larger_where_something_is_left_out():
    (task,) = labels.tasks(num_frozen=3, grid_level=0)
    rows = pd.DataFrame(labels.measure(task))
    steps, frozen = (rows[rows["kind"] == kind] for kind in ("step", "frozen"))
    assert steps["step"].tolist() == list(range(1, len(steps) + 1)) and steps["excess"].iloc[-1] == 0.0
    assert steps["used"].iloc[5] < 1e-5 < steps["projected"].iloc[5]
    assert steps["uncorrected"].iloc[5] > 10 * steps["used"].iloc[5]
    assert len(frozen) == 3 and (frozen["excess"] > 0.0).all() and (frozen["distance"] > 0.0).all()
    fit = rows[rows["kind"] == "fit"].iloc[0]
    assert fit["slope"] < 1e-5 and abs(fit["electrons"]) < 2e-3 and abs(fit["external"]) < 1e-4
    assert abs(fit["hartree"]) < 0.2


def test_checks_are_drawn_by_step_and_samples_by_distance():
    steps = [{"kind": "step", "step": k, "excess": 1.0, "used": 10.0**-k, "projected": 0.1, "uncorrected": 0.2}
             for k in (1, 2, 3)]  # fmt: skip
    rows = pd.DataFrame([*steps, {"kind": "frozen", "excess": 7.0, "distance": 0.3}])
    left, right = labels.draw_checks(rows, caption="").axes
    assert [line.get_label() for line in left.get_lines()] == [name for name, _ in labels.KINDS.values()]
    assert left.get_lines()[0].get_xydata().tolist() == [[2.0, 1e-2], [3.0, 1e-3]]
    assert right.get_lines()[0].get_xydata().tolist() == [[0.3, 7.0]]


def test_a_pack_is_summed_by_heavy_atoms(small_pack):
    found = labels.pack_summary(small_pack)
    assert found["heavy"].tolist() == [1, 2] and found["molecules"].tolist() == [2, 1]
    assert found["compositions"].tolist() == [1, 1] and found["samples"].tolist() == [5, 2]
    assert found["perturbed"].tolist() == [2, 1] and found["functions"].tolist() == [4.0, 6.0]
    assert found["highest"].tolist() == pytest.approx([3000.0, 1000.0])
    assert {*labels.PACK} == {*found.columns}


@pytest.fixture
def small_pack():
    def entry(numbers, name, energies, source, functions):
        zeros = np.zeros((len(energies), functions))
        values = {field: zeros for field in Labels.__dataclass_fields__}
        made = Labels(**(values | {"electronic": np.array(energies), "source": np.array(source)}))
        return LabelledMolecule(Molecule(np.array(numbers), np.eye(len(numbers), 3), name=name), made, zeros[0], 0.0)

    return [
        entry([8, 1, 1], "a", [0.0, 1.0], [0, 1], 4),
        entry([8, 1, 1], "b", [0.0, 1.0, 3.0], [0, 0, 1], 4),
        entry([6, 8, 1, 1], "c", [0.0, 1.0], [0, 1], 6),
    ]
