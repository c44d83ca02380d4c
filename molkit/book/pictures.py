"""Pictures of every page, opened from the disk as a reader without a server would, for people to look at."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from molkit.book.browser import WINDOWS, console_complaints, find_browser, photograph
from molkit.book.check import BROWSERS_AT_ONCE, VIRTUAL_MILLISECONDS, is_redirect, pages_of
from molkit.errors import DataNotFound

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
