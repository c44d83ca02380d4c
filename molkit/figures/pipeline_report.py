"""The report of a pipeline: one HTML page that can be read without a network."""

import base64
import shutil
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from molkit.claims.ledger import REPOSITORY
from molkit.experiments.show import show
from molkit.figures.view3d import ONLINE_3DMOL
from molkit.pipeline.run import PipelineResult
from molkit.studies.capstone import from_noise as room
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
    settings, rows = result.settings, pd.DataFrame(room.rows_of(result))
    done = room.done(rows)
    yield "<h1>From noise to electrons</h1>"
    yield (
        f"<p>{escape(settings.generator)} draws molecules, {escape(settings.relaxer)} pre-relaxes them; "
        f"{escape(settings.flow)}"
        f"{' and ' + escape(settings.energy) if settings.energy else ''} give conformers; GFN2-xTB relaxes and ranks "
        f"them; {escape(settings.functional)}, inside its domain, and Kohn-Sham PBE give energy and density. "
        f"Seed {settings.seed}.</p>"
    )
    yield show(room.way(rows), room.WAY, f"{len(rows)} molecules, stage by stage.")._repr_html_()
    yield show(room.stops(rows), room.STOPS, "Where each molecule stopped, and why.")._repr_html_()
    if len(done):
        yield "<h2>Energies, stage by stage</h2>"
        told = "GFN2-xTB energies of every molecule above its lowest minimum, from drawing to conformers."
        yield _image(room.draw_ladder(rows), told)
        yield show(done, room.MINIMA, "Different GFN2-xTB minima.")._repr_html_()
        yield show(room.electrons(rows), room.ELECTRONS, "PBE/6-31G(2df,p) at the lowest minimum.")._repr_html_()
        if isinstance(planes := room.first_density(rows), Figure):
            yield "<h2>Density with and without orbitals</h2>"
            told = (
                "Contours of a molecule's electron density in a plane, with and without orbitals, and their difference."
            )
            yield _image(planes, told)
        yield "<h2>Molecules</h2>"
        yield room.views(rows, count=SHOWN).data
        if len(done) > SHOWN:
            yield f"<p>{len(done) - SHOWN} more are in lowest.sdf.</p>"


def _image(figure: Figure, description: str) -> str:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=140, bbox_inches="tight")
    text = base64.b64encode(content.getvalue()).decode()
    return f'<figure><img alt="{escape(description)}" src="data:image/png;base64,{text}"></figure>'
