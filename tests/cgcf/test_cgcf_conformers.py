"""Conformers for users: handedness, refusals in one line, the command, training and weights."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from cgcf_toys import generator
from rdkit import Chem
from rdkit.Chem import AllChem, rdDistGeom, rdMolTransforms

from molkit.cgcf import conformer_jobs, conformers
from molkit.cgcf.choice import energy_for, flow_for
from molkit.cgcf.config import FlowConfig
from molkit.cgcf.conformer_jobs import ConformerJob, result_of, run_job
from molkit.cgcf.conformers import Conformers, draw_distances, generate, sdf_lines, with_stereo_checked
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.domain import described, known_tests, outside
from molkit.cgcf.graph import collate
from molkit.cgcf.handedness import HandedStress, embed_handed, with_flat_double_bonds
from molkit.cgcf.loaded import shared_flow
from molkit.cgcf.model import Cgcf, build_flow, load_flow, save_flow
from molkit.chem.bond_graph import graph_mol, is_inverted, mol_with_conformers, stereo_agrees, stereo_rules
from molkit.chem.rdkit_tools import embed_smiles, stereo_smiles
from molkit.cli import run
from molkit.errors import InvalidInput
from molkit.experiments.run import run as run_experiment
from molkit.studies.conformers import conformers_drugs, conformers_qm9
from molkit.studies.conformers.comparison import as_tested
from molkit.training.weights import resolve

CHOLESTEROL = "C[C@H](CCCC(C)C)[C@H]1CC[C@@H]2[C@@]1(CC[C@H]3[C@H]2CC=C4[C@@]3(CC[C@@H](C4)O)C)C"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    flow = build_flow(FlowConfig(elements=(1, 6, 7, 8, 9), width=8, sampling_steps=2)).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
        flow.data_norm.variance.fill_(0.5)
    path = tmp_path_factory.mktemp("flow") / "toy"
    save_flow(flow, path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> Cgcf:
    return load_flow(folder)


HANDED = ["C[C@H](O)F", "C[C@@H](O)F", "O[C@H](/C=C/F)[C@@H](N)C", "C[S@](=O)c1ccccc1", "CC[P@](C)c1ccccc1"]
HANDED += ["C[P@@](=O)(N)Oc1ccccc1", "C[N@+](CC)(CCC)c1ccccc1", "C[C@H]1C[N@]1C", "C[S@@](=N)(=O)CC"]


@pytest.mark.parametrize("smiles", [*HANDED, "C/C=C/C", "C/C=C\\C", "C/C=N/O"])
def test_stereo_rules_agree_with_rdkits_embedding(smiles):
    """An independent program: ETKDG embeds what the SMILES says; the mirror image breaks every centre, no bond."""
    from rdkit.Chem import AllChem

    mol = graph_mol(smiles)
    rules = stereo_rules(mol)
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1)
    positions = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    centres, bonds = stereo_agrees(rules, positions)
    assert len(rules) > 0 and centres.all() and bonds.all()
    assert not is_inverted(rules, positions).any() and (is_inverted(rules, -positions) == (smiles in HANDED)).all()
    centres, bonds = stereo_agrees(rules, -positions)
    assert not centres.any() and bonds.all()


def test_a_flat_centre_and_a_double_bond_near_90_degrees_are_neither():
    """Positions by hand: sulphur 0.02 angstrom above its neighbours; a torsion of 80 degrees passes for cis by sign."""
    mol = graph_mol("C[S@](=O)CC")
    positions = np.random.default_rng(0).normal(size=(2, mol.GetNumAtoms(), 3))
    positions[:, :4] = [[1.8, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.75, 1.3, 0.0], [-0.9, -1.56, 0.0]]
    positions[:, 1, 2] = [0.02, -0.02]
    assert not stereo_agrees(stereo_rules(mol), positions)[0].any()
    positions[:, 1, 2] *= 30.0
    assert stereo_agrees(stereo_rules(mol), positions)[0].sum() == 1
    mol = graph_mol("C/C=C\\C")
    angles = np.radians([80.0, 55.0, 10.0])
    positions = np.random.default_rng(0).normal(size=(3, mol.GetNumAtoms(), 3))
    positions[:, :3] = [[-0.7, 1.2, 0.0], [0.0, 0.0, 0.0], [1.3, 0.0, 0.0]]
    positions[:, 3] = np.stack([np.full(3, 2.0), 1.2 * np.cos(angles), 1.2 * np.sin(angles)], axis=1)
    assert stereo_agrees(stereo_rules(mol), positions)[1][:, 0].tolist() == [False, True, True]


@pytest.mark.parametrize("smiles", ["CC=[C@]=CC", "C/C=C=C=C/C", "F[S@OH1](Cl)(Br)(I)(C)O"])
def test_stereo_that_is_not_checked_is_refused(smiles):
    with pytest.raises(InvalidInput, match="leave it out"):
        stereo_rules(graph_mol(smiles))


def test_one_centre_is_nearly_always_right_after_reflection():
    model = shared_flow("cgcf_qm9")
    plain = generate(model, "C[C@H](O)N", 12, generator=generator(), stereo="ignore")
    mirrored = generate(model, "C[C@H](O)N", 12, generator=generator(), stereo="mirror")
    assert 0 < plain.stereo_agrees.sum() < 10 and mirrored.stereo_agrees.sum() >= 11
    assert mirrored.num_mirrored >= mirrored.stereo_agrees.sum() - plain.stereo_agrees.sum() > 0


def right_by_rdkit(smiles: str, positions: np.ndarray) -> list[bool]:
    """Whether RDKit, knowing atoms and bonds alone, reads the isomer that was asked for off each conformer."""
    plain = Chem.Mol(graph_mol(smiles))
    Chem.RemoveStereochemistry(plain)
    wanted = Chem.CanonSmiles(smiles)
    return [stereo_smiles(mol_with_conformers(plain, one[None])) == wanted for one in positions]


ISOMERS = [
    "C[S@](=O)c1ccccc1",
    "CC[S@@](C)=O",
    "C[P@](=O)(N)Oc1ccccc1",
    "C[N@+](CC)(CCC)c1ccccc1",
    "C/C=C/C=C\\C",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C[C@H](N)C(=O)N[C@@H](C)C(=O)O",
    "C[C@@]12CC[C@@H](C1(C)C)CC2=O",
    "C[C@H]1CC[C@H](C)CC1",
    "C/C=N/O",
]


@pytest.mark.parametrize(
    ("smiles", "relax"), [*((one, True) for one in ISOMERS), *((one, False) for one in ISOMERS[::4])]
)
def test_every_conformer_that_is_written_is_the_isomer_asked_for(smiles, relax):
    flow = flow_for(smiles)
    job = ConformerJob(smiles=smiles, count=3, seed=3, weights=flow, energy=energy_for(flow))
    job = replace(job, relax=relax, rank="mmff94" if relax else "none")
    result = result_of(job, run_job(job))
    supplier = Chem.SDMolSupplier()
    supplier.SetData("".join(result.records), removeHs=False)
    positions = np.stack([mol.GetConformer().GetPositions() for mol in supplier])
    assert len(positions) + result.made.num_duplicates == 3 and all(right_by_rdkit(smiles, positions))
    assert all(float(mol.GetProp("stereo_agrees")) == 1.0 for mol in supplier)


def test_what_has_no_stereo_is_searched_as_ever():
    """Redrawing changes nothing where there is nothing to redraw: the same numbers as of the plain search."""
    model = shared_flow("cgcf_qm9")
    plain, handed = (generate(model, "CCOC=O", 5, generator=generator(), stereo=how) for how in ("ignore", "redraw"))
    np.testing.assert_array_equal(plain.positions, handed.positions)
    np.testing.assert_array_equal(plain.stress, handed.stress)


def test_the_handed_search_follows_its_slope_and_ends_in_right_centres():
    """The gradient by finite differences; eight centres of cholesterol, hardly ever right by chance."""
    model, mol = shared_flow("cgcf_drug"), graph_mol(CHOLESTEROL)
    graph, rules = collate([graph_of(mol)]), stereo_rules(mol)
    distances = draw_distances(model.flow, graph, 3, generator=generator())
    stress, at = HandedStress(graph, distances, rules), np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3, 3))
    value, gradient = stress(at)
    moved = at.copy()
    moved[mol.GetSubstructMatch(Chem.MolFromSmarts("[C@@]"))[0], 1] += 1e-6
    slope = (stress(moved)[0] - value) / 1e-6
    np.testing.assert_allclose(slope, gradient[(moved != at).any(axis=(1, 2))][0, 1], rtol=1e-3)
    found = embed_handed(graph, distances, rules, generator=generator())
    assert sum(right_by_rdkit(CHOLESTEROL, found.positions.numpy())) >= 2


def test_distances_across_a_double_bond_are_those_of_the_flat_form():
    """By hand: ETKDG's but-2-ene twisted by 50 degrees about its double bond goes back to the distance it had."""
    mol = with_stereo_of_embedding("C/C=C\\C")
    graph, rules = collate([graph_of(mol)]), stereo_rules(mol)
    flat = torch.from_numpy(mol.GetConformer().GetPositions())[None]
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, 50.0)
    twisted = torch.from_numpy(mol.GetConformer().GetPositions())[None]
    wanted, drawn = (graph.distances(one[0])[None] for one in (flat, twisted))
    assert (wanted - drawn).abs().max() > 0.1
    found, rows = with_flat_double_bonds(graph, drawn, rules)
    assert len(rows) == 4 and (found - wanted).abs().max() < 0.02


