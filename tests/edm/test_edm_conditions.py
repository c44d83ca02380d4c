import numpy as np
import pytest
import torch

from molkit.data.qm9_labels import NAMES, load_generator_molecules, load_labelled, normalisation, training_parts
from molkit.edm.conditions import (
    BINS,
    context_for,
    context_of,
    draw_flags,
    make_table,
    read_table,
    write_table,
)
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.edm.training import RECIPES, read_recipe, take_weights
from molkit.errors import DataNotFound, InvalidInput
from molkit.graphs import Graph

TWO = EdmConfig(
    width=16,
    num_layers=1,
    num_context=4,
    context_names=("alpha", "gap"),
    context_means=(75.0, 7.0),
    context_spreads=(6.0, 1.0),
)


def test_what_is_asked_is_normalised_and_flagged_and_the_rest_is_zero():
    context = context_of(TWO, torch.tensor([[81.0, float("nan")], [float("nan"), 5.0]]))
    assert context.tolist() == [[1.0, 0.0, 1.0, 0.0], [0.0, -2.0, 0.0, 1.0]]
    assert context_for(TWO, {"gap": 7.0}, 2).tolist() == [[0.0, 0.0, 0.0, 1.0]] * 2
    assert context_for(EdmConfig(width=16, num_layers=1), {}, 3) is None


def test_a_condition_that_cannot_be_met_ends_in_one_line():
    with pytest.raises(InvalidInput, match="takes no conditions"):
        context_for(EdmConfig(width=16, num_layers=1), {"alpha": 80.0}, 1)
    with pytest.raises(InvalidInput, match="this model knows alpha, gap"):
        context_for(TWO, {"mu": 1.0}, 1)
    with pytest.raises(InvalidInput, match="finite"):
        context_for(TWO, {"alpha": float("inf")}, 1)
    with pytest.raises(InvalidInput, match="num_context 4"):
        EdmConfig(context_names=("a", "b"), context_means=(0.0, 0.0), context_spreads=(1.0, 1.0))


def test_training_molecules_show_none_one_or_some_of_their_properties():
    flags = draw_flags(20_000, 6, generator=torch.Generator().manual_seed(0))
    shown = flags.sum(1)
    assert float((shown == 0).float().mean()) == pytest.approx(0.1 + 0.3 / 64, abs=0.01)
    assert float((shown == 1).float().mean()) == pytest.approx(0.6 + 0.3 * 6 / 64, abs=0.015)
    assert torch.allclose(flags.float().mean(0), torch.tensor(0.1 + 0.15), atol=0.015)


def test_sizes_without_labels_are_left_out_and_requests_there_refused_by_name():
    nan = float("nan")
    table = make_table(("alpha",), [5, 5, 5, 6, 6], [[30], [31], [32], [nan], [nan]])
    assert table.sizes.tolist() == [5] and table.range_of("alpha") == (30.0, 32.0)
    assert np.isfinite(table.size_weights({"alpha": 31.0})).all() and table.size_weights({"alpha": 31.0})[0] > 0.0
    with pytest.raises(InvalidInput, match=r"a size among \[6\] has no molecule in training"):
        table.draw_values("alpha", np.array([6]), generator=np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="alpha = 10 lies outside 30 to 32"):
        table.size_weights({"alpha": 10.0})
    with pytest.raises(InvalidInput, match="no molecule has a value of gap"):
        make_table(("alpha", "gap"), [5, 5], [[30, nan], [31, nan]])


def test_a_size_with_labels_of_one_property_serves_that_one_alone():
    nan = float("nan")
    table = make_table(("alpha", "gap"), [5, 5, 6, 6], [[30, nan], [31, nan], [40, 7], [41, 8]])
    assert table.sizes.tolist() == [5, 6] and table.range_of("gap") == (7.0, 8.0)
    assert (table.size_weights({"gap": 7.0}) > 0.0).tolist() == [False, True]
    assert (table.size_weights({"alpha": 30.0}) > 0.0).tolist() == [True, False]
    table.check_size(6, {"gap": 7.5, "alpha": 40.5})
    with pytest.raises(InvalidInput, match="no molecule of 5 atoms in training has a value of gap"):
        table.check_size(5, {"gap": 7.0})
    with pytest.raises(InvalidInput, match="alpha = 30 lies outside 40 to 41, the range that training showed at 6"):
        table.check_size(6, {"alpha": 30.0})
    with pytest.raises(InvalidInput, match="no molecule of 5 atoms in training has a value of gap"):
        table.draw_values("gap", np.array([6, 5]), generator=np.random.default_rng(0))


