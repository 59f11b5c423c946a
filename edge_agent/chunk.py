"""The body of one spool commit: columns as they are in memory, compressed.

  byte 0      version, 1
  then        one zstd frame of
    uint32    n, the number of records            (all integers little-endian)
    int32[n]  series      int64[n] measured_at    int64[n] received_at
    float64[n] value      uint8[n] quality
    rest      nothing, or MessagePack:
              [texts {position: text}, dead letters {position: [source, raw, reason]}]

Little-endian in file and in memory: every machine an agent runs on is. Its checksum is kept beside it.
"""

import struct
import sys
from array import array

import msgspec
from backports import zstd

from telemetry.columns import Columns, DeadLetter

VERSION = b"\x01"
ZSTD_LEVEL = 1  # a third of the size for a tenth of a microsecond per reading
READING_BYTES = 29
"""Of one record's five numbers, uncompressed."""

assert sys.byteorder == "little", "the chunk format is the memory's, little-endian"

_sparse = msgspec.msgpack.Encoder()
_unsparse = msgspec.msgpack.Decoder(tuple[dict[int, str], dict[int, DeadLetter]])


def encode(columns: Columns) -> bytes:
    """Columns as a body."""
    parts = [
        struct.pack("<I", len(columns)),
        columns.series.tobytes(),
        columns.measured_at.tobytes(),
        columns.received_at.tobytes(),
        columns.value.tobytes(),
        columns.quality.tobytes(),
    ]
    if columns.texts or columns.dead:
        parts.append(_sparse.encode((columns.texts, columns.dead)))
    return VERSION + zstd.compress(b"".join(parts), level=ZSTD_LEVEL)


def decode(body: bytes) -> Columns:
    """The columns of a body whose checksum was right."""
    assert body[:1] == VERSION, f"chunk version {body[0]} is not known"
    plain = memoryview(zstd.decompress(body[1:]))
    (n,) = struct.unpack_from("<I", plain)
    assert len(plain) >= 4 + n * READING_BYTES, "a chunk holds as many records as it counts"
    columns = Columns()
    at = 4
    for column in (columns.series, columns.measured_at, columns.received_at, columns.value, columns.quality):
        end = at + n * column.itemsize
        _fill(column, plain[at:end])
        at = end
    if at < len(plain):
        columns.texts, columns.dead = _unsparse.decode(plain[at:])
    return columns


def _fill(column: "array[int] | array[float]", data: memoryview) -> None:
    column.frombytes(data)


def plain_bytes(columns: Columns) -> int:
    """The uncompressed size."""
    sparse = sum(map(len, columns.texts.values()))
    sparse += sum(len(d.raw) + len(d.source) + len(d.reason) for d in columns.dead.values())
    return READING_BYTES * len(columns) + sparse


def record_bytes(columns: Columns, position: int) -> int:
    """The uncompressed size of one record."""
    size = READING_BYTES + len(columns.texts.get(position, ""))
    if letter := columns.dead.get(position):
        size += len(letter.raw) + len(letter.source) + len(letter.reason)
    return size