def with_stereo_of_embedding(smiles: str) -> Chem.Mol:
    mol = graph_mol(smiles)
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return mol


def test_what_another_stage_turned_is_drawn_again_or_left_out(monkeypatch):
    """A force field that reflects every second conformer: half are drawn again, or, with mirror, missing."""
    monkeypatch.setattr(conformers, "relaxed", reflecting_every_second)
    job = ConformerJob(smiles="C[C@H](O)N", count=4, seed=0, weights="cgcf_qm9")
    monkeypatch.setattr(conformer_jobs, "distinct", lambda made: made)
    monkeypatch.setattr(conformer_jobs, "within", lambda made, window: made)
    made = {how: result_of(job, run_job(replace(job, stereo=how))).made for how in ("redraw", "mirror", "ignore")}
    assert len(made["redraw"]) == len(made["ignore"]) == 4 and len(made["mirror"]) < 4
    for how in ("redraw", "mirror"):
        assert all(right_by_rdkit(job.smiles, made[how].positions))
    assert made["ignore"].stereo_agrees.tolist() == right_by_rdkit(job.smiles, made["ignore"].positions)
    assert not made["ignore"].stereo_agrees.all()


def reflecting_every_second(conformers: Conformers, *, max_iterations: int) -> Conformers:
    signs = np.where(np.arange(len(conformers)) % 2, -1.0, 1.0)[:, None, None]
    signs = -np.abs(signs) if conformers.smiles.startswith("N[C@H]") else signs  # of that one, all
    return with_stereo_checked(replace(conformers, positions=signs * conformers.positions))


