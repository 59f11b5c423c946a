"""Rows as ClickHouse's Native format: one block, column by column, as ClickHouse holds them in memory.

A block is the number of columns and of rows, then for each column its name, its type and its values:

- numbers and times: the values, little-endian;
- String: each with its length before it;
- LowCardinality(String): version 1, flags, the words, and for each row the number of its word;
- Nullable: a byte for each row that says whether it is null, then the values;
- Map: as an Array of Tuples, but the versions of its words come first;
- Array: for each row where it ends, then the elements; Tuple: its elements, one after another.

Lengths and counts at the beginning are varints (LEB128), all others 64-bit. The columns of an Arrow table are taken
as they are: what is fixed in width is not copied. ClickHouse reads this with less work than an Arrow stream, and one
block stays one block: see docs/decisions/0011.
"""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.tables import Target
from telemetry import tags
from telemetry.packing import varint

Buffer = bytes | memoryview

FORMAT = "Native"

_VERSION = 1
_WORDS_FOLLOW = 1 << 9 | 1 << 10  # the words are in this block, and are all of them
_CODES = ((1 << 8, np.uint8), (1 << 16, np.uint16), (1 << 32, np.uint32))
_COPIED_BYTES_MAX = 16 * 1024
"""Smaller parts are put together: each one left costs a system call."""


def encode(target: Target, rows: pa.Table) -> list[Buffer]:
    """All rows as one block, in parts that come one after another; those that are views share the table's memory."""
    parts: list[Buffer] = [varint(rows.num_columns) + varint(rows.num_rows)]
    for (name, _, type_), column in zip(target.columns, rows.columns, strict=True):
        parts.append(_text(name.encode()) + _text(type_.encode()))
        parts += _values(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks(), type_)
    return list(_put_together(parts))


def _values(array: pa.Array, type_: str) -> list[Buffer]:
    if type_.startswith("Nullable("):
        return [_raw(array.is_null().cast(pa.uint8())), *_values(array.fill_null(0), type_[len("Nullable(") : -1])]
    if pa.types.is_dictionary(array.type):
        return _map(array) if type_.startswith("Map(") else _low_cardinality(array)
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        return [b"".join(map(_text, array.cast(pa.binary()).to_pylist()))]
    if pa.types.is_list(array.type):
        ends = np.cumsum(array.value_lengths().to_numpy(), dtype=np.uint64)
        return [_bytes(ends), *_values(array.flatten(), "")]
    if pa.types.is_struct(array.type):
        return [part for element in array.flatten() for part in _values(element, "")]
    return [_raw(array)]


def _low_cardinality(array: pa.DictionaryArray) -> list[Buffer]:
    if len(array.dictionary) > len(array):  # a slice of a larger table
        array = array.dictionary_decode().dictionary_encode()
    words = array.dictionary.cast(pa.binary()).to_pylist()
    return [struct.pack("<Q", _VERSION), *_words(words, array.indices.to_numpy())]


def _words(words: list[bytes], codes: npt.NDArray[np.integer[Any]]) -> list[Buffer]:
    kind, width = next((i, type_) for i, (limit, type_) in enumerate(_CODES) if len(words) <= limit)
    head = struct.pack("<QQ", kind | _WORDS_FOLLOW, len(words))
    return [head, b"".join(map(_text, words)), struct.pack("<Q", len(codes)), codes.astype(width).tobytes()]


def _map(array: pa.DictionaryArray) -> list[Buffer]:
    """Texts of tags as maps: each different one is read once, its rows are arithmetic."""
    maps = [list(tags.unpack(text).items()) for text in array.dictionary.to_pylist()]
    sizes, codes = np.array([len(pairs) for pairs in maps], np.int64), array.indices.to_numpy()
    starts, of_row = np.cumsum(sizes) - sizes, sizes[codes]
    ends = np.cumsum(of_row)
    total = int(of_row.sum())
    parts: list[Buffer] = [struct.pack("<QQ", _VERSION, _VERSION), _bytes(ends.astype(np.uint64))]
    if total:
        places = np.arange(total) + np.repeat(starts[codes] - (ends - of_row), of_row)
        for column in zip(*(pair for pairs in maps for pair in pairs), strict=True):
            words = {word: code for code, word in enumerate(dict.fromkeys(column))}
            parts += _words([word.encode() for word in words], np.array([words[word] for word in column])[places])
    return parts


def _raw(array: pa.Array) -> memoryview:
    """The values of a column of fixed width without nulls, as bytes."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    return _bytes(array.to_numpy())


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return array.view(np.uint8).data


def _text(data: bytes) -> bytes:
    return varint(len(data)) + data


def _put_together(parts: Iterable[Buffer]) -> Iterable[Buffer]:
    """The same bytes in fewer parts: small ones are joined, large ones left where they are."""
    small: list[Buffer] = []
    for part in parts:
        if len(part) <= _COPIED_BYTES_MAX:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield part
    if small:
        yield b"".join(small)