def toy_table():
    sizes = np.array([5] * 400 + [9] * 100)
    labels = np.where(sizes[:, None] == 5, np.linspace(0.0, 1.0, 500)[:, None], np.linspace(3.0, 5.0, 500)[:, None])
    return make_table(("alpha",), sizes, labels)


def test_values_follow_the_histogram_of_their_size():
    table = toy_table()
    drawn = table.draw_values("alpha", np.array([5] * 2000 + [9] * 2000), generator=np.random.default_rng(0))
    assert drawn[:2000].min() >= 0.0 and drawn[:2000].max() <= 0.8
    assert drawn[2000:].min() >= 4.6 and drawn[2000:].max() <= 5.0
    assert drawn[:2000].mean() == pytest.approx(0.4, abs=0.02)


def test_sizes_that_go_with_a_value_follow_from_bayes():
    table = toy_table()
    weights = table.size_weights({"alpha": 0.4})
    assert weights[0] > 0.0 and weights[1] == 0.0
    assert set(table.draw_sizes(50, generator=np.random.default_rng(0), weights=weights)) == {5}
    with pytest.raises(InvalidInput, match="outside 0 to 5"):
        table.size_weights({"alpha": 7.0})
    with pytest.raises(InvalidInput, match="no size of molecule"):
        table.size_weights({"alpha": 2.5})
    with pytest.raises(InvalidInput, match="has no molecule in training"):
        table.draw_values("alpha", np.array([6]), generator=np.random.default_rng(0))


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    table = toy_table()
    write_table(tmp_path, table)
    back = read_table(tmp_path)
    assert back.names == table.names and back.histogram.shape == (1, 2, BINS)
    np.testing.assert_array_equal(back.histogram, table.histogram)
    np.testing.assert_allclose(back.high, table.high, atol=1e-6)
    with pytest.raises(DataNotFound, match="not trained with properties"):
        read_table(tmp_path / "other")


def test_a_model_that_gains_columns_begins_as_the_same_function_where_nothing_is_asked(tmp_path):
    plain = build(EdmConfig(width=16, num_layers=1), seed=3)
    save(plain, tmp_path)
    grown = build(TWO, seed=4)
    take_weights(grown.network, TWO, str(tmp_path))
    columns = plain.config.num_columns
    old, new = grown.network.embed.weight.split([columns, TWO.num_columns - columns], dim=1)
    assert 0.2 * old.std() < new.std() < 0.4 * old.std()
    generator = torch.Generator().manual_seed(0)
    graph = Graph.from_sizes(torch.tensor([4, 3]))
    inputs = (torch.randn(7, 6, generator=generator), torch.randn(7, 3, generator=generator), torch.full((7, 1), 0.5))
    rest = (graph.edge_index, graph.batch, 2)
    with torch.no_grad():
        asked = grown.network(*inputs, *rest, torch.randn(7, 4))
        for found, expected, other in zip(
            grown.network(*inputs, *rest, torch.zeros(7, 4)), plain.network(*inputs, *rest), asked, strict=True
        ):
            torch.testing.assert_close(found, expected)
            assert not torch.allclose(other, expected)


