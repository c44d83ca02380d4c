"""Weights on disk: round trips, precision, bytes, and files that are not what they should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edm_toys import tiny_config, tiny_edm
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from molkit.edm.config import EdmConfig
from molkit.edm.model import Edm, build, load, save
from molkit.errors import DataNotFound, InvalidInput, RunError
from molkit.graphs import Graph
from molkit.training import weights


def outputs(edm: Edm) -> torch.Tensor:
    """Noise of one fixed molecule, everything in one vector."""
    generator = torch.Generator().manual_seed(0)
    graph = Graph.from_sizes(torch.tensor([9, 4]))
    features = torch.randn(13, edm.config.num_features, generator=generator)
    positions = graph.centre(torch.randn(13, 3, generator=generator))
    with torch.no_grad():
        parts = edm.network(features, positions, torch.full((13, 1), 0.4), graph.edge_index, graph.batch, 2)
    return torch.cat([part.flatten() for part in parts])


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_saving_and_loading_gives_the_same_model(tmp_path):
    edm = tiny_edm(sine_embedding=True, num_steps=30, elements=(1, 6, 8), sizes=((3, 2), (5, 1)))
    save(edm, tmp_path / "run")
    back = load(tmp_path / "run", fast=False)
    assert back.config == edm.config and back.name == "run"
    assert torch.equal(outputs(back), outputs(edm))
    assert torch.equal(back.log_snr, edm.log_snr)
    assert not back.network.training and not any(p.requires_grad for p in back.network.parameters())


def test_the_fast_network_gives_the_same_noise(tmp_path):
    save(tiny_edm(), tmp_path)
    torch.testing.assert_close(outputs(load(tmp_path)), outputs(load(tmp_path, fast=False)), rtol=0.0, atol=1e-5)


def test_half_precision_changes_the_noise_by_less_than_a_thousandth(tmp_path):
    edm = tiny_edm()
    save(edm, tmp_path / "full")
    save(edm, tmp_path / "half", half=True)
    plain, rounded = outputs(edm), outputs(load(tmp_path / "half", fast=False))
    assert 0.0 < (rounded - plain).norm() < 1e-3 * plain.norm()
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]


def test_the_same_model_always_gives_the_same_bytes(tmp_path):
    notes = {"zeta": 1, "alpha": [2, 3], "data": "QM9"}
    for name in ("a", "b"):
        save(tiny_edm(), tmp_path / name, half=True, metadata=dict(sorted(notes.items(), reverse=name == "b")))
    for file in ("weights.safetensors", "config.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with safe_open(tmp_path / "a" / "weights.safetensors", framework="pt") as handle:
        assert json.loads(handle.metadata()["molkit"]) == notes
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == ["config.yaml", "weights.safetensors"]


def test_weights_of_another_model_are_refused_in_one_line(tmp_path):
    save(tiny_edm(), tmp_path)
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("width: 16", "width: 32"))
    with pytest.raises(InvalidInput, match="weights of another model .* has shape .* the configuration needs") as error:
        load(tmp_path)
    assert str(tmp_path / "weights.safetensors") in one_line(error)
    (tmp_path / "config.yaml").write_text(config.replace("num_layers: 2", "num_layers: 3"))
    with pytest.raises(InvalidInput, match="weights of another model .*blocks.2"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text(config + "depth: 9\n")
    with pytest.raises(InvalidInput, match="config.yaml: unknown key 'depth'"):
        load(tmp_path)


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    save(tiny_edm(), tmp_path)
    path = tmp_path / "weights.safetensors"
    for kept in (path.read_bytes()[:-100], b"", b"not weights"):
        path.write_bytes(kept)
        with pytest.raises(InvalidInput, match="not a readable safetensors file") as error:
            load(tmp_path)
        assert str(path) in one_line(error)


def test_weights_that_are_not_finite_are_neither_loaded_nor_written(tmp_path):
    edm = tiny_edm()
    save(edm, tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    tensors["embed.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidInput, match="tensor embed.bias holds values that are not finite"):
        load(tmp_path)
    before = sorted((entry.name, entry.read_bytes()) for entry in tmp_path.iterdir())
    edm.network.embed.weight.data[0, 0] = 1e6  # beyond half precision
    with pytest.raises(InvalidInput, match="embed.weight is not finite in half precision"):
        save(edm, tmp_path, half=True)
    assert sorted((entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()) == before


def test_a_full_disk_leaves_the_old_weights(tmp_path, monkeypatch):
    save(tiny_edm(), tmp_path)
    before = sorted((entry.name, entry.read_bytes()) for entry in tmp_path.iterdir())

    write = Path.write_bytes

    def full(path, content):
        write(path, content[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    other = replace(tiny_edm(), network=build(tiny_config(), seed=9).network)
    with pytest.raises(RunError, match="cannot be written .*No space left on device.*last good files there are kept"):
        save(other, tmp_path)
    assert sorted((entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()) == before


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "WEIGHTS_ROOT", tmp_path)
    with pytest.raises(DataNotFound, match="edm_mars: no folder .* published weights: none"):
        load("edm_mars")
    for name in ("edm_qm9", "edm_geom"):
        save(tiny_edm(), tmp_path / name)
    with pytest.raises(DataNotFound, match="edm_mars: .* published weights: edm_geom, edm_qm9") as error:
        load("edm_mars")
    one_line(error)
    assert load("edm_qm9").name == "edm_qm9"


def test_sizes_are_drawn_from_the_training_histogram():
    """30,000 draws: the mean size is 18.03 with a standard error of 0.017; five of them."""
    edm = Edm(EdmConfig(), None, None)
    sizes = edm.draw_sizes(30_000, generator=torch.Generator().manual_seed(0))
    assert set(sizes.tolist()) <= {size for size, _ in EdmConfig().sizes}
    assert sizes.double().mean().item() == pytest.approx(18.03, abs=0.085)
    assert torch.equal(sizes[:5], edm.draw_sizes(30_000, generator=torch.Generator().manual_seed(0))[:5])
