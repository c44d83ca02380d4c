"""The studies on relaxation: files go round, ratios count what they say, a kill loses one run at most."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.errors import DataNotFound, InvalidInput
from molkit.experiments.show import show
from molkit.farm.engines import engine
from molkit.molecule import Molecule
from molkit.relaxation.comparison import Outcome
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.farm import PERFECT, Failed, Job, run_jobs
from molkit.relaxation.starts import Starts, classical_starts, edm_name, with_diffusion, with_xtb
from molkit.studies import relaxation_boltzmann as boltzmann
from molkit.studies import relaxation_phases as phases
from molkit.studies import relaxation_starts as study
from molkit.studies.relaxation import versus_force_field as page

METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.97, 0], [0.44, 1.07, 0.89], [0.44, 1.07, -0.89], [0.86, -1.06, 0]],
    name="methanol",
)


def outcome(name: str, start: str, excess: float, gradients: int, **more) -> Outcome:
    return Outcome(name, start, "internal", excess, -10.0, gradients, True, 0.1, **more)


def comparison(outcomes, failures=()) -> study.Comparison:
    names = tuple(dict.fromkeys(one.molecule for one in outcomes))
    return study.Comparison(
        "xtb", "GFN2-xTB", "edm_qm9", 0, names, ("H2O",) * len(names), (3,) * len(names), tuple(outcomes),
        tuple(failures), {"mmff94": 0.1}, {"commit": None},
    )  # fmt: skip


def test_ratios_leave_out_pairs_that_end_in_different_minima():
    rows = [outcome(name, "mmff94", 2.0, 20) for name in "abc"]
    rows += [outcome(name, "gfn1", 0.5, 10) for name in "ab"]
    rows += [outcome("c", "gfn1", 50.0, 1, rmsd_to_reference=1.0)]
    row = study.start_row(comparison(rows, [Failed("d", "gfn1", "internal", "why")]), "gfn1", "internal")
    assert row.ratio.value == pytest.approx(4.0) and row.step_ratio.value == pytest.approx(2.0)
    assert (row.num, row.num_other_minimum, row.num_failed) == (3, 1, 1)
    assert row.excess.value == pytest.approx(0.5)


def test_a_comparison_goes_to_a_file_and_back(tmp_path):
    found = comparison([outcome("a", "mmff94", 2.0, 20)], [Failed("a", "uff", "internal", "no parameters")])
    study.write_comparison(found, tmp_path / "c.json")
    assert study.read_comparison(tmp_path / "c.json") == found
    with pytest.raises(DataNotFound, match="relaxation-starts"):
        study.read_comparison(tmp_path / "other.json")


def test_a_task_of_the_page_on_force_fields_gives_a_row_for_every_start_and_optimiser(monkeypatch, tmp_path):
    """Methanol, by a model that was never trained: its starts are far above, a perfect model is not."""
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda: {"methanol": METHANOL})
    (task,) = page.tasks(molecules=1, weights=str(tmp_path / "toy"))
    rows = pd.DataFrame([{"molecule": task.molecule, "weights": "toy", "seed": 0, **row} for row in page.measure(task)])
    assert list(zip(rows["start"], rows["optimiser"], strict=True)) == list(dict.fromkeys(page.runs()))
    assert (rows["failure"] == "").all() and rows["converged"].all() and set(rows["formula"]) == {METHANOL.formula}
    inner = rows[rows["optimiser"] == "internal"].set_index("start")
    assert inner.loc["mmff94", "rmsd_to_reference"] == 0.0 and inner.loc[PERFECT, "excess"] < 0.5
    assert inner.loc["gfn1", "preparation"] > inner.loc["mmff94", "preparation"] > 0.0
    found = page.comparison(rows)
    assert found.of("mmff94", "internal")["methanol"].num_gradients == inner.loc["mmff94", "num_gradients"]
    assert (found.molecules, found.num_atoms, found.preparation["mmff94"]) == (
        ("methanol",), (6,), inner.loc["mmff94", "preparation"],
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="1 to 1 molecules, got 2"):
        page.tasks(molecules=2)


def page_rows(**excesses) -> pd.DataFrame:
    """Runs of molecules a, b, c from each start by both optimisers, twice as many gradients as kcal/mol."""
    lines = []
    for start, values in excesses.items():
        for optimiser in ("internal", "cartesian"):
            for name, excess in zip("abc", values, strict=True):
                failed = excess is None
                numbers = {"excess": excess, "energy": -1.0, "num_gradients": None if failed else 2 * excess}
                about = {
                    "converged": not failed,
                    "failure": "lost" if failed else "",
                    "formula": "CH4O",
                    "num_atoms": 6,
                }
                rest = {"seconds": 0.5, "preparation": 0.25, "rmsd_to_reference": 0.0, "largest_turn": 0.0}
                task = {"molecule": name, "weights": "edm_qm9", "seed": 0}
                lines.append({**task, "start": start, "optimiser": optimiser, **numbers, **rest, **about})
    return pd.DataFrame(lines)


def test_known_rows_of_the_page_on_force_fields_give_known_cells():
    rows = page_rows(mmff94=[4.0, 4.0, 4.0], gfn1=[1.0, 1.0, None])
    table = show(page.table(page.comparison(rows), "internal"), page.COLUMNS, "")
    four = "4.00\n[4.00, 4.00]"
    assert table.cells[0] == (
        "MMFF94", four, four, "–", "8.0\n[8.0, 8.0]", "–", "0", "0", "0", "3", "0.25", "0.50",
    )  # fmt: skip
    assert table.cells[1][3:10] == ("4.00\n[4.00, 4.00]", "2.0\n[2.0, 2.0]", "4.00\n[4.00, 4.00]", "0", "1", "0", "2")


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


def test_finished_runs_are_read_and_failures_are_kept(tmp_path):
    starts = replace(classical_starts(METHANOL), failures={"gone": "never made"})
    runs = (("mmff94", "internal"), ("etkdg", "internal"), (PERFECT, "internal"), ("gone", "internal"))
    job = Job(starts, runs)
    first = run_jobs([job], folder=tmp_path)
    assert len(list(tmp_path.glob("results/*.npz"))) == 3 and len(list(tmp_path.glob("failures/*.json"))) == 1
    assert first[3] == Failed("methanol", "gone", "internal", "never made")
    assert first[2].excess < 0.5 < first[1].excess and first[1].rmsd_to_reference < 0.2
    assert run_jobs([job], folder=tmp_path, minutes=0.0) == first
    assert run_jobs([job], minutes=0.0) == []
    with pytest.raises(InvalidInput, match="methanol_mmff94_internal was another one"):
        run_jobs([replace(job, seed=1)], folder=tmp_path)


def test_two_processes_give_the_same_outcomes_and_share_the_files(tmp_path):
    runs = (("mmff94", "internal"), ("uff", "internal"))
    starts = [classical_starts(METHANOL), replace(classical_starts(METHANOL), molecule=replace(METHANOL, name="other"))]

    def bare(found):
        return [replace(one, seconds=0.0) for one in found]

    jobs = [Job(one, runs) for one in starts]
    here = run_jobs(jobs)
    with engine(2) as executor:
        assert bare(run_jobs(jobs, folder=tmp_path, executor=executor)) == bare(here)
    assert bare(run_jobs(jobs, folder=tmp_path, minutes=0.0)) == bare(here)


def test_every_outcome_has_a_nonnegative_excess():
    found = run_jobs([Job(classical_starts(METHANOL), tuple((n, "cartesian") for n in ("mmff94", "uff", "etkdg")))])
    assert all(one.converged and one.excess >= 0.0 and one.largest_turn < 30.0 for one in found)


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
