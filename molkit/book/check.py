"""Check rendered pages: nothing comes from outside, nothing is missing, and a browser draws what it should."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from molkit.book.browser import WINDOWS, console_complaints, find_browser, open_page, photograph, serving
from molkit.errors import DataNotFound, InvalidInput

LOADING = {  # tag -> attributes whose address the browser fetches by itself
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
LOADING_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)['"]""")
SCRIPT_ADDRESS = re.compile(r"""['"]((?:https?:)?//[^'"\s]+\.(?:m?js|css|woff2?|ttf|json|png|svg|gif|jpg|wasm))['"]""")
VIEW = re.compile(r'id="(3dmolviewer_\w+)"')
BROWSERS_AT_ONCE = 2
HEAVIEST_MIB = 3.0  # a page with what it loads, the scripts of viewers and theme left out
SHARED = ("_static", "vendor")
LOOKS_ANSWER = re.compile(r'<html[^>]* data-looks="([^"]*)"')
VIRTUAL_MILLISECONDS = (8_000, 30_000)  # the second is for a page that was not ready in time


@dataclass
class PageContent(HTMLParser):
    """What one page loads, and what it ought to show."""

    addresses: list[str] = field(default_factory=list)
    equations: int = 0
    without_text: list[str] = field(default_factory=list)  # images that say nothing to those who cannot see them

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect the addresses of one tag."""
        found = {name: value or "" for name, value in attributes}
        for name in LOADING.get(tag, ()):
            values = found.get(name, "").split(",") if name == "srcset" else [found.get(name, "")]
            self.addresses += [value.split()[0] for value in values if value.strip()]
        if tag == "link" and set(found.get("rel", "").lower().split()) & LOADING_RELATIONS:
            self.addresses.append(found.get("href", ""))
        if tag == "img" and "alt" not in found:
            self.without_text.append(found.get("src", "")[:60])
        self.addresses += css_addresses(found.get("style", ""))
        self.equations += "math" in found.get("class", "").split()
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        """Leave a script or a style sheet."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Addresses inside a style sheet or a script of the page."""
        if self._inside == "style":
            self.addresses += css_addresses(data)
        elif self._inside == "script":
            self.addresses += SCRIPT_ADDRESS.findall(data)


def page_content(html: str) -> PageContent:
    """Parse one page."""
    content = PageContent()
    content.feed(html)
    content.close()
    return content


def css_addresses(text: str) -> list[str]:
    """Addresses that a style sheet makes the browser fetch; embedded data left out."""
    found = [first or second for first, second in CSS_ADDRESS.findall(text)]
    return [address.strip() for address in found if not address.strip().startswith(("data:", "#"))]


