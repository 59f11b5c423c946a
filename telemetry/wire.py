"""A batch on the wire, format 2.

  byte      2, the format
  uint32    CRC-32 of the gateway's name, which is in the topic, followed by everything behind these four bytes
  byte      flags: ZSTD = 1, LOSS = 2, HEX = 4, DICTIONARY = 8, TAGS = 16, FINE = 32
  epoch     if HEX the 8 bytes that its 16 hexadecimal digits stand for; else a byte with its length, and its characters
  4 bytes   if DICTIONARY: the id of the gateway's present dictionary
  varint    first_seq
  varint    count, the number of records
  body      if ZSTD as one zstd frame (RFC 8878)

The body of a batch of records; column, varint and strings as `telemetry.packing` has them:
  varint    T, the number of series in the batch; a series' place among them is its rank
  column    T ids of series, each once; DEAD = -1 stands for the dead letters
  varint    D, the number of series that are defined in this batch
  column    D ranks of those, ascending; left out when D is T or 0
  strings   D devices, D metrics, D units; if TAGS also D texts of tags (telemetry.tags)
  column    count ranks: the series of each record
  column    count quality codes
  column    count measured_at, ms since 1970 UTC, maybe GROUPED
  column    count received_at, ms since 1970 UTC, maybe GROUPED and RELATIVE
  column    T numbers of digits, 0..9
  column    count integers, GROUPED: a record's value is its integer divided by 10^digits as float64, except for
  varint    E exceptions
  column    E places of those in the order of the series, ascending
  column    E bits of their float64, each XOR 0x7FF8000000000000, so that NaN is 0
  varint    X, the number of texts
  column    X positions of records that hold one, ascending
  strings   X texts
  strings   as often as there are dead letters: sources, raw bytes, reasons; in their order
  varint    if FINE: F, the number of records whose time has more than milliseconds (`telemetry.columns`, fine)
  column    F positions of those, ascending
  column    F numbers of microseconds, 0..999
  column    F offsets in ms

"The order of the series" (GROUPED) has the records by rank, and those of one series in the order of their seqs.

The body of a declared loss: signed varint declared_at in ms since 1970 UTC, then the reason.

Dictionaries. What a series is called travels once: a batch defines those that no batch with the same dictionary id has
defined before. Whoever starts again (a new connection, another worker, a batch in doubt) takes a new id, so a
definition counts for what was sent with it and for nothing else. A batch without an id defines all of its series.

Limits: ROWS_MAX rows, WIRE_BYTES_MAX compressed, PLAIN_BYTES_MAX after decompression. This module encodes;
`ingest.decode` is its counterpart, which also reads format 1: an Arrow stream in one zstd frame.
"""

import re
import secrets
import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from backports import zstd

from telemetry import decimals, lanes
from telemetry.columns import DEAD, US_PER_MS, Columns, Series
from telemetry.packing import DELTA, GROUPED, RELATIVE, column, shortest, signed, strings, varint

T = TypeVar("T", int, float)

VERSION = 2
ZSTD, LOSS, HEX, DICTIONARY, TAGS, FINE = 1, 2, 4, 8, 16, 32
ROWS_MAX = 500_000
WIRE_BYTES_MAX = 2 * 1024 * 1024
PLAIN_BYTES_MAX = 64 * 1024 * 1024
ZSTD_LEVEL = 3
ZSTD_BYTES_MIN = 64
BLOCK_BYTES_MIN = 4096
"""A section this long is compressed as a block of its own: its bytes are not distributed like its neighbours'."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a batch says of itself: `count` records of `gateway` and `epoch` from `first_seq` on."""

    gateway: str
    epoch: str
    first_seq: int
    count: int

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1


@dataclass(frozen=True, slots=True)
class Dictionary:
    """The series ids that were defined under `id`, 8 hexadecimal digits."""

    id: str = field(default_factory=lambda: secrets.token_hex(4))
    ids: set[int] = field(default_factory=set)


def encode(
    header: Header, columns: Columns, lookup: Callable[[int], Series], dictionary: Dictionary | None = None
) -> bytes:
    """The wire form of a batch of records. `lookup` gives the series behind an id.

    dictionary: defines what is not in it, and adds that to it; None: defines all.
    """
    assert header.count == len(columns) > 0, "a batch of records has as many rows as it counts"
    groups = _groups(columns.series, lookup)
    table = [id_ for metric in groups.values() for id_ in metric]
    ranks = {id_: rank for rank, id_ in enumerate(table)}
    order = [position for metric in groups.values() for rows in metric.values() for position in rows]
    definitions, flags = _table(table, lookup, dictionary)
    sections = [
        definitions,
        column(lanes.of(map(ranks.__getitem__, columns.series)), header.count, DELTA),
        column(lanes.widened(columns.quality.tobytes()), header.count),
        *_times(columns, order),
        decimals.pack(_picked(columns.value, order), *_sizes(groups)),
        _texts(columns),
        _dead(columns),
    ]
    if columns.fine:
        flags |= FINE
        sections.append(_fine(columns))
    return _seal(header, sections, dictionary, flags)


