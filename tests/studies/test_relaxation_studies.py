"""The pages on relaxation: what a task measures, and known rows in exact cells, columns and plotted data."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.errors import InvalidInput
from molkit.experiments.show import show
from molkit.experiments.store import Store
from molkit.molecule import Molecule
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.starts import Starts, classical_starts, edm_name, with_diffusion, with_xtb
from molkit.studies import relaxation_boltzmann as boltzmann
from molkit.studies import relaxation_phases as phases
from molkit.studies.relaxation import comparison
from molkit.studies.relaxation import dft_warm_start as dft
from molkit.studies.relaxation import versus_force_field as page

METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.97, 0], [0.44, 1.07, 0.89], [0.44, 1.07, -0.89], [0.86, -1.06, 0]],
    name="methanol",
)


NUMBERS = {"rmsd_to_reference": 0.0, "largest_turn": 0.0, "seconds": 0.5, "preparation": 0.25}


def runs_of(optimisers=("internal", "cartesian"), **excesses) -> pd.DataFrame:
    """Runs of molecules a, b, c from each start, twice as many gradients as kcal/mol; an excess of None failed."""
    lines = []
    for start, values in excesses.items():
        for optimiser in optimisers:
            for name, excess in zip("abc", values, strict=True):
                failed = excess is None
                about = {"molecule": name, "weights": "edm_qm9", "seed": 0, "start": start, "optimiser": optimiser}
                about |= {"excess": excess, "energy": -1.0, "num_gradients": None if failed else 2 * excess}
                lines.append(about | NUMBERS | {"converged": not failed, "failure": "lost" if failed else ""})
    return pd.DataFrame(lines)


def test_known_runs_give_known_cells():
    rows = runs_of(mmff94=[4.0, 4.0, 4.0], gfn1=[1.0, 1.0, None])
    table = show(comparison.table(rows, "internal"), comparison.COLUMNS, "")
    four = "4.00\n[4.00, 4.00]"
    assert table.cells[0] == (
        "MMFF94", four, four, "–", "8.0\n[8.0, 8.0]", "–", "0", "0", "0", "3", "0.25", "0.50",
    )  # fmt: skip
    assert table.cells[1][3:10] == ("4.00\n[4.00, 4.00]", "2.0\n[2.0, 2.0]", "4.00\n[4.00, 4.00]", "0", "1", "0", "2")
    assert table.heads[3:6] == ("ratio of means", "gradients", "ratio of gradients")
    assert comparison.how_many(rows) == "3 QM9 test molecules"


def test_ratios_leave_out_pairs_that_end_in_different_minima():
    rows = runs_of(mmff94=[2.0, 2.0, 2.0], gfn1=[0.5, 0.5, 50.0])
    rows.loc[(rows["molecule"] == "c") & (rows["start"] == "gfn1"), "rmsd_to_reference"] = 1.0
    row = comparison.start_row(rows, "gfn1", "internal")
    assert row["ratio"].value == pytest.approx(4.0) and row["step_ratio"].value == pytest.approx(4.0)
    assert (row["num"], row["num_other_minimum"], row["excess"].value) == (3, 1, 0.5)
    rows.loc[(rows["molecule"] == "b") & (rows["start"] == "gfn1"), "energy"] = -1.6
    assert comparison.start_row(rows, "gfn1", "internal")["ratio"] is None


def test_the_figures_draw_what_the_rows_say():
    rows = runs_of(mmff94=[4.0, 6.0, 8.0], gfn1=[1.0, 2.0, 3.0])
    rows.loc[(rows["molecule"] == "c") & (rows["start"] == "gfn1"), "rmsd_to_reference"] = 1.0
    (axes,) = comparison.excess_figure(rows, "GFN2-xTB").axes
    points = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "."]
    assert points == [[4.0, 6.0, 8.0], [1.0, 2.0, 3.0]] and axes.get_ylabel() == "energy excess (kcal/mol)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["MMFF94", "GFN1-xTB"]
    left, right = comparison.gradients_figure(rows, "GFN2-xTB", "gfn1").axes
    assert (left.get_title(), right.get_title()) == ("Cartesian BFGS", "internal coordinates")
    same, other, _ = left.lines
    assert (same.get_xdata().tolist(), same.get_ydata().tolist()) == ([8.0, 12.0], [2.0, 4.0])
    assert (other.get_xdata().tolist(), other.get_markerfacecolor()) == ([16.0], "none")
    assert "from GFN1-xTB" in left.get_ylabel() and "MMFF94" in left.get_xlabel()


def test_the_ledger_gets_each_ratio_from_its_own_start_optimiser_and_column(monkeypatch):
    kept = {}
    monkeypatch.setattr(
        comparison, "record", lambda claim, value, rows, **about: kept.update({claim: (value.value, about)})
    )
    inner = runs_of(("internal",), mmff94=[8.0, 8.0, 8.0], **{"edm 0.029 sample": [1.0, 1.0, 2.0]})
    outer = runs_of(("cartesian",), mmff94=[6.0, 6.0, 6.0], **{"edm 0.029 sample": [2.0, 2.0, 2.0]})
    means = runs_of(("cartesian",), **{"edm 0.029 mean": [3.0, 3.0, 3.0]})
    rows = pd.concat([inner, outer, means], ignore_index=True).assign(basis="6-31g(d)")
    rows.loc[(rows["optimiser"] == "cartesian") & (rows["start"] != "mmff94"), "num_gradients"] = 1
    page.measurements(rows, 0.0285)
    dft.measurements(rows)
    assert {claim.removeprefix("relaxation."): value for claim, (value, _) in kept.items()} == {
        "energy.ratio_xtb": 3.0, "energy.ratio_xtb_mean": 2.0, "speedup.xtb_cartesian": 12.0,
        "speedup.xtb_internal": 6.0, "energy.ratio_dft": 3.0, "speedup.dft_cartesian": 12.0,
        "speedup.dft_internal": 6.0,
    }  # fmt: skip
    assert (
        kept["relaxation.energy.ratio_dft"][1]["n"] == 3 and "B3LYP" in kept["relaxation.energy.ratio_dft"][1]["notes"]
    )


def test_a_task_of_the_page_on_force_fields_gives_a_row_for_every_start_and_optimiser(monkeypatch, tmp_path):
    """Methanol, by a model that was never trained: its starts are far above, a perfect model is not."""
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda split: {"methanol": METHANOL})
    (task,) = page.tasks(molecules=1, weights=str(tmp_path / "toy"))
    rows = pd.DataFrame([{"molecule": task.molecule, **row} for row in page.measure(task)])
    assert list(zip(rows["start"], rows["optimiser"], strict=True)) == list(dict.fromkeys(page.runs()))
    assert (rows["failure"] == "").all() and rows["converged"].all() and set(rows["formula"]) == {METHANOL.formula}
    assert (rows["excess"] >= 0.0).all()
    inner = rows[rows["optimiser"] == "internal"].set_index("start")
    assert inner.loc["mmff94", "rmsd_to_reference"] == 0.0 and inner.loc[comparison.PERFECT, "excess"] < 0.5
    assert inner.loc["gfn1", "preparation"] > inner.loc["mmff94", "preparation"] > 0.0
    assert page.conformer_energies(rows)["methanol"] == pytest.approx(0.0, abs=0.01)
    with pytest.raises(InvalidInput, match="1 to 1 molecules, got 2"):
        page.tasks(molecules=2)


def test_every_way_to_use_a_model_starts_at_mmff94_and_is_measured_from_the_minimum_beside(monkeypatch, tmp_path):
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda split: {"methanol": METHANOL})
    page._known_minimum.cache_clear()
    options = {"molecules": 1, "weights": [str(tmp_path / "toy")], "levels": (0.0285, 0.0425)}
    tasks = page.tasks_recipe(**options, samplers=("ddim",), seeds=(0, 1))
    rows = pd.DataFrame([row for task in tasks for row in page.measure_recipe(task)]).assign(molecule="methanol")
    one = rows[rows["way"] == "mmff94"]["excess"]
    inner = {row["start"]: row for row in page.measure(page.tasks(molecules=1, weights=str(tmp_path / "toy"))[0])}
    assert one.iloc[0] == pytest.approx(inner["mmff94"]["excess"], abs=0.02)
    toy = rows[rows["sampler"] == "ddim"]
    assert toy["sigma"].tolist() == [0.0285, 0.0425] * 2
    assert toy["excess"].tolist()[:2] == toy["excess"].tolist()[2:], "a chain without noise has no seed"
    page._known_minimum.cache_clear()


def recipe_rows() -> pd.DataFrame:
    """MMFF94 at 4 and 8, and weights at two levels; two seeds, which differ for the model."""
    lines = []
    for seed in (0, 1):
        for molecule, reference in (("a", 4.0), ("b", 8.0)):
            told = [("mmff94", None, "", reference), ("w", 0.1, "ddim", 1.0 + seed), ("w", 0.2, "ddim", 4.0)]
            told.append(("other", 0.1, "ancestral", 0.5 if molecule == "a" else None))
            names = ("way", "sigma", "sampler", "excess")
            lines += [{"molecule": molecule, "seed": seed, **dict(zip(names, one, strict=True))} for one in told]
    return pd.DataFrame(lines)


def test_ways_are_ranked_by_their_mean_over_molecules_and_the_best_of_the_weights_is_chosen():
    table = show(page.ways(recipe_rows()), page.WAYS, "")
    first, second, third, last = table.cells
    assert first[0] == "other" and first[3].startswith("0.50") and first[-2:] == ("1", "2")
    assert second[:3] == ("w", "0.1000", "ddim") and second[3].startswith("1.50") and second[5].startswith("4.00")
    assert third[1] == "0.2000" and third[5].startswith("1.50")
    assert last[:3] == ("MMFF94", "–", "–") and last[3].startswith("6.00") and last[-2:] == ("2", "0")
    assert page.chosen(recipe_rows(), "w") == {"levels": (0.1,), "samplers": ("ddim",)}
    with pytest.raises(InvalidInput, match="no row was made by the weights 'third'"):
        page.chosen(recipe_rows(), "third")


def test_starts_share_a_conformer_and_missing_ones_have_a_reason():
    denoiser = NetworkDenoiser(build(EdmConfig(width=16, num_layers=1), seed=1))
    sulfide = Molecule([16, 1, 1], [[0, 0, 0], [0.96, 0.93, 0], [-0.96, 0.93, 0]], name="sulfide")
    found = [with_xtb(classical_starts(one), "gfn1", "GFN1-xTB") for one in (METHANOL, sulfide)]
    found = with_diffusion(found, denoiser, levels=(0.0145,), seed=0)
    assert {"etkdg", "uff", "mmff94", "mmff94s", "gfn1", edm_name(0.0145, "mean")} <= set(found[0].places)
    assert found[0].seconds["gfn1"] >= found[0].seconds["mmff94"] > 0.0
    assert "Z = 16" in found[1].failures[edm_name(0.0145, "mean")]
    lonely = with_diffusion([Starts(METHANOL, {}, {})], denoiser, levels=(0.0145,), seed=0)[0]
    assert "mmff94" in lonely.failures[edm_name(0.0145, "sample")]


def test_a_run_that_fails_says_why_and_the_others_are_made():
    starts = replace(classical_starts(METHANOL), failures={"gone": "never made"})
    runs = (("mmff94", "internal"), ("etkdg", "internal"), ("gone", "internal"), (comparison.PERFECT, "cartesian"))
    rows = comparison.run_rows(starts, runs, seed=0)
    assert [row["failure"] for row in rows[:3]] == ["", "", "never made"] and rows[2]["excess"] is None
    assert "needs the end point of mmff94" in rows[3]["failure"], "no run by the other optimiser"
    assert rows[1]["excess"] > 0.5 and rows[1]["rmsd_to_reference"] < 0.2


def test_a_molecule_on_a_dft_surface_is_asked_for_by_its_heavy_atoms():
    asked = dft.tasks(heavy=(3, 4), counts=(1, 2))
    assert [task.optimiser for task in asked] == ["cartesian", "internal"] * 3
    pack, sizes = dft._test_split()
    heavy = {one.name: int(size) for one, size in zip(pack, sizes, strict=True)}
    assert [heavy[task.molecule] for task in asked] == [3, 3, 4, 4, 4, 4]
    assert {task.molecule for task in dft.tasks()} == {row["molecule"] for row in stored("dft_warm_start")}
    for options in ({"heavy": (2,), "counts": (1, 2)}, {"heavy": (2,), "counts": (10**6,)}):
        with pytest.raises(InvalidInput):
            dft.tasks(**options)


def stored(name: str) -> list[dict]:
    return [entry.task for entry in Store(name).read().entries.values()]


def test_chains_go_to_a_file_and_give_the_same_curves(tmp_path):
    folder = tmp_path / "toy"
    save(build(EdmConfig(width=16, num_layers=1, num_steps=200), seed=1), folder)
    chains = phases.run_chains(str(folder), 2, seed=0, num_atoms=5)
    phases.write_chains(chains, tmp_path / "chains.npz")
    stored = phases.stored_chains(tmp_path / "chains.npz")
    assert chains.positions.shape == (2, 201, 5, 3) and len(stored.steps) == 1 + 100 + 1
    one, other = phases.curves(chains), phases.curves(stored)
    for name in ("elements", "predicted elements", "bond orders"):
        np.testing.assert_array_equal(one.settled[name], other.settled[name])
        assert one.shares[f"atoms, {name}"][-1] == 100.0
        assert (np.diff(one.shares[f"molecules, {name}"]) >= 0).all()
    null = phases.element_null(stored, count=2, seed=0)
    assert null.molecules[-1] == 100.0


def test_only_acyclic_neutral_single_bonded_molecules_are_chosen():
    assert boltzmann.is_acyclic_single_bonded("CCC(C)OC")
    for smiles in ("C1CC1", "C=O", "C#N", "[NH3+]C", None, "c1ccccc1", "C.C"):
        assert not boltzmann.is_acyclic_single_bonded(smiles)
    assert all(boltzmann.is_acyclic_single_bonded(smiles) for _, smiles in boltzmann.choose_molecules(3))


def test_shaped_noise_makes_a_perfect_model_boltzmann():
    """500 draws: variance kT / w along every mode that is not cut off, and nothing along rigid motions."""
    import torch

    one = boltzmann.harmonic(METHANOL, "CO")
    variance = 3.8e-4
    shape = boltzmann.shaped_noise(one.modes, variance, 300.0)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [shape(torch.randn(6, 3, generator=generator, dtype=torch.float64)) for _ in range(500)]
    ).numpy()
    along = np.einsum("fax,max->fm", draws, one.modes.vectors)
    wanted = np.minimum(8.617333262e-5 * 300 / one.modes.constants, 4 * variance) / variance
    np.testing.assert_allclose(along.var(axis=0), wanted, rtol=0.35)
    assert np.square(draws).sum() == pytest.approx(np.square(along).sum(), rel=1e-9)