def test_none_of_the_right_isomer_is_a_line_and_the_others_are_finished(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(conformers, "relaxed", reflecting_every_second)
    monkeypatch.setattr(conformer_jobs, "distinct", lambda made: made)
    monkeypatch.setattr(conformer_jobs, "within", lambda made, window: made)
    monkeypatch.setattr(conformers, "MAX_ROUNDS", 1)
    impossible, out = "N[C@H](O)C", tmp_path / "out.sdf"
    asked = ["-n", "2", "--out", str(out)]
    assert run(["conformers", impossible, *asked]) == 2
    assert "has the stereo that the SMILES specifies" in capfd.readouterr().err and not out.exists()
    assert run(["conformers", impossible, "CCO", "C[C@H](O)N", *asked]) == 3
    seen = capfd.readouterr()
    assert "left out, molecule 1: " in seen.err and "not complete, molecule 3: C[C@H](O)N: 1 of 2" in seen.err
    assert len(Chem.SDMolSupplier(str(out))) == 3


@pytest.mark.parametrize(
    ("smiles", "weights", "words"),
    [
        ("CCCO", "cgcf_qm9", ""),
        ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", "cgcf_drug", ""),
        ("CCCCCCCCCC", "cgcf_qm9", r"10 heavy atoms \(tested: up to 9\), 7 rotatable bonds \(tested: up to 5\)"),
        ("C[NH3+]", "cgcf_qm9", r"total charge \+1 \(tested: 0\)"),
        ("CF", "cgcf_qm9", r"F \(in no test molecule\)"),
        ("[O-]C(=O)CC(C(=O)[O-])C(=O)[O-]", "cgcf_drug", r"total charge -3 \(tested: -1, 0, \+1, \+2\)"),
    ],
)
def test_a_molecule_outside_of_what_was_tested_is_said_to_be(smiles, weights, words):
    found = outside(graph_mol(smiles), weights)
    assert re.search(words, found) if words else not found
    assert not words or "Expect less than inside: on " in found


@pytest.mark.parametrize(
    ("weights", "room", "asked"),
    [
        ("cgcf_qm9", conformers_qm9, [{}]),
        (
            "cgcf_drug",
            conformers_drugs,
            [{"data": "conformers_dft", "molecules": 200, "seeds": (0,), "max_references": 12}, {}],
        ),
    ],
)
def test_what_weights_were_tested_on_is_what_the_stored_rows_say(weights, room, asked):
    assert known_tests(weights) == [as_tested(run_experiment(room.measure, room.tasks(**one))) for one in asked]
    assert described(known_tests(weights)) in (resolve(weights) / "card.md").read_text()


def test_the_command_says_it_once_and_says_so_where_nothing_was_tested(folder, tmp_path, capfd):
    asked = ["-n", "1", "--stereo", "ignore", "--out", str(tmp_path / "out.sdf")]
    assert run(["conformers", "CCO", "CCCCCCCCCC", "CCCCCCCC(C)C", "--weights", "cgcf_qm9", *asked]) == 0
    seen = capfd.readouterr().err
    assert seen.count("note, molecule 2: outside of what cgcf_qm9") == 1 and "molecule 1" not in seen
    assert run(["conformers", "CC", "CO", "--weights", str(folder), *asked]) == 0
    assert capfd.readouterr().err.count("nothing is recorded of tests") == 1


def test_redrawing_leaves_only_right_conformers():
    found = generate(shared_flow("cgcf_qm9"), "C[C@H](O)[C@@H](N)C", 6, generator=generator(), stereo="redraw")
    assert len(found) == 6 and found.stereo_agrees.all() and found.num_drawn >= 6


def test_atoms_may_come_in_another_order(model):
    mol = graph_mol("CCO")
    turned = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    found = generate(model, "CCO", 2, generator=generator(), mol=turned)
    assert [atom.GetSymbol() for atom in found.mol.GetAtoms()][-1] == "C" and found.positions.shape == (2, 9, 3)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CC(", "expected a SMILES string"),
        ("C.C", "2 fragments"),
        ("[He]", "single atom"),
        ("CBr", "trained without Br"),
        ("[CH3]", "unpaired electrons"),
        ("C*", "dummy atom"),
        ("C" * 140, "more than the 400"),
    ],
)
def test_what_has_no_conformers_is_refused_in_one_line(model, smiles, message):
    with pytest.raises(InvalidInput, match=message) as error:
        generate(model, smiles, 1, generator=generator())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("smiles", ["[H][H]", "C", "C[NH3+]", "C" * 64])
