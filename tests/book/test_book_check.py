"""The checks of rendered pages: what is parsed, what counts as outside, and how the browser's answer is judged."""

import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from molkit.book.browser import WINDOWS, console_complaints, find_browser, serving
from molkit.book.check import (
    EMPTIEST,
    check_files,
    check_in_browser,
    check_pages,
    css_addresses,
    is_outside,
    judge_page,
    page_content,
    take_pictures,
    trim,
)
from molkit.cli import run as molkit
from molkit.errors import DataNotFound, InvalidInput

FINE = '<html lang="en" data-looks="[]">'


def site_with(tmp_path, body, css=""):
    (tmp_path / "style.css").write_text(css)
    (tmp_path / "here.js").write_text("")
    (tmp_path / "index.html").write_text(f"<html><body>{body}</body></html>")
    return tmp_path


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<img alt="" src="http://example.org/a.png">',
        '<img alt="" srcset="here.js 1x, https://example.org/b.png 2x">',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<iframe src="https://example.org"></iframe>',
        "<div style=\"background: url('https://example.org/a.png')\"></div>",
        "<style>@import 'https://example.org/a.css';</style>",
        "<script>load('https://cdn.example.org/lib/3Dmol-min.js')</script>",
    ],
)
def test_whatever_a_page_loads_from_outside_is_found(tmp_path, body):
    _, problems = check_files(site_with(tmp_path, body))
    assert len(problems) == 1 and "index.html loads" in problems[0] and "from outside" in problems[0]


def test_links_and_local_files_are_fine_and_missing_ones_are_not(tmp_path):
    body = '<a href="https://example.org">away</a><script src="here.js?v=1"></script><link rel="canonical" href="https://x.org">'
    assert check_files(site_with(tmp_path, body)) == (2, [])
    _, problems = check_files(site_with(tmp_path, '<img alt="" src="absent.png">'))
    assert problems == ["index.html loads absent.png, which the site does not have"]


def test_style_sheets_are_read(tmp_path):
    _, problems = check_files(site_with(tmp_path, "", css="a { src: url(https://example.org/f.woff2) }"))
    assert problems == ["style.css loads https://example.org/f.woff2 from outside"]
    assert css_addresses("a{b:url(data:font/woff2;base64,AA)} c{d:url( 'x.png' )} @import \"y.css\";") == [
        "x.png",
        "y.css",
    ]


def test_outside_is_another_host_or_scheme():
    assert [is_outside(a) for a in ("a/b.js", "/a.js", "#x", "data:image/png;base64,AA", "")] == [False] * 5
    assert [is_outside(a) for a in ("https://a.org/b.js", "//a.org/b.js", "ftp://a.org", "file:///etc")] == [True] * 4


def test_a_page_is_judged_by_what_the_browser_drew():
    html = '<div id="3dmolviewer_12"></div><span class="math notranslate">x</span>'
    assert judge_page(html, f"{FINE}<canvas></canvas><mjx-container>", "") == []
    assert judge_page(html, FINE, "") == [
        "1 3D views, but the browser drew 0",
        "1 equations, but the browser typeset 0",
    ]
    assert judge_page("<p>", "", "")[0] == "the browser showed nothing"
    assert judge_page("<p>", "<html>", "") == ["the browser did not say how it looks"]
    told = '<html data-looks="[&quot;wider than the window by 9 pixels&quot;]">'
    assert judge_page("<p>", told, "") == ["wider than the window by 9 pixels"]
    assert page_content(html).equations == 1


def test_errors_of_the_console_are_found_and_chatter_is_not():
    log = (
        '[1:2:INFO:CONSOLE(3)] "Uncaught SyntaxError: no", source: http://127.0.0.1/a.html (3)\n'
        '[1:2:INFO:CONSOLE(0)] "Failed to load resource: net::ERR_NAME_NOT_RESOLVED", source: https://a.org (0)\n'
        '[1:2:INFO:CONSOLE(9)] "[.WebGL-0x1] GL Driver Message: GPU stall due to ReadPixels", source: x (9)\n'
        "[1:2:ERROR:bus.cc(407)] Failed to connect to the bus\n"
    )
    assert console_complaints(log) == [
        "Uncaught SyntaxError: no",
        "Failed to load resource: net::ERR_NAME_NOT_RESOLVED",
    ]


