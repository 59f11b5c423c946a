"""Reads ClickHouse's Native format, of the types that ingest writes; knows nothing of ingest/native.py.

columns = decode(body)      # name -> (type, values); a String's value is bytes, a DateTime64's int ms
"""

import re
import struct
from typing import Any

_FIXED = {
    "UInt8": "B",
    "UInt16": "H",
    "UInt32": "I",
    "UInt64": "Q",
    "Int64": "q",
    "Float64": "d",
    "DateTime64(3, 'UTC')": "q",
}
_CODES = "BHIQ"


def decode(body: bytes) -> dict[str, tuple[str, list[Any]]]:
    """The one block that `body` must be, to its last byte."""
    reader = _Reader(body)
    columns, rows = reader.varint(), reader.varint()
    found = {}
    for _ in range(columns):
        name, type_ = reader.text().decode(), reader.text().decode()
        found[name] = type_, reader.values(type_, rows)
    assert reader.at == len(body), "a second block, or bytes that belong to none"
    assert len(found) == columns, "a column twice"
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def text(self) -> bytes:
        return self._take(self.varint())

    def fixed(self, letter: str, count: int) -> list[Any]:
        format_ = f"<{count}{letter}"
        return list(struct.unpack(format_, self._take(struct.calcsize(format_))))

    def values(self, type_: str, rows: int) -> list[Any]:
        if type_ in _FIXED:
            return self.fixed(_FIXED[type_], rows)
        if type_ == "String":
            return [self.text() for _ in range(rows)]
        if type_ == "LowCardinality(String)":
            return self._low_cardinality(rows)
        if type_ == "Map(LowCardinality(String), LowCardinality(String))":
            return self._map(rows)
        outer, inner = type_.removesuffix(")").split("(", 1)
        if outer == "Nullable":
            nulls = self.fixed("B", rows)
            return [None if null else value for null, value in zip(nulls, self.values(inner, rows), strict=True)]
        if outer == "Array":
            ends = self.fixed("Q", rows)
            flat = self.values(inner, ends[-1] if ends else 0)
            return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        assert outer == "Tuple", type_
        names, types = zip(*(part.split(" ", 1) for part in re.split(r", (?=\w+ \w)", inner)), strict=True)
        elements = [self.values(part, rows) for part in types]
        return [dict(zip(names, row, strict=True)) for row in zip(*elements, strict=True)]

    def _low_cardinality(self, rows: int) -> list[bytes]:
        if rows == 0:
            return []
        assert self.fixed("Q", 1) == [1], "the version"
        return self._words(rows)

    def _map(self, rows: int) -> list[dict[bytes, bytes]]:
        if rows == 0:
            return []
        assert self.fixed("Q", 2) == [1, 1], "the versions of keys and values"
        ends = self.fixed("Q", rows)
        keys, values = [self._words(ends[-1]) if ends[-1] else [] for _ in range(2)]
        return [
            dict(zip(keys[start:end], values[start:end], strict=True))
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _words(self, rows: int) -> list[bytes]:
        flags, count = self.fixed("Q", 2)
        assert flags & ~0xFF == 0x600, "all words are in the block"
        words = [self.text() for _ in range(count)]
        assert len(set(words)) == count, "a word twice"
        assert self.fixed("Q", 1) == [rows]
        return [words[code] for code in self.fixed(_CODES[flags & 0xFF], rows)]

    def _take(self, count: int) -> bytes:
        assert self.at + count <= len(self._data), "the block is cut off"
        self.at += count
        return self._data[self.at - count : self.at]
