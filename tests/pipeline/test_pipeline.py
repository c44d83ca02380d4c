import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from molkit.chem.dft import DftLevel, single_point
from molkit.cli import run as command
from molkit.cli.pipeline import numbers_of_atoms
from molkit.errors import DataNotFound, InvalidInput
from molkit.experiments.show import show
from molkit.molecule import Molecule
from molkit.pipeline import run
from molkit.pipeline.journey import (
    CONFORMERS,
    DRAWN,
    KOHN_SHAM,
    LOWEST,
    MINIMA,
    ORBITAL_FREE,
    PRE_RELAXED,
    STAGES,
    Journey,
    PipelineSettings,
    Stage,
    from_arrays,
    to_arrays,
)
from molkit.pipeline.stages import Task, travel
from molkit.studies.capstone import from_noise as room

CYANIDE = Molecule([6, 7, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.16], [0.0, 0.0, -1.07]])
DIOXIDE = Molecule([6, 8, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.17], [0.0, 0.0, -1.17]])
FEW = PipelineSettings(num_conformers=3)


def journey_of(molecule, name="one"):
    journey, reason = run.examined(name, molecule)
    assert reason == ""
    return journey


@pytest.fixture(scope="module")
def cyanide():
    return travel(Task(journey_of(CYANIDE), FEW))


def test_a_whole_molecule_begins_and_others_are_refused_with_the_reason():
    assert journey_of(CYANIDE).smiles == "C#N"
    broken = CYANIDE.with_positions(CYANIDE.positions * [1.0, 1.0, 3.0])
    assert "wrong valence" in run.why_rejected(broken)
    pair = np.concatenate([CYANIDE.positions, CYANIDE.positions + 9.0])
    assert "2 pieces" in run.why_rejected(Molecule([6, 7, 1] * 2, pair))


def test_a_molecule_inside_the_domain_passes_every_stage(cyanide):
    assert [stage.name for stage in cyanide.stages] == list(STAGES[1:]) and all(s.passed for s in cyanide.stages)
    assert cyanide.smiles == "C#N"
    assert set(cyanide.structures) == {DRAWN, PRE_RELAXED, CONFORMERS, LOWEST}
    assert cyanide.energies[LOWEST] == pytest.approx(0.0, abs=1e-4) and min(cyanide.energies.values()) > -1e-4
    assert cyanide.minima_energies[0] == 0.0 and len(cyanide.minima) == cyanide.values["num_minima"]


def test_the_functional_is_compared_with_the_same_kohn_sham_as_pyscf_gives(cyanide):
    level = DftLevel(functional="pbe", basis="6-31g(2df,p)", density_fit=False, grid_level=3)
    found = single_point(cyanide.at(LOWEST), level=level)
    assert cyanide.values["kohn_sham_hartree"] == pytest.approx(found.energy, abs=5e-4)
    assert cyanide.values["kohn_sham_fitted_dipole_debye"] == pytest.approx(found.dipole, abs=0.05)
    assert 0.1 < cyanide.values["orbital_free_expected_error_kcal"] < 5.0
    error = cyanide.values["orbital_free_hartree"] - cyanide.values["kohn_sham_hartree"]
    assert cyanide.values["orbital_free_error_mha"] == pytest.approx(1000.0 * error) and abs(error) < 0.01
    assert {name: density.shape for name, density in cyanide.densities.items()}[ORBITAL_FREE] == cyanide.densities[
        KOHN_SHAM
    ].shape


def test_outside_the_domain_kohn_sham_alone_gives_the_energy():
    found = travel(Task(journey_of(DIOXIDE), FEW))
    assert not found.passed(ORBITAL_FREE) and "this functional is for" in found.note(ORBITAL_FREE)
    assert found.passed(KOHN_SHAM) and "density fitted" in found.note(KOHN_SHAM) and not found.densities
    assert found.values["kohn_sham_hartree"] < -180.0


def test_a_stage_that_fails_ends_the_journey_with_its_reason(monkeypatch):
    import molkit.pipeline.stages as stages

    monkeypatch.setattr(stages, "keeps_bonds", lambda mol, molecule: False)
    found = travel(Task(journey_of(CYANIDE), FEW))
    assert [(stage.name, stage.passed) for stage in found.stages] == [(PRE_RELAXED, False)]
    assert "other atoms are bonded" in found.note(PRE_RELAXED) and not found.passed(MINIMA)


