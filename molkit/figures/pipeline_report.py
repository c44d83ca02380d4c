"""The report of a pipeline: one HTML page that can be read without a network."""

import base64
import shutil
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from molkit.claims.ledger import REPOSITORY
from molkit.figures.pipeline import (
    density_planes,
    electrons_table,
    energy_ladder,
    journey_views,
    minima_table,
    reasons_table,
    stage_table,
)
from molkit.figures.view3d import ONLINE_3DMOL
from molkit.pipeline.journey import LOWEST
from molkit.pipeline.run import PipelineResult
from molkit.training.files import write_text

VIEWER = REPOSITORY / "assets" / "vendor" / "3Dmol-min.js"
SHOWN = 12  # molecules in three dimensions
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#ffffff;--line:#c9d0d6}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecef;--paper:#15191d;--line:#4a545d}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.92rem}
th,td{border-bottom:1px solid var(--line);padding:.3rem .7rem;text-align:right;white-space:pre-line}
th[scope=row],thead th:first-child{text-align:left}
figure{margin:1rem 0;overflow-x:auto}td.words{white-space:normal;text-align:left}
img{max-width:100%;background:#fff}figcaption{font-size:.86rem}
"""


def write_report(result: PipelineResult, folder: Path) -> Path:
    """report.html in the folder, with the viewer's script beside it where this installation has it; its path."""
    address = ONLINE_3DMOL
    if VIEWER.is_file():
        shutil.copyfile(VIEWER, folder / VIEWER.name)
        address = VIEWER.name
    body = "\n".join(_parts(result)).replace(ONLINE_3DMOL, address)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>From noise to electrons</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _parts(result: PipelineResult) -> Iterator[str]:
    settings, journeys = result.settings, result.journeys
    done = [journey for journey in journeys if LOWEST in journey.structures]
    both = [journey for journey in done if len(journey.densities) == 2]
    yield "<h1>From noise to electrons</h1>"
    yield (
        f"<p>{escape(settings.generator)} draws molecules and pre-relaxes them; {escape(settings.flow)}"
        f"{' and ' + escape(settings.energy) if settings.energy else ''} give conformers; GFN2-xTB relaxes and ranks "
        f"them; {escape(settings.functional)}, inside its domain, and Kohn-Sham PBE give energy and density. "
        f"Seed {settings.seed}.</p>"
    )
    yield stage_table(result).data
    yield reasons_table(journeys).data
    if done:
        yield "<h2>Energies, stage by stage</h2>"
        yield _image(energy_ladder(journeys), "GFN2-xTB energies above the lowest minimum for every stage")
        yield minima_table(journeys).data
        yield electrons_table(journeys).data
    if both:
        yield "<h2>Density with and without orbitals</h2>"
        yield _image(density_planes(both[0]), f"Densities of {both[0].smiles} in a plane")
    if done:
        yield "<h2>Molecules</h2>"
        yield journey_views(done, count=SHOWN).data
        if len(done) > SHOWN:
            yield f"<p>{len(done) - SHOWN} more are in lowest.sdf.</p>"


def _image(figure: Figure, description: str) -> str:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=140, bbox_inches="tight")
    text = base64.b64encode(content.getvalue()).decode()
    return f'<figure><img alt="{escape(description)}" src="data:image/png;base64,{text}"></figure>'
