"""The body of one spool commit: a stamp, then columns as they are in memory, compressed.

  8 bytes     the epoch
  uint64      first_seq
  uint32      n, the number of records: with these, a body says what it is, wherever in a damaged file it is found
  byte        only of a chunk that is undated (edge_agent.boot): 3; then 16 bytes, the boot, and int64, its zero
  byte        how the rest is compressed: 1 as one zstd frame; 2 by deflate (RFC 1951), for up to SMALL_BYTES
  then        compressed, with all integers little-endian:
    uint32    n
    int32[n]  series      int64[n] measured_at    int64[n] received_at
    float64[n] value      uint8[n] quality
    rest      nothing, or MessagePack: [texts {position: text}, dead letters {position: [source, raw, reason]}], and
              if there are any, {position: fine}, see `telemetry.columns`

Little-endian in file and in memory: every machine an agent runs on is. Its checksum is kept beside it.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from backports import zstd

from telemetry.columns import Columns, DeadLetter

ZSTD, DEFLATE, UNDATED = b"\x01", b"\x02", b"\x03"
LEVEL = 1  # of either: a third of the size for a tenth of a microsecond per reading
SMALL_BYTES = 2048
"""Commits of a few messages are read and written in a fifth of the time without zstd's contexts, 13 us each to make."""
DEFLATE_WINDOW = -12
"""As a power of two, not below SMALL_BYTES; negative: no header and no checksum."""
HEAD_BYTES = 45
"""Of an undated body: what comes before the columns."""
READING_BYTES = 29
"""Of one record's five numbers, uncompressed."""

FINE_BYTES = 8
"""Of what a time has beside its milliseconds."""

_STAMP = struct.Struct("<8sQI")
_UPTIME = struct.Struct("<16sq")

assert sys.byteorder == "little", "the chunk format is the memory's, little-endian"

_sparse = msgspec.msgpack.Encoder()


class _Sparse(msgspec.Struct, array_like=True):
    texts: dict[int, str]
    dead: dict[int, DeadLetter]
    fine: dict[int, int] = msgspec.field(default_factory=dict)


_unsparse = msgspec.msgpack.Decoder(_Sparse)


class Uptime(NamedTuple):
    """What dates a chunk whose gateway did not know the time. boot: 16 bytes.

    zero_ms: what the wall clock showed when the monotonic clock was 0, in ms since 1970.
    """

    boot: bytes
    zero_ms: int


def pack(epoch: str, first_seq: int, columns: Columns, uptime: Uptime | None = None) -> bytes:
    """Columns as the body of the commit that gave them their seqs. epoch: 16 hexadecimal digits."""
    undated = UNDATED + _UPTIME.pack(*uptime) if uptime else b""
    return _STAMP.pack(bytes.fromhex(epoch), first_seq, len(columns)) + undated + encode(columns)


def unpack(body: bytes) -> Columns:
    """The columns of a body whose checksum was right."""
    return decode(body[HEAD_BYTES if uptime(body) else _STAMP.size :])


def uptime(body: bytes) -> Uptime | None:
    """What dates a body, or its first HEAD_BYTES; None if it has its date."""
    if len(body) < HEAD_BYTES or body[_STAMP.size] != UNDATED[0]:
        return None
    return Uptime(*_UPTIME.unpack_from(body, _STAMP.size + 1))


class Stamp(NamedTuple):
    """What a body says it is."""

    epoch: str
    first_seq: int
    records: int


def stamp(body: bytes, crc: int) -> Stamp | None:
    """What a body is; None when these are not the bytes that were written."""
    if len(body) <= _STAMP.size or zlib.crc32(body) != crc:
        return None
    epoch, first_seq, records = _STAMP.unpack_from(body)
    return Stamp(epoch.hex(), first_seq, records)


def restamp(epoch: str, first_seq: int, body: bytes) -> bytes:
    """The same records under other seqs."""
    _, _, records = _STAMP.unpack_from(body)
    return _STAMP.pack(bytes.fromhex(epoch), first_seq, records) + body[_STAMP.size :]