def test_the_server_notes_what_is_missing(tmp_path):
    with serving(site_with(tmp_path, "")) as (address, missing):
        assert urllib.request.urlopen(f"{address}/index.html", timeout=10).status == 200
        for path in ("absent.js", "favicon.ico"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{address}/{path}", timeout=10)
    assert missing == ["/absent.js"]


def test_without_a_browser_the_skip_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    passed, problems, skipped = check_pages(site_with(tmp_path, ""))
    assert passed == 2 and problems == [] and "no Chromium found" in skipped[0]


def test_the_command_counts_and_fails_with_a_line(tmp_path, capsys):
    site = tmp_path / "_build" / "html"
    site.mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    site_with(site, '<img alt="" src="https://example.org/a.png">')
    assert molkit(["book", "check", "--no-browser", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "1 passed, 1 failed" in printed.out and "failed: index.html loads" in printed.err


def test_a_book_that_was_not_built_is_said(tmp_path):
    with pytest.raises(InvalidInput, match="build the book first"):
        check_pages(tmp_path)


def test_images_need_words_and_pages_must_not_be_heavy(tmp_path):
    site = site_with(tmp_path, '<img src="picture.png">')
    (site / "picture.png").write_bytes(bytes(4 * 2**20))
    _, problems = check_files(site)
    assert problems == ["index.html: the image picture.png has no alternative text", "index.html: weighs 4.0 MiB"]
    (site / "vendor").mkdir()
    (site / "vendor" / "viewer.js").write_bytes(bytes(4 * 2**20))
    assert check_files(site_with(tmp_path, '<script src="vendor/viewer.js"></script>'))[1] == []


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_a_browser_finds_what_is_too_wide_or_too_faint(tmp_path):
    good = "<!doctype html><html><head></head><body><p>black on white</p></body></html>"
    bad = good.replace("<p>", '<p style="width: 2000px; color: #aaaaaa">')
    found = {}
    for name, html in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.html").write_text(html)
        with serving(tmp_path) as (address, _):
            found[name] = check_in_browser(find_browser(), f"{address}/{name}.html", html, WINDOWS["phone"])
    assert found["good"] == []
    assert "wider than the window" in found["bad"][0] and "contrast 2.3" in found["bad"][1]


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_pictures_are_taken_of_both_windows_without_their_emptiness(tmp_path, capsys):
    site = tmp_path / "_build" / "html"
    site.mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (site / "index.html").write_text(
        "<html><body><p>Text</p><script>console.error('Error: wrong')</script></body></html>"
    )
    taken, problems = take_pictures(site, tmp_path / "out", tallest={"desktop": 600, "phone": 700})
    assert [path.name for path in taken] == ["index__desktop.png", "index__phone.png"]
    sizes = [Image.open(path).size for path in taken]
    assert [width for width, _ in sizes] == [1400, 390] and all(height < 300 for _, height in sizes)
    assert problems == ["index, desktop: Error: wrong", "index, phone: Error: wrong"]


def test_rows_that_repeat_are_shortened_and_others_kept(tmp_path):
    rows = np.arange(300) // 150  # two blocks of equal rows
    shades = np.repeat(rows[:, None, None], 3, axis=2).repeat(4, axis=1).astype(np.uint8) * 200
    Image.fromarray(shades).save(tmp_path / "a.png")
    trim(tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert len(pixels) == 2 * EMPTIEST and pixels[EMPTIEST - 1, 0, 0] == 0 and pixels[EMPTIEST, 0, 0] == 200


def test_pictures_without_a_browser_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    (tmp_path / "index.html").write_text("<html></html>")
    with pytest.raises(DataNotFound, match="no Chromium found"):
        take_pictures(tmp_path, tmp_path / "out")