def test_small_rigid_charged_and_200_atom_molecules_have_some(model, smiles):
    found = generate(model, smiles, 1, generator=generator())
    assert np.isfinite(found.positions).all()


def test_the_command_finishes_the_good_ones_and_names_the_bad(folder, tmp_path, capfd):
    listed, out = tmp_path / "some.smi", tmp_path / "out.sdf"
    listed.write_text("CC(\nCO methanol\n")
    arguments = ["conformers", "CC(O)F", str(listed), "-n", "3", "--weights", str(folder), "--out", str(out)]
    assert run([*arguments, "--no-relax", "--rank", "xtb"]) == 3
    seen = capfd.readouterr()
    assert "left out, molecule 2: expected a SMILES string" in seen.err
    assert "6 conformers of 2 molecules, 1 failed" in seen.out and "1 of 3 molecules left out" in seen.err
    mols = list(Chem.SDMolSupplier(str(out), removeHs=False))
    flat = [Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) for mol in mols]
    assert flat == ["CC(O)F"] * 3 + ["CO"] * 3
    energies = [float(mol.GetProp("gfn2_xtb_ev")) for mol in mols[3:] if mol.HasProp("gfn2_xtb_ev")]
    assert energies == sorted(energies)


def test_records_carry_the_stereo_of_their_coordinates():
    mol = graph_mol("C[C@H](O)/C=C/F")
    positions = np.stack([one.positions for one in embed_smiles("C[C@H](O)/C=C/F", num_conformers=2)])
    ones = np.ones(len(positions), dtype=bool)
    text = "".join(
        sdf_lines(Conformers("C[C@H](O)/C=C/F", mol, positions, 0.0 * ones, ones, ones, ["cgcf"] * len(ones)))
    )
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text)
    assert [Chem.MolToSmiles(one) for one in supplier] == ["C[C@H](O)/C=C/F"] * len(positions)


