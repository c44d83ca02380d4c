"""What lies beside published weights, for every method: the card, the learning curve, the settings and the facts."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template

from molkit.training.files import write_text
from molkit.training.weights import copy_thinned

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
class Table:
    """Measured numbers for a card; the first column is a label."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write_card(
    folder: Path, title: str, facts: Sequence[str], *, tables: Sequence[Table] = (), limits: Sequence[str] = ()
) -> Path:
    """Write card.md into the folder, as Markdown; returns its path."""
    text = CARD.render(title=title, facts=facts, tables=tables, limits=limits)
    write_text(folder / "card.md", text)
    return folder / "card.md"


def keep_training(
    run: Path,
    folder: Path,
    facts: Mapping[str, object],
    *,
    settings: Sequence[str] = ("training.yaml", "provenance.jsonl"),
) -> None:
    """Beside the weights: the thinned learning curve, the settings and sessions of the run, and facts in JSON."""
    copy_thinned(run / "metrics.jsonl", folder / "metrics.jsonl")
    for name in settings:
        shutil.copyfile(run / name, folder / name)
    write_facts(folder, facts)


def write_facts(folder: Path, facts: Mapping[str, object]) -> None:
    """Write training.json."""
    write_text(folder / "training.json", json.dumps(dict(facts), indent=2) + "\n")
