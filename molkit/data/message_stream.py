"""A strict reader of MessagePack streams: plain values only, one object at a time, whatever the size of the file.

Read: nil, booleans, integers, floats, text, byte strings, arrays and maps with text keys. Extension types are refused.
An array of equal rows of four numbers (a table of atoms) comes back as a float64 array [n, 4] in one step, which
takes a file of some 50 GB from days to a few hours. Nothing is ever unpickled.
Source: the MessagePack specification, msgpack.org.
"""

import struct
from typing import BinaryIO

import numpy as np

from molkit.errors import InvalidInput

CHUNK = 1 << 20
MAX_TEXT = 1 << 20  # bytes of one string
MAX_TABLE = 1 << 24  # bytes of one table of atoms
MAX_DEPTH = 8
MAX_ROW = 37  # bytes of a row of four numbers
NUMBERS = {  # first byte -> (bytes after it, struct format)
    **{0xCA: (4, ">f"), 0xCB: (8, ">d"), 0xCC: (1, ">B"), 0xCD: (2, ">H"), 0xCE: (4, ">I"), 0xCF: (8, ">Q")},
    **{0xD0: (1, ">b"), 0xD1: (2, ">h"), 0xD2: (4, ">i"), 0xD3: (8, ">q")},
}
SIZED = {  # first byte -> (kind, bytes of the length)
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xD9: ("text", 1), 0xDA: ("text", 2)},
    **{0xDB: ("text", 4), 0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
ROW_KINDS = {0xCB: ">f8", 0xCA: ">f4"}  # numbers in a table; a byte below 0x80 is the number itself


class MessageReader:
    """Values of a stream, in order. Every complaint is an InvalidInput that begins with `label`."""

    def __init__(self, stream: BinaryIO, *, label: str) -> None:
        self.stream, self.label = stream, label
        self.buffer, self.position, self.offset = b"", 0, 0

    def ensure(self, count: int) -> bool:
        """Whether the next `count` bytes exist; they are then in the buffer."""
        while len(self.buffer) - self.position < count:
            more = self.stream.read(max(CHUNK, count))
            if not more:
                return False
            self.offset += self.position
            self.buffer, self.position = self.buffer[self.position :] + more, 0
        return True

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return not self.ensure(1)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if not self.ensure(count):
            raise InvalidInput(f"{self.label} ends in the middle of a value: the file is cut off, download it again")
        self.position += count
        return self.buffer[self.position - count : self.position]

    def complain(self, expected: str, first: int) -> InvalidInput:
        """What to raise for an unexpected first byte."""
        place = self.offset + self.position - 1
        return InvalidInput(
            f"{self.label}: expected {expected} at byte {place:,}, got the MessagePack code {first:#04x}"
        )

    def header(self) -> tuple[str, int]:
        """Kind of the next value, and its length or its value where the first byte holds that."""
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "number", first if first < 0x80 else first - 0x100
        if first < 0xC0:
            kind, mask = ("map", 0x0F) if first < 0x90 else ("array", 0x0F) if first < 0xA0 else ("text", 0x1F)
            return kind, first & mask
        if first in SIZED:
            kind, width = SIZED[first]
            return kind, int.from_bytes(self.take(width), "big")
        if first in NUMBERS or first in (0xC0, 0xC2, 0xC3):
            return "code", first
        raise self.complain("a plain value", first)

    def map_length(self) -> int:
        """Number of entries of the map that starts here; its keys and values follow one by one."""
        first = self.take(1)[0]
        self.position -= 1
        kind, length = self.header()
        if kind != "map":
            raise self.complain("a table of molecules (a map)", first)
        return length

    def text(self) -> str:
        """The text that stands here."""
        value = self.value()
        if not isinstance(value, str):
            raise InvalidInput(f"{self.label}: expected text as the key of a map, got {type(value).__name__}")
        return value

    def value(self, depth: int = 0) -> object:
        """The next value, with all it holds."""
        kind, length = self.header()
        if kind == "number":
            return length
        if kind == "code":
            return self._coded(length)
        if kind in ("text", "bytes"):
            return self._text(kind, length)
        if depth >= MAX_DEPTH:
            raise InvalidInput(f"{self.label}: values nested deeper than {MAX_DEPTH} levels are not a known layout")
        if kind == "map":
            return {self.text(): self.value(depth + 1) for _ in range(length)}
        table = self._table(length)
        return [self.value(depth + 1) for _ in range(length)] if table is None else table

    def _coded(self, code: int) -> object:
        if code in NUMBERS:
            width, form = NUMBERS[code]
            return struct.unpack(form, self.take(width))[0]
        return {0xC0: None, 0xC2: False, 0xC3: True}[code]

    def _text(self, kind: str, length: int) -> str | bytes:
        if length > MAX_TEXT:
            raise InvalidInput(f"{self.label}: a string of {length:,} bytes is longer than any this layout has")
        raw = self.take(length)
        if kind == "bytes":
            return raw
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self.label}: text that is not UTF-8 ({error})") from error

    def _table(self, length: int) -> np.ndarray | None:
        """`length` rows of four numbers as float64 [n, 4] if that is what follows, all rows alike; otherwise None."""
        row = self._row_layout() if length and self.ensure(5) and self.buffer[self.position] == 0x94 else None
        if row is None or length * row.itemsize > MAX_TABLE or not self.ensure(length * row.itemsize):
            return None
        rows = np.frombuffer(self.buffer, dtype=row, count=length, offset=self.position)
        marks = [name for name in row.names if name.startswith("mark")]
        if not all((rows[name] == rows[name][0]).all() for name in marks):
            return None
        columns = [rows[f"value{k}"].astype(np.float64) for k in range(4)]
        if any("mark" + str(k) not in row.names and (columns[k] >= 0x80).any() for k in range(4)):
            return None
        self.position += length * row.itemsize
        return np.stack(columns, axis=1)

    def _row_layout(self) -> np.dtype | None:
        """Bytes of the first row as a record: marks, and values where they stand."""
        self.ensure(MAX_ROW)
        row = self.buffer[self.position : self.position + MAX_ROW]
        fields: list[tuple[str, str]] = [("mark", "u1")]
        place = 1
        for column in range(4):
            first = row[place] if place < len(row) else 0xC1
            if first in ROW_KINDS:
                fields += [(f"mark{column}", "u1"), (f"value{column}", ROW_KINDS[first])]
                place += 1 + int(ROW_KINDS[first][-1])
            elif first < 0x80:
                fields.append((f"value{column}", "u1"))
                place += 1
            else:
                return None
        return np.dtype(fields)
