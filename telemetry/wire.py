"""A batch on the wire: an Arrow IPC stream, compressed as one zstd frame (RFC 8878).

Schema metadata: `fieldline` (version of this format, "1"), `gateway`, `epoch`, `first_seq`, `count`,
`series` (JSON: id -> [device, metric, unit], the dictionary of every series that the batch mentions) and,
for a declared loss, `loss` (the reason) and `declared_at` (ms since 1970 UTC); such a batch has no rows.

Columns, row i being record first_seq + i:
  series int32 (DEAD = -1 marks a dead letter), measured_at int64 and received_at int64 (ms since 1970 UTC),
  value float64 (NaN for a text), quality uint8;
  text utf8, only in batches that hold texts;
  source utf8, reason utf8, raw binary, only in batches that hold dead letters.

Limits: ROWS_MAX rows, WIRE_BYTES_MAX compressed, PLAIN_BYTES_MAX after decompression, which is checked
before decompressing. This module encodes and needs nanoarrow only; `ingest.decode` is its counterpart.
"""

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import starmap

import nanoarrow as na
from backports import zstd
from nanoarrow.ipc import StreamWriter

from telemetry.columns import Columns, Series

VERSION = "1"
ROWS_MAX = 500_000
WIRE_BYTES_MAX = 2 * 1024 * 1024
PLAIN_BYTES_MAX = 64 * 1024 * 1024
ZSTD_LEVEL = 3

Field = tuple[na.Schema, Iterable[object]]


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


def encode(header: Header, columns: Columns, lookup: Callable[[int], Series]) -> bytes:
    """The wire form of a batch of records. `lookup` gives the series behind an id."""
    assert header.count == len(columns) > 0, "a batch of records has as many rows as it counts"
    used = {id_: list(lookup(id_)) for id_ in sorted(set(columns.series)) if id_ >= 0}
    metadata = _metadata(header) | {"series": json.dumps(used, ensure_ascii=False, separators=(",", ":"))}
    fields: dict[str, Field] = {
        "series": (na.int32(), columns.series),
        "measured_at": (na.int64(), columns.measured_at),
        "received_at": (na.int64(), columns.received_at),
        "value": (na.float64(), columns.value),
        "quality": (na.uint8(), columns.quality),
    }
    rows = range(header.count)
    if columns.texts:
        fields["text"] = (na.string(), [columns.texts.get(i) for i in rows])
    if columns.dead:
        letters = [columns.dead.get(i) for i in rows]
        fields["source"] = (na.string(), [letter and letter.source for letter in letters])
        fields["reason"] = (na.string(), [letter and letter.reason for letter in letters])
        fields["raw"] = (na.binary(), [None if letter is None else letter.raw for letter in letters])
    return _stream(metadata, header.count, fields)


def encode_loss(header: Header, reason: str, declared_at: int) -> bytes:
    """The wire form of a declared loss of header.count records. declared_at: ms since 1970 UTC."""
    metadata = _metadata(header) | {"loss": reason, "declared_at": str(declared_at)}
    return _stream(metadata, 0, {"series": (na.int32(), [])})


def _metadata(header: Header) -> dict[str, str]:
    return {
        "fieldline": VERSION,
        "gateway": header.gateway,
        "epoch": header.epoch,
        "first_seq": str(header.first_seq),
        "count": str(header.count),
    }


def _stream(metadata: dict[str, str], rows: int, fields: dict[str, Field]) -> bytes:
    schema = na.Schema(na.Type.STRUCT, fields={name: type_ for name, (type_, _) in fields.items()}, metadata=metadata)
    children = list(starmap(_column, fields.values()))
    batch = na.c_array_from_buffers(schema, rows, [None], children=children)
    sink = io.BytesIO()
    with StreamWriter.from_writable(sink) as writer:
        writer.write_stream(na.ArrayStream(na.Array(batch)))
    return zstd.compress(sink.getbuffer(), level=ZSTD_LEVEL)


def _column(type_: na.Schema, values: Iterable[object]) -> object:
    return na.c_array(values, type_)