def test_a_journey_survives_the_way_through_a_file(cyanide):
    again = from_arrays(to_arrays(cyanide))
    assert (again.stages, again.smiles, again.values) == (cyanide.stages, cyanide.smiles, cyanide.values)
    for name in ("structures", "densities"):
        assert {key: value.tolist() for key, value in getattr(again, name).items()} == {
            key: value.tolist() for key, value in getattr(cyanide, name).items()
        }
    bare = from_arrays(to_arrays(journey_of(CYANIDE)))
    assert bare.minima is None and bare.conformers is None and bare.stages == ()


def test_a_pipeline_is_continued_and_counts_everybody(tmp_path, monkeypatch):
    drawn = [CYANIDE, CYANIDE.with_positions(3.0 * CYANIDE.positions)]
    monkeypatch.setattr(run, "draw", lambda *a, **k: drawn)
    first = run.run_pipeline(3, tmp_path, settings=FEW)
    file = next((tmp_path / "journeys" / "results").glob("*.npz"))
    made = file.stat().st_mtime_ns
    second = run.run_pipeline(3, tmp_path, settings=FEW)
    assert file.stat().st_mtime_ns == made and first.num_failed_chains == 1
    assert [one.stages for one in first.journeys] == [one.stages for one in second.journeys]
    assert [one.passed(DRAWN) for one in second.journeys] == [True, False]
    names = {path.name for path in run.write_results(second, tmp_path)}
    assert names == {"drawn.sdf", "lowest.sdf", "minima.sdf", "journeys.json"}
    assert len(json.loads((tmp_path / "journeys.json").read_text())["journeys"]) == 2
    monkeypatch.setattr(run, "draw", lambda *a, **k: pytest.fail("drawn before the folder was looked at"))
    for name, value in (("seed", 1), ("num_calls", 21), ("energy", ""), ("functional", "ofdft_up_to_five")):
        with pytest.raises(InvalidInput, match=f"another '{name}'"):
            run.run_pipeline(3, tmp_path, settings=replace(FEW, **{name: value}))
    with pytest.raises(InvalidInput, match="another 'count'"):
        run.run_pipeline(4, tmp_path, settings=FEW)


def test_sizes_that_the_generator_does_not_know_are_refused_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "draw", lambda *a, **k: pytest.fail("drawn before the sizes were looked at"))
    assert command(["pipeline", "--count", "1", "--sizes", "300", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "300 atoms in all: a size that the model's training histogram does not hold" in said
    assert not (tmp_path / "out").exists()


def test_mistakes_end_in_one_line(tmp_path, capsys):
    with pytest.raises(DataNotFound):
        run.run_pipeline(1, tmp_path, settings=replace(FEW, flow="no_such_weights"))
    with pytest.raises(InvalidInput):
        run.run_pipeline(1, tmp_path, settings=replace(FEW, flow="edm_qm9"))
    with pytest.raises(InvalidInput):
        run.run_pipeline(1, tmp_path, settings=replace(FEW, functional="edm_qm9"))
    with pytest.raises(InvalidInput):
        PipelineSettings(num_conformers=0)
    assert command(["pipeline", "--sizes", "many", "--out", str(tmp_path / "out")]) == 2
    assert "such as 3-8" in capsys.readouterr().err.strip().splitlines()[-1]
    assert numbers_of_atoms("3-5,9") == [3, 4, 5, 9] and numbers_of_atoms("") == []


def test_the_command_writes_a_report_that_names_its_molecules(tmp_path, capsys):
    options = ["--count", "2", "--sizes", "3", "--calls", "20", "--conformers", "2", "--out", str(tmp_path / "out")]
    assert command(["pipeline", *options]) in (0, 3)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    ended = command(["pipeline", *options])
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "From noise to electrons" in page and "of 2: " in capsys.readouterr().out
    journeys = json.loads((tmp_path / "out" / "journeys.json").read_text())["journeys"]
    whole = all(len(one["stages"]) == len(STAGES) and one["stages"][-1]["passed"] for one in journeys)
    assert ended == (0 if whole and len(journeys) == 2 else 3)
    assert all(one["smiles"] in page for one in journeys if "lowest" in one["energies_kcal_above_lowest"])


def made_rows():
    """A molecule at the end, one refused by the functional, one that was drawn broken; and a chain that was lost."""
    hydrogen = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]])
    drawn = [Stage(DRAWN, True, "fine", 1.0), Stage(DRAWN, False, "1 of 2 atoms has the wrong valence", 3.0)]
    end = [Stage(name, True, "fine", 2.0) for name in STAGES[1:]]
    refused = [*end[:3], Stage(ORBITAL_FREE, False, "H2: this functional is for water", 0.5), *end[4:]]
    about = {
        "structures": dict.fromkeys(room.PLACES, hydrogen),
        "energies": {DRAWN: 9.0, PRE_RELAXED: 4.0, LOWEST: 0.0},
    }
    first = {"num_minima": 2.0, "own_minimum_kcal": 1.5, "population_of_lowest": 0.9, "kohn_sham_hartree": -1.1}
    second = {"num_minima": 1.0, "own_minimum_kcal": 0.0, "population_of_lowest": 1.0, "kohn_sham_hartree": -1.2}
    journeys = [
        Journey("a", Molecule([1, 1], hydrogen), "[H][H]", (drawn[0], *end), values=first, **about),
        Journey("b", Molecule([1, 1], hydrogen), "[H]", (drawn[0], *refused), values=second, **about),
        Journey("c", Molecule([1, 1], 9 * hydrogen), "", (drawn[1],)),
    ]
    return pd.DataFrame(room.rows_of(run.PipelineResult(FEW, tuple(journeys), 1)))


