"""Batches of format 1: an Arrow IPC stream (ten columns, no more) in one zstd frame, read with pyarrow.

Schema metadata: `fieldline` ("1"), `gateway`, `epoch`, `first_seq`, `count`, `series` (JSON: id -> [device, metric,
unit]) and, for a declared loss, which has no rows, `loss` (the reason) and `declared_at` (ms since 1970 UTC).

Gateways sent it before `telemetry.wire` had a format of its own. The schema must be one that they wrote; compressed
Arrow buffers are refused (the zstd frame around the stream is the one compression, and its limit would mean nothing
otherwise).
"""

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.batch import SERIES_ID_MAX, Batch, check_names, checked, decompressed, loss_batch
from telemetry.columns import DEAD, DeadLetter, Series
from telemetry.errors import WireError
from telemetry.wire import Header

MAGIC = b"\x28\xb5\x2f\xfd"
"""A zstd frame begins so."""
VERSION = "1"

REQUIRED = {
    "series": pa.int32(),
    "measured_at": pa.int64(),
    "received_at": pa.int64(),
    "value": pa.float64(),
    "quality": pa.uint8(),
}
OPTIONAL = {"text": pa.string(), "source": pa.string(), "reason": pa.string(), "raw": pa.binary()}


def read(payload: bytes, gateway: str) -> Batch:
    """A batch that came on the topic of `gateway`; its times are not looked at. Raises WireError."""
    plain = decompressed(payload)
    try:
        schema, record_batch = _read(plain)
        header, metadata = _header(schema, gateway)
        rows = 0 if record_batch is None else record_batch.num_rows
        if rows != (0 if "loss" in metadata else header.count):
            raise WireError(f"the batch counts {header.count} records and holds {rows} rows")
        if "loss" in metadata or record_batch is None:
            return loss_batch(header, metadata["loss"], _declared_at(metadata), len(plain))
        return _columns(header, record_batch, metadata.get("series", "{}"), len(plain))
    except (pa.ArrowException, OSError, struct.error, UnicodeDecodeError) as error:  # pyarrow raises both kinds
        raise WireError(f"the batch is not a readable Arrow stream: {error}") from error


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
            f"the batch is an Arrow stream of format {metadata.get('fieldline')!r}, this ingest reads format "
            f"{VERSION!r} of those: update the older side"
        )
    try:
        header = Header(metadata["gateway"], metadata["epoch"], int(metadata["first_seq"]), int(metadata["count"]))
    except (KeyError, ValueError) as error:
        raise WireError(f"the batch's header is incomplete: {error}") from error
    if header.gateway != gateway:
        raise WireError(f"the batch names gateway {header.gateway!r}, but came on the topic of {gateway!r}")
    return checked(header, is_loss="loss" in metadata), metadata


def _declared_at(metadata: dict[str, str]) -> int:
    try:
        return int(metadata["declared_at"])
    except (KeyError, ValueError) as error:
        raise WireError("the batch declares a loss without saying when") from error


def _columns(header: Header, rows: pa.RecordBatch, series_json: str, size: int) -> Batch:
    for name in REQUIRED:
        if name not in rows.schema.names or rows[name].null_count:
            raise WireError(f"the batch's column {name!r} is missing or has nulls")
    names, codes = _series(series_json, rows["series"].to_numpy())
    return Batch(
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


def _series(series_json: str, ids: npt.NDArray[np.int32]) -> tuple[list[Series], npt.NDArray[np.int32]]:
    """The batch's dictionary, and its ids as positions in it."""
    try:
        table = {int(id_): Series(*map(str, parts)) for id_, parts in json.loads(series_json).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"the batch's series are not readable: {error}") from error
    if any(not 0 <= id_ < SERIES_ID_MAX for id_ in table):
        raise WireError("the batch's series have ids out of range")
    check_names(list(table.values()))
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