def encode(columns: Columns) -> bytes:
    """Columns as a body without a stamp."""
    parts = [
        struct.pack("<I", len(columns)),
        columns.series.tobytes(),
        columns.measured_at.tobytes(),
        columns.received_at.tobytes(),
        columns.value.tobytes(),
        columns.quality.tobytes(),
    ]
    if columns.fine:
        parts.append(_sparse.encode((columns.texts, columns.dead, columns.fine)))
    elif columns.texts or columns.dead:
        parts.append(_sparse.encode((columns.texts, columns.dead)))
    plain = b"".join(parts)
    if len(plain) <= SMALL_BYTES:
        return DEFLATE + zlib.compress(plain, LEVEL, DEFLATE_WINDOW)
    return ZSTD + zstd.compress(plain, level=LEVEL)


def decode(body: bytes) -> Columns:
    """The columns of a body without a stamp."""
    assert body[:1] in (ZSTD, DEFLATE), f"a chunk's compression {body[0]} is not known"
    is_small = body[:1] == DEFLATE
    plain = memoryview(zlib.decompress(body[1:], DEFLATE_WINDOW) if is_small else zstd.decompress(body[1:]))
    (n,) = struct.unpack_from("<I", plain)
    assert len(plain) >= 4 + n * READING_BYTES, "a chunk holds as many records as it counts"
    columns = Columns()
    at = 4
    for column in (columns.series, columns.measured_at, columns.received_at, columns.value, columns.quality):
        end = at + n * column.itemsize
        _fill(column, plain[at:end])
        at = end
    if at < len(plain):
        sparse = _unsparse.decode(plain[at:])
        columns.texts, columns.dead, columns.fine = sparse.texts, sparse.dead, sparse.fine
    return columns


def _fill(column: "array[int] | array[float]", data: memoryview) -> None:
    column.frombytes(data)


def plain_bytes(columns: Columns) -> int:
    """The uncompressed size."""
    sparse = sum(map(len, columns.texts.values()))
    sparse += sum(len(d.raw) + len(d.source) + len(d.reason) for d in columns.dead.values())
    return READING_BYTES * len(columns) + FINE_BYTES * len(columns.fine) + sparse


def record_bytes(columns: Columns, position: int) -> int:
    """The uncompressed size of one record."""
    size = READING_BYTES + FINE_BYTES * (position in columns.fine) + len(columns.texts.get(position, ""))
    if letter := columns.dead.get(position):
        size += len(letter.raw) + len(letter.source) + len(letter.reason)
    return size


def gather(parts: Iterable[tuple[int, Columns]], after_seq: int, records_max: int, bytes_max: int) -> Columns:
    """The run of records that follows after_seq, from parts (first_seq, columns) in ascending order.

    It ends where a part is missing, at records_max, or where bytes_max (uncompressed) would be passed; of a part
    that is there it holds at least one record.
    """
    columns, expected, size = Columns(), after_seq + 1, 0
    for first, part in parts:
        if first > expected:
            break
        room = min(records_max - len(columns), first + len(part) - expected)
        wanted = part.slice(expected - first, expected - first + room)
        fitting = _fitting(wanted, bytes_max - size, at_least=0 if columns else 1)
        if fitting < len(wanted):
            wanted = wanted.slice(0, fitting)
        columns.extend(wanted)
        size += plain_bytes(wanted)
        expected += len(wanted)
        if fitting < room or len(columns) >= records_max:
            break
    return columns


def _fitting(part: Columns, bytes_max: int, at_least: int) -> int:
    """How many of the part's first records stay within bytes_max."""
    if plain_bytes(part) <= bytes_max:
        return len(part)
    size = 0
    for position in range(len(part)):
        size += record_bytes(part, position)
        if size > bytes_max:
            return max(position, at_least)
    return len(part)