def test_the_way_of_known_molecules_is_counted_stage_by_stage():
    """Shares are of all that were asked for, the lost chain among them; a refusal does not end a journey."""
    rows = made_rows()
    table = show(room.way(rows), room.WAY, "")
    assert table.heads == ("stage", "came to it", "passed", "passed, % of drawn", "s a molecule")
    cells = {line[0]: line for line in table.cells}
    assert cells[DRAWN][1:3] == ("4", "2") and cells[DRAWN][3].startswith("50.0\n") and cells[DRAWN][4] == "1.25"
    assert cells[ORBITAL_FREE][1:3] == ("2", "1") and cells[ORBITAL_FREE][3].startswith("25.0\n")
    assert cells[KOHN_SHAM][1:3] == ("2", "2") and cells[KOHN_SHAM][4] == "2.00"
    said = {(line[0], line[1]): line[2] for line in show(room.refusals(rows), room.REFUSALS, "").cells}
    assert said == {
        (DRAWN, "atoms with the wrong valence"): "1",
        (DRAWN, "its chain did not stay finite"): "1",
        (ORBITAL_FREE, "outside the functional's domain"): "1",
    }


def test_every_molecule_says_where_it_stopped_and_why():
    rows = made_rows()
    cells = show(room.stops(rows), room.STOPS, "").cells
    assert cells == (
        ("[H][H]", "–", "came to the end", "served it"),
        ("[H]", "–", "came to the end", "outside the functional's domain"),
        ("H2", DRAWN, "1 of 2 atoms has the wrong valence", ""),
        ("H", DRAWN, "its chain did not stay finite", ""),
    )
    (axis,) = room.draw_funnel(rows).axes
    assert [bar.get_width() for bar in axis.patches] == [2, 2, 2, 2, 1, 2]
    assert [text.get_text() for text in axis.texts][3:] == ["2 of 2", "1 of 2", "2 of 2"]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(STAGES)


def test_a_journey_that_the_functional_refused_did_not_stop_there():
    refused = (Stage(ORBITAL_FREE, False, "not served", 0.1), Stage(KOHN_SHAM, True, "converged", 1.0))
    assert replace(journey_of(CYANIDE), stages=refused).stopped() == ""
    assert replace(journey_of(CYANIDE), stages=refused[:1]).stopped() == "orbital-free: not served"


def test_minima_and_energies_of_known_molecules_stand_in_their_columns_and_are_drawn_as_they_are():
    rows = made_rows()
    assert show(room.done(rows), room.MINIMA, "").cells == (
        ("[H][H]", "0", "2", "90", "1.50"),
        ("[H]", "0", "1", "100", "0.00"),
    )
    first = show(room.electrons(rows), room.ELECTRONS, "")
    assert first.cells[0] == ("[H][H]", "−1.1000", "–", "–", "–", "–") and len(first.cells) == 2
    assert str(room.told_of_minima(rows)).startswith(
        "Of 1 molecules with several minima the model drew 0 in the lowest"
    )
    (axis,) = room.draw_ladder(rows).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == [title for title, _ in room.LADDER.values()]
    assert axis.lines[0].get_ydata()[:2].tolist() == [9.0, 4.0] and axis.get_yscale() == "log"
    assert "[H][H]: drawn, pre-relaxed" in room.views(rows, count=1).data
    assert "No molecule" in room.first_density(rows) and "No molecule" in room.views(rows[2:], count=1)


def test_one_molecule_of_the_page_is_one_row_of_the_pipeline():
    assert [(one.row, one.size) for one in room.tasks(count=3, sizes=(3, 4))] == [(0, 3), (1, 4), (2, 3)]
    (task,) = room.tasks(count=1, sizes=(3,), conformers=2)
    (row,) = room.measure(task)
    assert row["stage"][0] == DRAWN and len(row["stage"]) == len(row["seconds"]) and len(row["atomic_numbers"]) == 3
    assert len(task.files) == 11
