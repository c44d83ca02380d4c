"""Runs become published weights, for every method: with learning curve, settings, facts, samples and a card."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import StrictUndefined, Template

from molkit.errors import DataNotFound, InvalidInput
from molkit.training.files import write_text
from molkit.training.weights import WEIGHTS_ROOT, copy_thinned, folder_to_publish

MAX_FILE_BYTES = 15 * 2**20
CARD = Template(
    """\
# {{ title }}
{% for fact in facts %}
- {{ fact }}
{%- endfor %}
{% for table in tables %}
## {{ table.title }}

| {{ table.head | join(" | ") }} |
|{{ "---|" * (table.head | length) }}
{%- for row in table.rows %}
| {{ row | join(" | ") }} |
{%- endfor %}
{% if table.note %}
{{ table.note }}
{% endif %}{% endfor %}{% if limits %}
## Known limits
{% for limit in limits %}
- {{ limit }}
{%- endfor %}
{% endif %}""",
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class CardTable:
    """Measured numbers for a card; the first column is a label."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write_card(
    folder: Path, title: str, facts: Sequence[str], *, tables: Sequence[CardTable] = (), limits: Sequence[str] = ()
) -> Path:
    """Write card.md into the folder, as Markdown; returns its path."""
    text = CARD.render(title=title, facts=facts, tables=tables, limits=limits)
    write_text(folder / "card.md", text)
    return folder / "card.md"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a method says of one of its runs: how its weights are saved, its facts, its card where anything is told."""

    run: Path
    save: Callable[[Path], object]  # writes configuration and weights into a folder
    facts: Mapping[str, object] = field(default_factory=dict)  # training.json
    subject: str = ""  # after the name, at the head of the card
    told: Sequence[str] = ()
    limits: Sequence[str] = ()
    kept: Sequence[str] = ("metrics.jsonl", "training.yaml", "provenance.jsonl")  # files of the run


def publish(about: Publication, name: str, *, samples: Path | None = None, root: Path = WEIGHTS_ROOT) -> Path:
    """Write the weights of a run to root/name with its learning curve, settings, facts, samples and card; the folder.

    Raises DataNotFound where the samples are absent, InvalidInput for a name with a separator, weights that are not
    finite in half precision, or a file above 15 MiB.
    """
    folder = folder_to_publish(name, root)
    if samples is not None and not samples.is_file():
        raise DataNotFound(f"{samples}: no such file")
    about.save(folder)
    for file in about.kept:
        if file != "metrics.jsonl":
            shutil.copyfile(about.run / file, folder / file)
        elif (about.run / file).is_file():  # a run of a few steps has logged nothing
            copy_thinned(about.run / file, folder / file)
    if about.facts:
        write_text(folder / "training.json", json.dumps(dict(about.facts), indent=2) + "\n")
    if samples is not None:
        shutil.copyfile(samples, folder / "samples.npz")
    if about.told:
        title = f"{name}: {about.subject}" if about.subject else name
        write_card(folder, title, about.told, limits=about.limits)
    for path in folder.iterdir():
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path}: {path.stat().st_size} bytes, above the 15 MiB a published file may have")
    return folder