def test_nothing_is_written_where_nothing_can_be_treated(folder, tmp_path, capfd):
    out = tmp_path / "out.sdf"
    assert run(["conformers", "CC(", "-n", "1", "--weights", str(folder), "--out", str(out)]) == 2
    assert not out.exists() and "nothing was written" in capfd.readouterr().err
    assert run(["conformers", "CC", "--weights", "edm_qm9", "--out", str(out)]) == 2
    assert "belong to method edm" in capfd.readouterr().err


def test_weights_follow_from_the_molecule_where_none_are_named(tmp_path, capfd):
    ibuprofen, out = "CC(C)Cc1ccc(cc1)C(C)C(=O)O", str(tmp_path / "out.sdf")
    assert [flow_for(text) for text in ("CCO", "CF", ibuprofen, "CC(")] == ["cgcf_qm9", *["cgcf_drug"] * 2, "cgcf_qm9"]
    assert run(["conformers", "CCO", "CF", "-n", "2", "--no-relax", "--etm", "auto", "--out", out]) == 0
    seen = capfd.readouterr().out
    assert "by cgcf_qm9" in seen and "by cgcf_drug" in seen and "4 conformers of 2 molecules" in seen
    assert run(["conformers", "CC", "--weights", "elsewhere", "--etm", "auto", "--out", out]) == 2
    assert "no published energy belongs to elsewhere" in capfd.readouterr().err


def test_files_and_folders_are_looked_at_before_the_work(folder, tmp_path, capfd):
    listed, out = tmp_path / "some.smi", tmp_path / "out.sdf"
    listed.write_text("# two of them\nCO\n\nCC ethane\n")
    asked = ["-n", "1", "--weights", str(folder), "--stereo", "ignore", "--out"]
    assert run(["conformers", str(listed), *asked, str(out)]) == 0
    assert "2 conformers of 2 molecules, 0 failed" in capfd.readouterr().out
    listed.write_bytes(b"\xff\xfe\x00C")
    for smiles, target, message in (
        (str(listed), out, "expected a SMILES string"),
        (str(tmp_path / "none.txt"), out, "cannot read"),
        ("CC", tmp_path / "nowhere" / "out.sdf", "does not exist"),
        ("CC", tmp_path / "out.xyz", "must end in .sdf"),
    ):
        assert run(["conformers", smiles, *asked, str(target)]) == 2
        assert message in (seen := capfd.readouterr()).err and not seen.out


def test_a_recipe_trains_resumes_and_reloads(tmp_path):
    """Both objectives, a few steps; resumed weights equal those of a run in one go."""
    model = {"width": 8, "training_steps": 1}
    for objective in ("matching", "likelihood"):
        recipe = tmp_path / f"{objective}.yaml"
        training = {"batch_pairs": 2000, "total_steps": 4, "precision": "float32", "log_every": 1}
        values = {"method": "cgcf", "objective": objective, "data": {"limit": 20}, "model": model, "training": training}
        recipe.write_text(yaml.safe_dump(values))
        whole, parts = tmp_path / f"{objective}_whole", tmp_path / f"{objective}_parts"
        assert run(["train", str(recipe), "--out", str(whole), "--quiet"]) == 0
        assert run(["train", str(recipe), "--out", str(parts), "--quiet", "--total-steps", "2"]) == 0
        assert run(["train", str(recipe), "--out", str(parts), "--quiet", "--total-steps", "4", "--resume"]) == 0
        first, second = (load_flow(resolve(folder)).flow.state_dict() for folder in (whole, parts))
        assert first["data_norm.mean"] != 0.0
        assert set(first) == set(second)


