"""Batches off the wire, checked before they are believed. Counterpart of `telemetry.wire`, with pyarrow.

A batch comes from outside: every size is limited before memory is taken, the schema must be one that we
write, compressed Arrow buffers are refused (the zstd frame around the stream is the one compression, and its
limit would mean nothing otherwise), and the numbers must be consistent. What breaks a rule is a WireError
with a sentence; a row that cannot be stored (a time out of range) becomes a dead letter and harms no other.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from backports import zstd

from broker_bridge.contract import is_name
from telemetry.columns import DEAD, DeadLetter, Series
from telemetry.errors import WireError
from telemetry.records import Loss
from telemetry.wire import PLAIN_BYTES_MAX, ROWS_MAX, VERSION, WIRE_BYTES_MAX, Header

SERIES_TEXT_CHARS_MAX = 256
SERIES_ID_MAX = 2**31
LOSS_CHARS_MAX = 1000
SEQ_MAX = 2**62
MEASURED_MS_MIN, MEASURED_MS_MAX = 946_684_800_000, 4_102_444_800_000  # 2000-01-01 and 2100-01-01, UTC

REQUIRED = {
    "series": pa.int32(),
    "measured_at": pa.int64(),
    "received_at": pa.int64(),
    "value": pa.float64(),
    "quality": pa.uint8(),
}
OPTIONAL = {"text": pa.string(), "source": pa.string(), "reason": pa.string(), "raw": pa.binary()}

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch. Arrays have one entry per record; `series` indexes `names` (DEAD: a dead letter).

    `texts` and `dead` are sparse, by position. `loss` is a declared loss, which has no rows.
    """

    header: Header
    names: list[Series]
    series: npt.NDArray[np.int32]
    measured_at: Ints
    received_at: Ints
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    texts: dict[int, str]
    dead: dict[int, DeadLetter]
    loss: Loss | None
    bytes: int


def decode(payload: bytes, gateway: str) -> Batch:
    """A batch that came on the topic of `gateway`. Raises WireError."""
    plain = _decompress(payload)
    try:
        schema, record_batch = _read(plain)
        header, metadata = _header(schema, gateway)
        loss = _loss(header, metadata)
        rows = 0 if record_batch is None else record_batch.num_rows
        if rows != (0 if loss is not None else header.count):
            raise WireError(f"the batch counts {header.count} records and holds {rows} rows")
        if loss is not None or record_batch is None:
            return _empty(header, loss, len(plain))
        return _columns(header, record_batch, metadata.get("series", "{}"), len(plain))
    except (pa.ArrowException, OSError, struct.error, UnicodeDecodeError) as error:  # pyarrow raises both kinds
        raise WireError(f"the batch is not a readable Arrow stream: {error}") from error


def _decompress(payload: bytes) -> bytes:
    if len(payload) > WIRE_BYTES_MAX:
        raise WireError(f"the batch is {len(payload)} bytes long, the limit is {WIRE_BYTES_MAX}")
    try:
        decompressor = zstd.ZstdDecompressor()
        plain = decompressor.decompress(payload, max_length=PLAIN_BYTES_MAX)
    except zstd.ZstdError as error:
        raise WireError(f"the batch is not a zstd frame: {error}") from error
    if not decompressor.eof:
        raise WireError(f"the batch is truncated, or longer than {PLAIN_BYTES_MAX} bytes when decompressed")
    return plain


def _read(plain: bytes) -> tuple[pa.Schema, pa.RecordBatch | None]:
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(plain))
    first = _next(messages)
    if first is None or first.type != "schema":
        raise WireError("the batch holds no Arrow schema")
    schema = pa.ipc.read_schema(first)
    _check_schema(schema)
    second = _next(messages)
    if second is None:
        return schema, None
    if second.type != "record batch" or _next(messages) is not None:
        raise WireError("the batch must hold exactly one Arrow record batch")
    if _has_compressed_buffers(second.metadata.to_pybytes()):
        raise WireError("the batch has compressed Arrow buffers; only the frame around it may be compressed")
    record_batch = pa.ipc.read_record_batch(second, schema)
    record_batch.validate(full=True)
    return schema, record_batch


def _next(messages: pa.ipc.MessageReader) -> pa.ipc.Message | None:
    try:
        return messages.read_next_message()
    except StopIteration:
        return None


def _check_schema(schema: pa.Schema) -> None:
    known = REQUIRED | OPTIONAL
    for field in schema:
        if field.type != known.get(field.name):
            raise WireError(f"the batch has a column {field.name!r} of type {field.type}, which is not known")
    if len(set(schema.names)) != len(schema.names):
        raise WireError("the batch has a column twice")


def _has_compressed_buffers(message: bytes) -> bool:
    """Whether a RecordBatch message says how its buffers are compressed.

    Reads the flatbuffer by hand, since pyarrow would decompress without a limit: Message.header (field 2)
    is a RecordBatch, whose field 3 is `compression` (Arrow format, Message.fbs).
    """
    table = _follow(message, 0)
    batch = _field(message, table, 2)
    return batch is not None and _field(message, _follow(message, batch), 3) is not None


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, index: int) -> int | None:
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * index
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else None


def _header(schema: pa.Schema, gateway: str) -> tuple[Header, dict[str, str]]:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if metadata.get("fieldline") != VERSION:
        raise WireError(
            f"the batch is of format {metadata.get('fieldline')!r}, this ingest reads format {VERSION!r}: "
            "update the older side"
        )
    try:
        header = Header(metadata["gateway"], metadata["epoch"], int(metadata["first_seq"]), int(metadata["count"]))
    except (KeyError, ValueError) as error:
        raise WireError(f"the batch's header is incomplete: {error}") from error
    if header.gateway != gateway:
        raise WireError(f"the batch names gateway {header.gateway!r}, but came on the topic of {gateway!r}")
    if not is_name(header.gateway) or not is_name(header.epoch):
        raise WireError("the batch's gateway or epoch is not a name")
    count_max = SEQ_MAX if "loss" in metadata else ROWS_MAX
    if header.first_seq < 1 or not 1 <= header.count <= count_max or header.last_seq > SEQ_MAX:
        raise WireError(f"the batch's seqs are out of range: {header.count} from {header.first_seq} on")
    return header, metadata


