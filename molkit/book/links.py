"""A Sphinx extension: numbers of the ledger in prose, links to their rows, words of the glossary, and previews.

In a page `{claim}` with the id of a claim is our result, linked to its row of the ledger; a second word chooses
another fact: `published`, `value`, `n`, `verdict` or `label`. They come from `claims.json`, which `molkit.book.stage`
lays beside the pages.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from bs4 import Tag

FACTS = "claims.json"
PREVIEWS = "previews.js"
LONGEST = 420  # characters of a preview
PROSE = ("chapters/", "studies/", "intro", "howto")  # pages whose words are linked to the glossary
PLAIN = (nodes.reference, nodes.literal, nodes.title, nodes.caption, nodes.raw)  # whose words are not
ROW = re.compile(r'<tr data-claim="(?P<id>[^"]+)"><td(?P<style>[^>]*)>(?P<label>[^<]*)')
STATIC = re.compile(r"_static/|_sources/|vendor/|genindex|search|py-modindex")


@lru_cache(maxsize=1)
def _facts(folder: str) -> dict[str, dict[str, str]]:
    path = Path(folder) / FACTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def address(page: str, claim: str) -> str:
    """The row of a claim as a page of that name (`studies/edm`) calls it."""
    return f"{'../' * page.count('/')}ledger.html#{claim}"


def claim_role(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """docutils' entry point of the role `{claim}`; an unknown claim or fact is an error of the page."""
    environment = inliner.document.settings.env
    claim, _, fact = text.partition(" ")
    known = _facts(str(environment.srcdir)).get(claim, {})
    if (fact or "ours") not in known:
        problem = inliner.reporter.error(f"the ledger has no {text!r}", line=line)
        return [inliner.problematic(raw, raw, problem)], [problem]
    shown = known[fact or "ours"]
    link = nodes.reference(raw, shown, refuri=address(environment.docname, claim), classes=["molkit-claim"])
    return [link], []


def link_words(app: Any, doctree: nodes.document, docname: str) -> None:
    """Sphinx's hook: the first time a page uses a word of the glossary, it links there."""
    words = {} if not docname.startswith(PROSE) else _glossary(app)
    if not words:
        return
    pattern = re.compile(rf"\b({'|'.join(_spellings(word) for word in sorted(words, key=len, reverse=True))})(?=s?\b)")
    seen: set[str] = set()
    for paragraph in doctree.findall(nodes.paragraph):
        for text in [node for node in paragraph.findall(nodes.Text) if not isinstance(node.parent, PLAIN)]:
            found = []
            for match in pattern.finditer(str(text)):
                word = next(one for one in words if one.lower() == match[1].lower())
                if words[word] not in seen:
                    seen.add(words[word])
                    found.append((match.span(1), f"{'../' * docname.count('/')}{words[word]}"))
            if found:
                text.parent.replace(text, _linked(str(text), found))


def _glossary(app: Any) -> dict[str, str]:
    """Address by word of the glossary."""
    found = app.env.get_domain("std").get_objects()
    return {name: f"{page}.html#{anchor}" for name, _, kind, page, anchor, _ in found if kind == "term"}


def _spellings(word: str) -> str:
    """A pattern for a word: an abbreviation as it is, another also with a small letter first."""
    if word[1:] != word[1:].lower():
        return re.escape(word)
    return f"[{word[0]}{word[0].lower()}]{re.escape(word[1:])}"


def _linked(text: str, found: list[tuple[tuple[int, int], str]]) -> list[nodes.Node]:
    parts: list[nodes.Node] = []
    place = 0
    for (start, end), target in found:
        link = nodes.reference("", text[start:end], refuri=target, classes=["molkit-word"])
        parts += [nodes.Text(text[place:start]), link]
        place = end
    return [*parts, nodes.Text(text[place:])]


def link_rows(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx's hook: rows of the ledger that a chapter shows link to the page of the whole ledger."""
    if "data-claim=" in context.get("body", ""):
        context["body"] = ROW.sub(lambda row: _row(row, page), context["body"])


def _row(found: re.Match[str], page: str) -> str:
    link = f'<a class="molkit-claim" href="{address(page, found["id"])}">{found["label"]}</a>'
    return f"<tr><td{found['style']}>{link}"


def write_previews(app: Any, error: Exception | None) -> None:
    """Sphinx's hook: what links to references, words, claims and pages show on hover, as one script."""
    if error is None and app.builder.format == "html":
        found = previews(Path(app.outdir))
        text = f"window.molkitPreviews = {json.dumps(found, ensure_ascii=False, sort_keys=True)};\n"
        (Path(app.outdir) / "_static" / PREVIEWS).write_text(text, encoding="utf-8")


def previews(site: Path) -> dict[str, dict[str, str]]:
    """Title, text and picture by address below `site`, for what a link may point to."""
    from bs4 import BeautifulSoup

    found = {}
    for path in sorted(site.rglob("*.html")):
        page = path.relative_to(site).as_posix()
        if STATIC.match(page):
            continue
        article = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find("article")
        if article is None:
            continue
        found |= {page: _opening(article, page)}
        for target in article.select("div.citation[id], dl.glossary dt[id], tr[id]"):
            found[f"{page}#{target['id']}"] = _told(target)
    return found


def _opening(article: "Tag", page: str) -> dict[str, str]:
    """A page's title, its first paragraph and its first picture."""
    title, words, picture = article.find("h1"), article.find("p"), article.select_one(".cell_output img, figure img")
    shown = {"title": _text(title), "text": _text(words)}
    return shown | ({"picture": _below(page, str(picture["src"]))} if picture and picture.get("src") else {})


def _below(page: str, source: str) -> str:
    parts = [*page.split("/")[:-1], *source.split("/")]
    while ".." in parts[1:]:
        place = parts.index("..")
        del parts[place - 1 : place + 1]
    return "/".join(parts)


def _told(target: "Tag") -> dict[str, str]:
    if target.name == "dt":
        meaning = target.find_next_sibling("dd")
        return {"title": _text(target), "text": _text(meaning)}
    if target.name == "tr":
        label, published, ours, verdict, *_ = (cell.find_all(string=True) for cell in target.find_all("td"))
        name = label[0].strip() if label else ""
        facts = [" ".join(" ".join(part).split()) for part in (published, ours, verdict)]
        return {"title": name, "text": "published: {}; here: {}; {}".format(*facts)[:LONGEST]}
    return {"title": "", "text": _text(target)}


def _text(tag: "Tag | None") -> str:
    words = "" if tag is None else " ".join(tag.get_text(" ").split()).rstrip("#¶ ")
    return words if len(words) <= LONGEST else words[: LONGEST - 1].rsplit(" ", 1)[0] + " …"


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point of an extension."""
    app.add_role("claim", claim_role)
    app.connect("doctree-resolved", link_words)
    app.connect("html-page-context", link_rows)
    app.connect("build-finished", write_previews)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