def is_outside(address: str) -> bool:
    """Whether an address leaves the site: another scheme or host."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data", "about", "blob")


def check_files(site: Path) -> tuple[int, list[str]]:
    """Pages and style sheets of a rendered book: how many are sound, and what is wrong with the others."""
    sheets = sorted(site.rglob("*.css"))
    problems: list[str] = []
    passed = 0
    for path in [*pages_of(site), *sheets]:
        text = path.read_text(encoding="utf-8", errors="replace")
        content = page_content(text) if path.suffix == ".html" else None
        wrong = _wrong_addresses(site, path, css_addresses(text) if content is None else content.addresses)
        if content is not None:
            wrong += _wrong_content(site, path, content)
        problems += wrong
        passed += not wrong
    return passed, problems


def pages_of(site: Path) -> list[Path]:
    """HTML pages of the book itself. Raises InvalidInput when there is none."""
    vendor = {path for name in ("_static", "vendor") for path in (site / name).rglob("*.html")}
    pages = [path for path in sorted(site.rglob("*.html")) if path not in vendor]
    if not pages:
        raise InvalidInput(f"no pages in {site}: build the book first, with `make book`")
    return pages


def is_redirect(page: Path) -> bool:
    """Whether a page only sends the browser on to another."""
    return 'http-equiv="Refresh"' in page.read_text(encoding="utf-8")[:2000]


def check_pages(site: Path, *, browser: bool = True) -> tuple[int, list[str], list[str]]:
    """All checks: number passed, problems, and what was skipped and why."""
    passed, problems = check_files(site)
    if not browser:
        return passed, problems, []
    program = find_browser()
    if program is None:
        return passed, problems, ["browser checks: no Chromium found (name one with the variable CHROMIUM)"]
    names = [page.relative_to(site).as_posix() for page in pages_of(site) if not is_redirect(page)]
    views = [(name, window) for name in names for window in WINDOWS]
    with serving(site) as (address, missing), ThreadPoolExecutor(BROWSERS_AT_ONCE) as pool:

        def look(view: tuple[str, str]) -> list[str]:
            name, window = view
            html = (site / name).read_text(encoding="utf-8")
            return check_in_browser(program, f"{address}/{name}", html, WINDOWS[window])

        for (name, window), wrong in zip(views, pool.map(look, views), strict=True):
            problems += [f"{name}, {window}: {text}" for text in wrong]
            passed += not wrong
    problems += [f"the pages ask for {path}, which the site does not have" for path in sorted(set(missing))]
    return passed, problems, []


def check_in_browser(program: str, address: str, html: str, size: tuple[int, int]) -> list[str]:
    """Open one page in headless Chromium, in a window of that size.

    Looked for: a canvas for each 3D view, typeset equations, a quiet console, no scrolling sideways, legible text.
    """
    wrong: list[str] = []
    for milliseconds in VIRTUAL_MILLISECONDS:
        dom, console = open_page(program, f"{address}?looks", milliseconds, size)
        wrong = judge_page(html, dom, console)
        if not wrong:
            break
    return wrong


def judge_page(html: str, dom: str, console: str) -> list[str]:
    """What is wrong with a page, given its source, what the browser made of it, and what the browser logged."""
    views, canvases = len(set(VIEW.findall(html))), dom.count("<canvas")
    equations, typeset = page_content(html).equations, dom.count("<mjx-container")
    wrong = [f"console: {text}" for text in console_complaints(console)]
    if not dom.strip():
        wrong.append("the browser showed nothing")
    if canvases < views:
        wrong.append(f"{views} 3D views, but the browser drew {canvases}")
    if typeset < equations:
        wrong.append(f"{equations} equations, but the browser typeset {typeset}")
    answer = LOOKS_ANSWER.search(dom)
    return wrong + (json.loads(unescape(answer.group(1))) if answer else ["the browser did not say how it looks"])


def _wrong_content(site: Path, path: Path, content: PageContent) -> list[str]:
    """Images without a text, and a page that is too heavy."""
    name = path.relative_to(site).as_posix()
    wrong = [f"{name}: the image {address} has no alternative text" for address in content.without_text]
    files = {(path.parent / unquote(urlsplit(address).path)).resolve() for address in content.addresses}
    own = [file for file in files if file.is_file() and not set(file.relative_to(site.resolve()).parts) & set(SHARED)]
    weight = sum(file.stat().st_size for file in {path.resolve(), *own}) / 2**20
    return wrong + ([f"{name}: weighs {weight:.1f} MiB"] if weight > HEAVIEST_MIB else [])


def _wrong_addresses(site: Path, path: Path, addresses: list[str]) -> list[str]:
    name = path.relative_to(site).as_posix()
    wrong = []
    for address in dict.fromkeys(addresses):
        if is_outside(address):
            wrong.append(f"{name} loads {address} from outside")
        elif (local := unquote(urlsplit(address).path)) and urlsplit(address).scheme == "":
            target = site / local.lstrip("/") if local.startswith("/") else path.parent / local
            if not target.exists():
                wrong.append(f"{name} loads {local}, which the site does not have")
    return wrong


TALLEST = {"desktop": 9_000, "phone": 14_000}  # pixels; a longer page is cut there
EMPTIEST = 100  # equal rows that are kept one after another


def take_pictures(site: Path, folder: Path, *, tallest: dict[str, int] = TALLEST) -> tuple[list[Path], list[str]]:
    """One PNG a page and window under `folder`; the files, and what the browser complained of.

    Raises DataNotFound where no Chromium is found, InvalidInput where the folder holds no page.
    """
    pages = [page for page in pages_of(site) if not is_redirect(page)]
    program = find_browser()
    if program is None:
        raise DataNotFound("no Chromium found: install one, or name it with the variable CHROMIUM")
    views = [(page, window) for page in pages for window in WINDOWS]

    def picture(view: tuple[Path, str]) -> tuple[Path, list[str]]:
        page, window = view
        name = page.relative_to(site).with_suffix("").as_posix().replace("/", "__")
        path = (folder / f"{name}__{window}.png").resolve()
        size = (WINDOWS[window][0], tallest[window])
        log = photograph(program, page.resolve().as_uri(), VIRTUAL_MILLISECONDS[0], size, path)
        wrong = console_complaints(log)
        if not path.is_file():
            return path, [f"{name}, {window}: the browser made no picture", *wrong]
        trim(path)
        return path, [f"{name}, {window}: {text}" for text in wrong]

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(BROWSERS_AT_ONCE) as pool:
        taken = list(pool.map(picture, views))
    return [path for path, _ in taken if path.is_file()], [text for _, wrong in taken for text in wrong]


def trim(path: Path) -> None:
    """Shorten every run of equal rows of a PNG, such as the emptiness above the foot of a short page."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    fresh = np.append(True, (pixels[1:] != pixels[:-1]).any(axis=(1, 2)))
    since = np.arange(len(pixels)) - np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    Image.fromarray(pixels[since < EMPTIEST]).save(path)
