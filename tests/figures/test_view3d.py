"""3D views: where the script comes from, the words beside the picture, and equal HTML for equal views."""

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.figures.view3d import facing, script_address, show_grid, show_molecule, show_trajectory, xyz_text
from molkit.molecule import Molecule

WATER = Molecule(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]))


def test_the_script_is_the_books_own_copy_inside_the_book(monkeypatch):
    monkeypatch.setenv("MOLKIT_3DMOL_JS", "../../vendor/3Dmol-min.js")
    html = show_molecule(WATER, caption="Water").data
    assert "'../../vendor/3Dmol-min.js'" in html and "https://" not in html
    monkeypatch.delenv("MOLKIT_3DMOL_JS")
    assert script_address().startswith("https://") and script_address() in show_molecule(WATER, caption="Water").data


def test_a_view_carries_a_caption_and_a_text_alternative():
    html = show_molecule(WATER, caption="Water & ice <3").data
    assert "<figcaption>Water &amp; ice &lt;3</figcaption>" in html
    assert 'role="img" aria-label="Water &amp; ice &lt;3 3D view of H2O."' in html


def test_equal_views_give_equal_html_and_different_ones_different_names():
    assert show_molecule(WATER, caption="a").data == show_molecule(WATER, caption="a").data
    other = Molecule(np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]]))
    first, second = (html.data.split('id="3dmolviewer_')[1][:16] for html in (
        show_molecule(WATER, caption="a"),
        show_molecule(other, caption="a"),
    ))  # fmt: skip
    assert first != second


def test_a_grid_holds_every_molecule():
    html = show_grid([WATER] * 5, caption="Five", columns=3).data
    assert html.count("addModel(") == 5 and "rows: 2, cols: 3" in html
    with pytest.raises(InvalidInput, match="a grid needs molecules"):
        show_grid([], caption="none")


def test_a_film_shows_its_frames_and_rests_on_the_last():
    frames = [WATER.positions * scale for scale in (3.0, 2.0, 1.0)]
    html = show_trajectory(frames, WATER.atomic_numbers, caption="From noise", hold=2).data
    assert "addModelsAsFrames" in html and html.count("H2O") == 3 + 2 + 1  # frames, rests, text alternative
    assert '"reps": 1' in html
    with pytest.raises(InvalidInput, match="a film needs frames of shape"):
        show_trajectory([], WATER.atomic_numbers, caption="none")


def test_turning_a_molecule_to_the_reader_keeps_its_shape_and_hand():
    generator = np.random.default_rng(0)
    molecule = Molecule(np.full(6, 6), generator.normal(size=(6, 3)))
    turned = facing(molecule)
    volume = lambda m: np.linalg.det(m.positions[1:4] - m.positions[0])  # noqa: E731
    assert volume(turned) == pytest.approx(volume(molecule))
    spread = turned.positions.var(axis=0)
    assert spread[0] >= spread[1] >= spread[2]


def test_the_text_of_a_molecule_is_xyz():
    assert xyz_text(WATER).splitlines() == [
        "3", "H2O", "O 0.000 0.000 0.120", "H 0.000 0.760 -0.480", "H 0.000 -0.760 -0.480"
    ]  # fmt: skip