def _loss(header: Header, metadata: dict[str, str]) -> Loss | None:
    if "loss" not in metadata:
        return None
    try:
        declared_at = int(metadata["declared_at"])
    except (KeyError, ValueError) as error:
        raise WireError("the batch declares a loss without saying when") from error
    declared_at = min(max(declared_at, 0), MEASURED_MS_MAX - 1)
    return Loss(header.first_seq, header.last_seq, metadata["loss"][:LOSS_CHARS_MAX], declared_at)


def _empty(header: Header, loss: Loss | None, size: int) -> Batch:
    ints = np.empty(0, np.int64)
    return Batch(
        header,
        [],
        ints.astype(np.int32),
        ints,
        ints,
        ints.astype(float),
        ints.astype(np.uint8),
        {},
        {},
        loss,
        size,
    )


def _columns(header: Header, rows: pa.RecordBatch, series_json: str, size: int) -> Batch:
    for name in REQUIRED:
        if name not in rows.schema.names or rows[name].null_count:
            raise WireError(f"the batch's column {name!r} is missing or has nulls")
    names, codes = _series(series_json, rows["series"].to_numpy())
    batch = Batch(
        header=header,
        names=names,
        series=codes,
        measured_at=rows["measured_at"].to_numpy(),
        received_at=rows["received_at"].to_numpy(),
        value=rows["value"].to_numpy(),
        quality=rows["quality"].to_numpy(),
        texts=_sparse(rows, "text"),
        dead=_dead(rows, codes),
        loss=None,
        bytes=size,
    )
    return _bury_bad_times(batch)


def _series(series_json: str, ids: npt.NDArray[np.int32]) -> tuple[list[Series], npt.NDArray[np.int32]]:
    """The batch's dictionary, and its ids as positions in it."""
    try:
        table = {int(id_): Series(*map(str, parts)) for id_, parts in json.loads(series_json).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"the batch's series are not readable: {error}") from error
    if any(not 0 <= id_ < SERIES_ID_MAX for id_ in table):
        raise WireError("the batch's series have ids out of range")
    if any(len(text) > SERIES_TEXT_CHARS_MAX for series in table.values() for text in series):
        raise WireError(f"a device, metric or unit is longer than {SERIES_TEXT_CHARS_MAX} characters")
    try:
        "".join(text for series in table.values() for text in series).encode()
    except UnicodeEncodeError as error:
        raise WireError("a device, metric or unit is not valid Unicode") from error
    known = np.array([DEAD, *sorted(table)], np.int64)
    positions = np.searchsorted(known, ids).clip(0, known.size - 1)
    if not np.array_equal(known[positions], ids):
        raise WireError("the batch mentions a series that it does not define")
    return [table[id_] for id_ in sorted(table)], (positions - 1).astype(np.int32)


def _sparse(rows: pa.RecordBatch, name: str) -> dict[int, Any]:
    if name not in rows.schema.names:
        return {}
    column = rows[name]
    positions = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    return dict(zip(positions.tolist(), column.take(pa.array(positions)).to_pylist(), strict=True))


def _dead(rows: pa.RecordBatch, codes: npt.NDArray[np.int32]) -> dict[int, DeadLetter]:
    positions = np.flatnonzero(codes == DEAD).tolist()
    if not positions:
        return {}
    parts = [_sparse(rows, name) for name in ("source", "raw", "reason")]
    try:
        return {p: DeadLetter(*(part[p] for part in parts)) for p in positions}
    except KeyError as error:
        raise WireError("a dead letter has no source, raw bytes or reason") from error


def _bury_bad_times(batch: Batch) -> Batch:
    """Readings whose time the tables cannot hold become dead letters, in place."""
    low, high = MEASURED_MS_MIN, MEASURED_MS_MAX
    bad = ((batch.measured_at < low) | (batch.measured_at >= high)) & (batch.series != DEAD)
    for position in np.flatnonzero(bad).tolist():
        at = int(batch.measured_at[position])
        reason = f"measured_at is {at} ms since 1970, which is not between the years 2000 and 2100"
        batch.dead[position] = describe(batch, position, reason)
    received_at = batch.received_at.clip(0, high - 1)  # a gateway's clock may say anything
    if not bad.any() and np.array_equal(received_at, batch.received_at):
        return batch
    series = np.where(bad, np.int32(DEAD), batch.series)
    return Batch(
        batch.header,
        batch.names,
        series,
        batch.measured_at,
        received_at,
        batch.value,
        batch.quality,
        {p: text for p, text in batch.texts.items() if not bad[p]},
        batch.dead,
        None,
        batch.bytes,
    )


def describe(batch: Batch, position: int, reason: str) -> DeadLetter:
    """A reading as a dead letter: its fields as JSON are its raw bytes."""
    name = batch.names[batch.series[position]]
    value = float(batch.value[position])
    fields = {
        "device": name.device,
        "metric": name.metric,
        "unit": name.unit,
        "measured_at": int(batch.measured_at[position]),
        "value": value if np.isfinite(value) else None,
        "text": batch.texts.get(position, ""),
        "quality": int(batch.quality[position]),
    }
    return DeadLetter(f"reading of {name.device}", json.dumps(fields).encode(), reason)