def test_recipes_refuse_what_they_do_not_know(tmp_path, capfd):
    recipe = tmp_path / "r.yaml"
    for values, message in (
        ({"method": "cgcf", "objective": "guess"}, "objective must be likelihood or matching"),
        ({"method": "cgcf", "model": {"widht": 3}}, "unknown key 'widht'"),
        ({"method": "etm", "flow": 3}, "`flow` must name a flow"),
        ({"method": "etm", "flow": "x", "pool": 0}, "pool must be a number"),
    ):
        recipe.write_text(yaml.safe_dump(values))
        assert run(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
        assert message in capfd.readouterr().err


def test_a_run_is_published_with_its_card(tmp_path, monkeypatch):
    from molkit.cgcf.publish import publication
    from molkit.training.publishing import publish

    recipe = tmp_path / "recipe.yaml"
    training = {"batch_pairs": 2000, "total_steps": 2, "precision": "float32", "log_every": 1}
    values = {"method": "cgcf", "objective": "matching", "data": {"limit": 10}, "model": {"width": 8}}
    recipe.write_text(yaml.safe_dump(values | {"training": training}))
    out = tmp_path / "run"
    assert run(["train", str(recipe), "--out", str(out), "--quiet"]) == 0
    folder = publish(publication(out, remarks=["A toy."]), "toy", root=tmp_path / "weights")
    text = (folder / "card.md").read_text()
    assert "Training by matching: 2 steps" in text and "- A toy." in text
    assert load_flow(folder).config.elements == load_flow(out).config.elements != ()
    with pytest.raises(InvalidInput, match="plain word"):
        publish(publication(out), "a/b", root=tmp_path)


def test_the_tables_of_the_paper_are_entered():
    """Published numbers only where they were confirmed; the size of the flow is the one read off the checkpoints."""
    from molkit.claims.ledger import load_claims, select

    claims = load_claims()
    assert len(select(claims, "cgcf.qm9")) == len(select(claims, "cgcf.drugs")) == 36
    assert claims["cgcf.qm9_later_split.rdkit.cov_mean"].value == 83.26
    assert claims["cgcf.iso17.cgcf.single_mean"].value == 0.449
    assert all(claim.value is None for claim in select(claims, "cgcf.qm9") + select(claims, "cgcf.diversity"))
    count = sum(parameter.numel() for parameter in build_flow(FlowConfig()).parameters())
    assert count == claims["cgcf.model.num_parameters"].value


def test_conformers_are_kept_bit_for_bit_and_the_folder_knows_their_weights_and_settings(
    folder, tmp_path, monkeypatch, capfd
):
    out, listed = tmp_path / "out.sdf", tmp_path / "some.smi"
    listed.write_text("C[C@H](O)F\nCC(\nCO\n")
    bare = ["conformers", str(listed), "-n", "2", "--weights", str(folder), "--out", str(out)]
    assert run(bare) == 3
    without, arguments = out.read_bytes(), [*bare, "--keep", str(tmp_path / "keep")]
    capfd.readouterr()
    assert run([*arguments, "--workers", "2"]) == 3 and out.read_bytes() == without
    first = capfd.readouterr()
    monkeypatch.setattr(conformer_jobs, "conformers_of", lambda job: pytest.fail(f"{job.smiles} was made again"))
    assert run(arguments) == 3 and out.read_bytes() == without
    again = capfd.readouterr()
    assert again.out == first.out and "molecule 2" in again.err
    for option, name in ((["-n", "3"], "count"), (["--stereo", "ignore"], "stereo"), (["--seed", "1"], "seed")):
        assert run([*arguments, *option]) == 2 and f"another '{name}'" in capfd.readouterr().err
    assert run([*arguments, "--weights", "cgcf_qm9"]) == 2
    assert "another 'weights'" in capfd.readouterr().err


def test_the_command_writes_distinct_minima_lowest_first_with_energies_and_origins(tmp_path, capfd):
    """Energies against RDKit's own of the written coordinates; RMSDs against the rule that tells conformers apart."""
    out, listed = tmp_path / "out.sdf", tmp_path / "some.smi"
    listed.write_text("CCCO.Cl my name\n")
    assert run(["conformers", str(listed), "-n", "12", "--mix", "etkdg", "--largest-fragment", "--out", str(out)]) == 0
    seen = capfd.readouterr()
    assert "molecule 1: CCCO of CCCO.Cl" in seen.err and "the same as others" in seen.out
    mols = list(Chem.SDMolSupplier(str(out), removeHs=False))
    energies = np.array([float(mol.GetProp("mmff94_kcal")) for mol in mols])
    kinds = AllChem.MMFFGetMoleculeProperties(mols[0])
    own = [AllChem.MMFFGetMoleculeForceField(mol, kinds).CalcEnergy() for mol in mols]
    np.testing.assert_allclose(energies, own, atol=1e-2)  # four decimals of coordinates
    above = [float(mol.GetProp("mmff94_kcal_above_lowest")) for mol in mols]
    np.testing.assert_allclose(above, energies - energies.min(), atol=1e-9)
    assert 1 < len(mols) < 12 and (np.diff(energies) >= 0.0).all()
    assert {mol.GetProp("_Name") for mol in mols} == {"my name"}
    assert {mol.GetProp("origin") for mol in mols} <= {"cgcf", "etkdgv3"}
    assert all(mol.HasProp("stress_angstrom2") == (mol.GetProp("origin") == "cgcf") for mol in mols)


def test_each_minimum_is_kept_once_and_the_rest_are_counted():
    mol, smiles = graph_mol("CC"), "CC"
    one = np.stack([one.positions for one in embed_smiles(smiles)])
    stretched = one * 1.2
    ones, origin = np.ones(4, dtype=bool), np.array(["cgcf", "etkdgv3", "cgcf", "cgcf"])
    energies = {"mmff94_kcal": np.array([2.0, 1.0, 1.001, np.nan])}
    positions = np.concatenate([stretched, one, one + 1.0, one])
    left = conformers.distinct(Conformers(smiles, mol, positions, np.zeros(4), ones, ones, origin, energies=energies))
    assert left.energies["mmff94_kcal"].tolist() == [1.0, 2.0] and left.num_duplicates == 1
    assert left.origin.tolist() == ["etkdgv3", "cgcf"]


def test_cages_turned_inside_out_are_left_out_and_counted(tmp_path, capfd):
    """Adamantan-2-ol: distances alone let a hydrogen point into the cage, 470 kcal/mol above the minima."""
    arguments = ["conformers", "OC1C2CC3CC(C2)CC1C3", "-n", "10", "--out", str(tmp_path / "cage.sdf")]
    above = []
    for window in ("50", "1e6"):
        assert run([*arguments, "--window", window]) == 0
        above.append([float(mol.GetProp("mmff94_kcal_above_lowest")) for mol in Chem.SDMolSupplier(arguments[-1])])
    first, second = capfd.readouterr().out.splitlines()[::2]
    assert max(above[0]) < 50.0 < max(above[1]) and above[0] == above[1][: len(above[0])]
    assert f"{len(above[1]) - len(above[0])} above the window of energies" in first and "window" not in second


def test_a_mixed_pool_has_half_of_each_and_every_one_of_the_right_stereo():
    job = ConformerJob(smiles="C[C@H](O)C/C=C\\C", count=6, seed=0, weights="cgcf_qm9", mix="etkdg")
    made = result_of(job, run_job(replace(job, relax=False, rank="none"))).made
    assert sorted(made.origin.tolist()) == ["cgcf"] * 3 + ["etkdgv3"] * 3
    assert all(right_by_rdkit(job.smiles, made.positions))


def test_uff_takes_over_where_mmff94_has_no_parameters_and_is_named(tmp_path, capfd):
    out = tmp_path / "out.sdf"
    assert run(["conformers", "CI(=O)=O", "CS(F)(F)(F)(F)F", "-n", "2", "--out", str(out)]) == 3
    seen = capfd.readouterr()
    assert "UFF, as MMFF94 lacks parameters" in seen.out
    assert "left out, molecule 2: neither MMFF94 nor UFF has parameters" in seen.err
    mols = list(Chem.SDMolSupplier(str(out), removeHs=False))
    own = [AllChem.UFFGetMoleculeForceField(mol).CalcEnergy() for mol in mols]
    np.testing.assert_allclose([float(mol.GetProp("uff_kcal")) for mol in mols], own, atol=1e-2)
    assert not any(mol.HasProp("mmff94_kcal") for mol in mols)


def test_a_ranking_by_a_force_field_that_did_not_relax_is_refused(tmp_path, capfd):
    asked = ["conformers", "CCO", "--no-relax", "--rank", "mmff94", "--out", str(tmp_path / "out.sdf")]
    assert run(asked) == 2 and "needs relaxed conformers" in capfd.readouterr().err