def encode_loss(header: Header, reason: str, declared_at: int) -> bytes:
    """The wire form of a declared loss of header.count records. declared_at: ms since 1970 UTC."""
    return _seal(header, [signed(declared_at), reason.encode()], None, LOSS)


Groups = Mapping[str, dict[int, list[int]]]
"""metric -> series id -> the positions of its records."""


def _groups(series: "array[int]", lookup: Callable[[int], Series]) -> Groups:
    """By metric, then by id: alike next to alike. Metrics are in the order of their lowest id."""
    rows: dict[int, list[int]] = {}
    for position, id_ in enumerate(series):
        try:
            rows[id_].append(position)
        except KeyError:
            rows[id_] = [position]
    groups: defaultdict[str, dict[int, list[int]]] = defaultdict(dict)
    for id_ in sorted(rows):
        groups[lookup(id_).metric if id_ != DEAD else ""][id_] = rows[id_]
    return groups


def _sizes(groups: Groups) -> tuple[list[int], list[int]]:
    """By metric: how many records, how many series."""
    return [sum(map(len, metric.values())) for metric in groups.values()], [len(metric) for metric in groups.values()]


def _table(table: list[int], lookup: Callable[[int], Series], dictionary: Dictionary | None) -> tuple[bytes, int]:
    """The batch's series, and the flag that their definitions need."""
    known = dictionary.ids if dictionary is not None else ()
    new = [rank for rank, id_ in enumerate(table) if id_ != DEAD and id_ not in known]
    made = varint(len(table)) + column(lanes.of(table), len(table), DELTA) + varint(len(new))
    if 0 < len(new) < len(table):
        made += column(lanes.of(new), len(new), DELTA)
    if dictionary is not None:
        dictionary.ids.update(table[rank] for rank in new)
    parts = list(zip(*(lookup(table[rank]) for rank in new), strict=True))
    flags = TAGS if parts and any(parts[-1]) else 0
    if not flags:
        parts = parts[:-1]
    return made + b"".join(strings([name.encode() for name in part]) for part in parts), flags


def _times(columns: Columns, order: list[int]) -> list[bytes]:
    """measured_at and received_at."""
    n = len(order)
    measured, received = lanes.load(columns.measured_at), lanes.load(columns.received_at)
    delays = array("q", lanes.dump(lanes.minus(received, measured, n), n))
    by_series = lanes.of(_picked(columns.measured_at, order))
    after = lanes.of(_picked(delays, order))
    return [
        shortest([column(by_series, n, GROUPED | DELTA), column(measured, n, DELTA)]),
        shortest([column(after, n, GROUPED | RELATIVE), column(received, n, DELTA)]),
    ]


def _picked(column: "array[T]", order: list[int]) -> list[T]:
    return [column[position] for position in order]


def _texts(columns: Columns) -> bytes:
    texts = sorted(columns.texts.items())
    positions = lanes.of(position for position, _ in texts)
    return varint(len(texts)) + column(positions, len(texts), DELTA) + strings([text.encode() for _, text in texts])


def _dead(columns: Columns) -> bytes:
    letters = [letter for _, letter in sorted(columns.dead.items())]
    sources, reasons = [letter.source.encode() for letter in letters], [letter.reason.encode() for letter in letters]
    return strings(sources) + strings([letter.raw for letter in letters]) + strings(reasons)


def _fine(columns: Columns) -> bytes:
    positions = sorted(columns.fine)
    n = len(positions)
    offsets, microseconds = zip(*(divmod(columns.fine[position], US_PER_MS) for position in positions), strict=True)
    parts = (column(lanes.of(positions), n, DELTA), column(lanes.of(microseconds), n), column(lanes.of(offsets), n))
    return varint(n) + b"".join(parts)


def _seal(header: Header, sections: Sequence[bytes], dictionary: Dictionary | None, flags: int = 0) -> bytes:
    epoch = header.epoch.encode()
    if re.fullmatch(r"[0-9a-f]{16}", header.epoch):
        flags, epoch = flags | HEX, bytes.fromhex(header.epoch)
    else:
        epoch = bytes([len(epoch)]) + epoch
    if dictionary is not None:
        flags, epoch = flags | DICTIONARY, epoch + bytes.fromhex(dictionary.id)
    body = b"".join(sections)
    if len(body) >= ZSTD_BYTES_MIN and len(packed := _compressed(sections)) < len(body):
        flags, body = flags | ZSTD, packed
    return seal(header.gateway, bytes([flags]) + epoch + varint(header.first_seq) + varint(header.count) + body)


def seal(gateway: str, content: bytes) -> bytes:
    """A batch of what comes behind its checksum."""
    return bytes([VERSION]) + zlib.crc32(content, zlib.crc32(gateway.encode())).to_bytes(4, "little") + content


def _compressed(sections: Sequence[bytes]) -> bytes:
    compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)
    parts = []
    for section in sections:
        is_long = len(section) >= BLOCK_BYTES_MIN
        parts.append(compressor.compress(section, compressor.FLUSH_BLOCK if is_long else compressor.CONTINUE))
    return b"".join(parts) + compressor.flush()
