"""A headless Chromium that opens pages of the book: what it made of them, what it complained of, pictures."""

import functools
import http.server
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CONSOLE = re.compile(r'CONSOLE[^"]*"(?P<text>.*)", source: (?P<source>\S*)')
COMPLAINT = re.compile(r"Uncaught|Failed to load|Refused to|net::ERR|\bError\b|is not defined|MathJax:", re.IGNORECASE)
PAGE_SECONDS = 120.0
LOOKS = Path(__file__).with_name("looks.js")
WINDOWS = {"desktop": (1400, 1200), "phone": (390, 844)}  # pixels


def find_browser() -> str | None:
    """CHROMIUM, or the first Chromium on the path."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else BROWSERS
    return next((found for name in names if (found := shutil.which(name))), None)


def console_complaints(log: str) -> list[str]:
    """Errors among the console messages of a browser log."""
    messages = [match.group("text") for match in CONSOLE.finditer(log)]
    return [text[:200] for text in messages if COMPLAINT.search(text)]


def open_page(program: str, address: str, milliseconds: int, size: tuple[int, int]) -> tuple[str, str]:
    """DOM and log of a page after some virtual time, in a window of that size."""
    return _browse(program, address, size, f"--virtual-time-budget={milliseconds}", "--dump-dom")


def photograph(program: str, address: str, milliseconds: int, size: tuple[int, int], path: Path) -> str:
    """Write a PNG of a page after some virtual time, in a window of that size; what the browser logged."""
    return _browse(
        program, address, size, f"--virtual-time-budget={milliseconds}", "--hide-scrollbars", f"--screenshot={path}"
    )[1]


def _browse(program: str, address: str, size: tuple[int, int], *wanted: str) -> tuple[str, str]:
    """Standard output and log of a browser with a fresh profile, which cannot reach any other host."""
    with tempfile.TemporaryDirectory(prefix="molkit-browser-") as profile:
        options = [
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking",
            "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0",
            "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader",
        ]
        command = [program, *" ".join(options).split(), "--window-size={},{}".format(*size), *wanted]
        command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", address]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PAGE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return "", f'CONSOLE "Error: no answer in {PAGE_SECONDS:.0f} s", source: browser'
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@contextmanager
def serving(site: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on loopback; its address, and the list of paths that were asked for in vain."""
    missing: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Stay quiet."""

        def send_head(self) -> io.BytesIO | None:
            """A page that is asked for with `?looks` gets the script that measures it."""
            parts = urlsplit(self.path)
            page = site / unquote(parts.path).lstrip("/")
            if parts.query != "looks" or not page.is_file():
                return super().send_head()
            script = f"<script>{LOOKS.read_text(encoding='utf-8')}</script></head>"
            body = page.read_text(encoding="utf-8").replace("</head>", script, 1).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return io.BytesIO(body)

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """Note what is missing; /favicon.ico is asked for by browsers, not by pages."""
            path = urlsplit(self.path).path
            if path != "/favicon.ico":
                missing.append(path)
            with suppress(BrokenPipeError, ConnectionResetError):  # the browser has left
                super().send_error(code, message, explain)

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", missing
        finally:
            server.shutdown()
            thread.join()
