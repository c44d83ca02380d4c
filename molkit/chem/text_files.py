"""What reading and writing molecule files share: bytes, text, error messages, writing in one step.

`-` in place of a path is standard input; content that is gzipped is unpacked, whatever its name.
"""

import codecs
import gzip
import io
import os
import sys
import tempfile
import zlib
from pathlib import Path

from molkit.errors import InvalidInput
from molkit.molecule import Molecule

Frame = Molecule | InvalidInput  # one molecule of a file, or what is wrong with it
STANDARD = Path("-")
MAX_UNPACKED_BYTES = 2**31  # of one gzipped file
MARKS = (  # byte-order marks; that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def shown(path: Path) -> str:
    """The path as messages name it."""
    return "standard input" if path == STANDARD else str(path)


def read_bytes(path: Path) -> bytes:
    """The content of a file or of standard input (`-`), unpacked if it is gzipped.

    Raises InvalidInput when it cannot be read, is damaged, or would unpack to more than 2 GiB.
    """
    try:
        content = sys.stdin.buffer.read() if path == STANDARD else Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {shown(path)}: {error.strerror}") from None
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{shown(path)}: a damaged gzip file ({error}); make it again") from None
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise InvalidInput(f"{shown(path)} would unpack to more than {MAX_UNPACKED_BYTES:,} bytes; split it")
    return unpacked


def decoded(content: bytes, path: Path, *, allow_empty: bool = False) -> str:
    """Text of a file: UTF-8, what carries the mark of UTF-16 or UTF-32, and Latin-1 where nothing else fits.

    Newlines come out as \\n. Raises InvalidInput for binary content, and for no text at all unless allowed.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8-sig":
            name = encoding.upper()
            raise InvalidInput(f"{shown(path)} begins as {name} text and is none further on; save as UTF-8") from None
        text = content.decode("latin-1")  # an old comment with an angstrom sign, a name with an umlaut
    if "\0" in text:
        hint = " (UTF-16 without its mark? save as UTF-8)" if content.count(b"\0") > len(content) // 3 else ""
        raise InvalidInput(f"{shown(path)}: expected a text file, got binary content{hint}")
    if not text.strip() and not allow_empty:
        raise InvalidInput(f"{shown(path)}: expected at least one molecule, got an empty file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path, *, allow_empty: bool = False) -> str:
    """`decoded` of `read_bytes`."""
    return decoded(read_bytes(path), path, allow_empty=allow_empty)


def line_error(path: Path, row: int, expected: str, came: str, hint: str) -> InvalidInput:
    """The error for a line (row counted from 0): what was expected, what came, and a hint."""
    short = came if len(came) <= 60 else came[:57] + "..."
    where = f"{shown(path)}, line {row + 1}"
    return InvalidInput(f"{where}: expected {expected}, got {short!r}{'; ' + hint if hint else ''}")


def is_packed(path: Path) -> bool:
    """Whether the name of a file asks for gzip."""
    return Path(path).suffix.lower() == ".gz"


def kind_of(path: Path) -> str:
    """The ending that tells a file's format, in lower case: `.xyz` for a.XYZ and for a.xyz.gz."""
    path = Path(path)
    return Path(path.stem if is_packed(path) else path.name).suffix.lower()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name in its folder and rename it, gzipped where its name ends in .gz.

    The same text gives the same bytes. Raises InvalidInput when that fails; what stood there before is then unchanged.
    """
    path = Path(path)
    content = text.encode("utf-8")
    content = gzip.compress(content, mtime=0) if is_packed(path) else content
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".writing", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise InvalidInput(f"cannot write {path}: {error.strerror}; choose a folder that exists and has room") from None