def test_judge_labeller_and_generator_share_no_molecule():
    parts = {part: set(load_labelled(part).index.tolist()) for part in ("judge", "labeller", "generator")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 10_834
    assert [len(parts[part]) for part in ("judge", "labeller", "generator")] == [4334, 3250, 3250]
    taught = load_generator_molecules()
    assert not set(taught.index.tolist()) & (parts["judge"] | parts["labeller"])
    assert set(taught.index[np.isfinite(taught.labels[:, 0])].tolist()) == parts["generator"]


def test_the_published_halves_are_those_of_the_legacy_permutation():
    parts = training_parts(np.arange(100_000), source="full")
    order = np.random.RandomState(42).permutation(100_000)
    assert (parts["judge"] == order[:50_000]).all() and (parts["generator"] == order[50_000:]).all()
    assert len(parts["labeller"]) == 0


def test_the_gap_is_lumo_minus_homo_and_cv_lacks_its_free_atoms():
    known = load_labelled("valid")
    columns = dict(zip(NAMES, known.labels.T, strict=True))
    np.testing.assert_allclose(columns["gap"], columns["lumo"] - columns["homo"], atol=3e-3)
    assert columns["cv"].max() < 0.0 < known.labels[:, 0].min()


def test_the_recipe_normalises_by_the_validation_split():
    model = read_recipe(RECIPES / "edm_qm9_conditional.yaml").model
    mean, spread = normalisation()
    assert model.context_names == NAMES
    np.testing.assert_allclose(model.context_means, mean, rtol=1e-5)
    np.testing.assert_allclose(model.context_spreads, spread, rtol=1e-5)


def conditional_weights(folder):
    """A model of two properties whose context matters, with its table."""
    edm = build(TWO, seed=0)
    with torch.no_grad():
        edm.network.embed.weight[:, -4:] *= 30.0
    save(edm, folder)
    sizes = np.repeat([5, 9], [400, 100])
    labels = np.stack([np.where(sizes == 5, 60.0, 80.0) + np.linspace(0, 5, 500), np.linspace(4.0, 9.0, 500)], axis=1)
    write_table(folder, make_table(("alpha", "gap"), sizes, labels))
    return folder


def test_the_bound_of_a_conditional_model_depends_on_the_condition_and_repeats_with_it(tmp_path):
    from molkit.data.qm9 import load_qm9
    from molkit.edm.likelihood import bound
    from molkit.edm.model import load

    edm, molecules = load(conditional_weights(tmp_path), fast=False), load_qm9(split="test", limit=3)

    def total(context):
        return bound(edm, molecules, generator=torch.Generator().manual_seed(0), context=context).total

    nothing = total(None)
    torch.testing.assert_close(nothing, total(torch.zeros(3, 4)))
    asked = total(context_for(TWO, {"alpha": 60.0}, 3))
    assert not torch.allclose(nothing, asked)
    with pytest.raises(InvalidInput, match=r"shape \(3, 4\), got \(3, 2\)"):
        total(torch.zeros(3, 2))


def test_samples_follow_their_conditions_and_sizes_that_go_with_them(tmp_path):
    from molkit.edm.farm import sample_many

    folder = conditional_weights(tmp_path)
    options = {"seed": 1, "num_calls": 3}
    small = sample_many(folder, 6, conditions={"alpha": 62.0}, **options)
    large = sample_many(folder, 6, conditions={"alpha": 84.5}, **options)
    assert set(small.num_atoms) == {5} and set(large.num_atoms) == {9}
    fixed = [sample_many(folder, 2, num_atoms=5, conditions=c, **options) for c in ({"gap": 4.5}, {"gap": 7.5}, {})]
    assert not np.allclose(fixed[0].positions, fixed[1].positions)
    assert not np.allclose(fixed[0].positions, fixed[2].positions)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--condition", "alpha"], "NAME=VALUE"),
        (["--condition", "alpha=high"], "NAME=VALUE"),
        (["--condition", "mu=1"], "this model knows alpha, gap"),
        (["--condition", "alpha=200"], "outside 60"),
        (["--condition", "alpha=70.5"], "no size of molecule"),
        (["--condition", "gap=5", "--condition", "gap=6"], "names gap twice"),
    ],
)
def test_the_command_refuses_conditions_in_one_line(tmp_path, capsys, options, words):
    from molkit.cli import run

    folder = conditional_weights(tmp_path)
    assert run(["sample", str(folder), "--count", "2", "--calls", "3", "--out", str(tmp_path / "a.xyz"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "a.xyz").exists()


def test_a_model_without_properties_refuses_conditions(tmp_path, capsys):
    from molkit.cli import run

    assert run(["sample", "edm_qm9", "--condition", "alpha=80", "--out", str(tmp_path / "a.xyz")]) == 2
    assert "takes no conditions" in capsys.readouterr().err
