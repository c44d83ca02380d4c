"""Bring one published file over the network: resumed where it stopped, checked before it counts, complete or not there.

Only `molkit data fetch` comes here. A download grows in `<name>.part` and gets its name after size and checksums agree.
"""

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from molkit.errors import ChecksumMismatch, InvalidInput, NetworkUnavailable

CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A published file: its addresses (tried in turn), size, and the checksums its publisher or its users state."""

    name: str
    urls: tuple[str, ...]
    num_bytes: int
    md5: str
    sha256: str | None = None  # None where no independent statement of it was found

    def mirrored(self, base_urls: Sequence[str]) -> "RemoteFile":
        """The same file under its name in other folders of the web; no base means the published addresses."""
        for base in base_urls:
            if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
                raise InvalidInput(f"a base address must begin with http:// or https://, got {base!r}")
        urls = tuple(f"{base.rstrip('/')}/{self.name}" for base in base_urls) or self.urls
        return RemoteFile(name=self.name, urls=urls, num_bytes=self.num_bytes, md5=self.md5, sha256=self.sha256)


def download(
    file: RemoteFile,
    folder: Path,
    *,
    on_bytes: Callable[[int, int], None] | None = None,
    attempts: int = 3,
    timeout_seconds: float = 30.0,
) -> Path:
    """Put the file in the folder and return its path; a file that is there already is only checked.

    `on_bytes(done, total)` is called as bytes arrive. A connection that breaks is taken up again where it stopped, up
    to `attempts` times an address.

    Raises NetworkUnavailable when no address gives all bytes (what came stays in `<name>.part` for the next call),
    ChecksumMismatch when the bytes are complete but other ones (the part is removed), InvalidInput when the folder
    cannot be written.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.exists():
        check(target, file, advice="delete it, then fetch again")
        return target
    problems: list[str] = []
    for url in file.urls:
        for _ in range(attempts):
            try:
                _continue_part(url, part, file.num_bytes, on_bytes, timeout_seconds)
                return _accept(part, target, file)
            except _Broken as error:
                problems.append(f"{url}: {error}")
            except _Refused as error:
                problems.append(f"{url}: {error}")
                break
    raise NetworkUnavailable(_failure(file, part, problems))


class _Broken(Exception):
    """The connection ended early: the same address is worth another try."""


class _Refused(Exception):
    """The address does not give the file."""


def check(path: Path, file: RemoteFile, *, advice: str) -> None:
    """Compare size and every known checksum; ChecksumMismatch names what was expected and what was found."""
    size = path.stat().st_size
    if size != file.num_bytes:
        raise ChecksumMismatch(f"{path}: expected {file.num_bytes:,} bytes, found {size:,}; {advice}")
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        if expected is None:
            continue
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if found != expected:
            raise ChecksumMismatch(f"{path}: expected {kind} {expected}, found {found}; {advice}")


def _accept(part: Path, target: Path, file: RemoteFile) -> Path:
    """Check a complete part and give it its name; a wrong one is removed, it would never become right."""
    try:
        check(part, file, advice="these are not the published bytes; nothing was kept, try another --base-url")
    except ChecksumMismatch:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def _make_folder(folder: Path) -> None:
    """Create the folder; InvalidInput when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {folder} ({error.strerror}): choose another folder with --out") from error
    if not os.access(folder, os.W_OK):
        raise InvalidInput(f"cannot write to {folder}: choose another folder with --out")


def _continue_part(
    url: str, part: Path, total: int, on_bytes: Callable[[int, int], None] | None, timeout_seconds: float
) -> None:
    """Ask one address for the bytes that are missing and append them; _Broken or _Refused when not all came."""
    done = part.stat().st_size if part.exists() else 0
    if done > total:
        part.unlink()
        done = 0
    if done == total:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "molkit", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
            start = _start_of_body(response, done, total)
            reached = _append(response, part, start, total, on_bytes)
    except urllib.error.HTTPError as error:
        raise _Refused(f"HTTP status {error.code} ({error.reason})") from error
    except urllib.error.URLError as error:
        raise _Refused(f"no connection ({error.reason})") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Broken(f"the connection broke ({error or type(error).__name__})") from error
    if reached < total:
        raise _Broken(f"the connection ended after {reached:,} of {total:,} bytes")


def _start_of_body(response: http.client.HTTPResponse, asked: int, total: int) -> int:
    """The place in the file where the body begins: `asked` if the server resumes, 0 if it sends the whole file."""
    resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {asked}-")
    if not resumed and response.status != 200:
        raise _Refused(f"expected the file, got HTTP status {response.status}")
    start = asked if resumed else 0
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != total - start:
        raise _Refused(f"expected a file of {total:,} bytes, the server offers {start + int(announced):,}")
    return start


def _append(
    response: http.client.HTTPResponse,
    part: Path,
    done: int,
    total: int,
    on_bytes: Callable[[int, int], None] | None,
) -> int:
    """Write the body behind the first `done` bytes of the part, never beyond `total`; return the length reached."""
    _make_folder(part.parent)
    try:
        stream = open(part, "r+b" if done else "wb")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise InvalidInput(f"cannot write {part} ({error.strerror}): choose another folder with --out") from error
    with stream:
        stream.seek(done)
        while done < total and (chunk := response.read(min(CHUNK_BYTES, total - done))):
            _write(stream, chunk, part)
            done += len(chunk)
            if on_bytes is not None:
                on_bytes(done, total)
    return done


def _write(stream: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write, and say plainly when the disk refuses (full, or taken away)."""
    try:
        stream.write(chunk)
        stream.flush()
    except OSError as error:
        raise InvalidInput(f"cannot write {part} ({error.strerror}): free some space and fetch again") from error


def _failure(file: RemoteFile, part: Path, problems: Sequence[str]) -> str:
    """One line: what was wanted, what happened at each address, what is on disk, what to do."""
    kept = part.stat().st_size if part.exists() else 0
    if kept:
        rest = f"{kept:,} of {file.num_bytes:,} bytes are kept in {part}; run the command again to continue"
    else:
        rest = f"nothing was written; check the network, or put the file there yourself: {part.with_suffix('')}"
    return f"could not fetch {file.name}: {'; '.join(dict.fromkeys(problems))}. {rest}"
