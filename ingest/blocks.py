"""From admitted slices to the blocks of one commit: one Arrow table per ClickHouse partition and target.

A block is what one INSERT carries: rows of one month, so that ClickHouse makes it one part, atomically. It
has at most commit.rows_max rows and those of one more batch, fewer than INSERT_SETTINGS let a block have.
Columns are NumPy arrays from the wire to the insert; strings are dictionary-coded, and a dictionary never
holds a value twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.admit import Slice
from ingest.decode import Batch
from ingest.tables import DEAD_LETTERS, LOSSES, READINGS, TIME, Target
from telemetry.columns import DEAD, DeadLetter


@dataclass(frozen=True, slots=True)
class Block:
    """Rows for one INSERT."""

    target: Target
    rows: pa.Table


class Codes:
    """Strings to dense codes, each string once."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def code(self, text: str) -> int:
        return self._codes.setdefault(text, len(self._codes))

    def array(self, codes: npt.NDArray[np.int32]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(self._codes), pa.string()))


@dataclass(slots=True)
class _Columns:
    """The parts of every column, slice by slice."""

    parts: dict[str, list[npt.NDArray[np.generic]]] = field(default_factory=dict)

    def add(self, name: str, part: npt.NDArray[np.generic]) -> None:
        self.parts.setdefault(name, []).append(part)

    def joined(self, name: str) -> npt.NDArray[np.generic]:
        parts = self.parts[name]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def blocks(slices: list[Slice], ingested_ms: int) -> list[Block]:
    """All blocks of a commit: readings by month, then dead letters, then losses."""
    made = list(_reading_blocks([s for s in slices if s.batch.loss is None], ingested_ms))
    made += _dead_letter_blocks(slices, ingested_ms)
    made += _loss_blocks(slices, ingested_ms)
    return made


def _reading_blocks(slices: list[Slice], ingested_ms: int) -> Iterator[Block]:
    table = _readings(slices, ingested_ms)
    if table is None:
        return
    rows, months = table
    for month in np.unique(months):
        part = rows if months[0] == month == months[-1] and (months == month).all() else None
        yield Block(READINGS, part or rows.filter(pa.array(months == month)))


def _readings(slices: list[Slice], ingested_ms: int) -> tuple[pa.Table, npt.NDArray[np.generic]] | None:
    columns = _Columns()
    names = {name: Codes() for name in ("device", "metric", "text", "unit", "gateway", "epoch")}
    names["text"].code("")
    for part in slices:
        _add_slice(columns, names, part)
    if not columns.parts:
        return None
    measured_at = columns.joined("measured_at")
    arrays = []
    for column in READINGS.schema:
        if column.name == "ingested_at":
            arrays.append(pa.array(np.full(len(measured_at), ingested_ms), TIME))
        elif column.name in names:
            arrays.append(names[column.name].array(columns.joined(column.name).astype(np.int32, copy=False)))
        elif column.type == TIME:
            arrays.append(pa.array(columns.joined(column.name), pa.int64()).cast(TIME))
        else:
            arrays.append(pa.array(columns.joined(column.name), column.type))
    months = measured_at.astype("datetime64[ms]").astype("datetime64[M]")
    return pa.Table.from_arrays(arrays, schema=READINGS.schema), months


def _add_slice(columns: _Columns, names: dict[str, Codes], part: Slice) -> None:
    batch = part.batch
    span = slice(part.start, part.stop)
    series = batch.series[span]
    rows = np.arange(part.start, part.stop)
    if batch.dead:
        keep = series != DEAD
        series, rows = series[keep], rows[keep]
    if not rows.size:
        return
    for name in ("device", "metric", "unit"):
        codes = np.array([names[name].code(getattr(s, name)) for s in batch.names], np.int32)
        columns.add(name, codes[series])
    picked = span if rows.size == part.stop - part.start else rows
    for name in ("measured_at", "received_at", "value", "quality"):
        columns.add(name, getattr(batch, name)[picked])
    columns.add("text", _texts(batch, rows, names["text"]))
    columns.add("gateway", np.full(rows.size, names["gateway"].code(batch.header.gateway), np.int32))
    columns.add("epoch", np.full(rows.size, names["epoch"].code(batch.header.epoch), np.int32))
    columns.add("seq", (rows + batch.header.first_seq).astype(np.uint64))


def _texts(batch: Batch, rows: npt.NDArray[np.int64], texts: Codes) -> npt.NDArray[np.int32]:
    codes = np.zeros(rows.size, np.int32)
    if batch.texts:
        for index, position in enumerate(rows.tolist()):
            if position in batch.texts:
                codes[index] = texts.code(batch.texts[position])
    return codes


def _dead_letter_blocks(slices: list[Slice], ingested_ms: int) -> list[Block]:
    rows = [
        dead_letter_row(part.batch, position, part.batch.dead[position], ingested_ms)
        for part in slices
        for position in part.batch.dead
        if part.start <= position < part.stop
    ]
    return [Block(DEAD_LETTERS, pa.Table.from_pylist(rows, DEAD_LETTERS.schema))] if rows else []


def dead_letter_row(batch: Batch, position: int, letter: DeadLetter, ingested_ms: int) -> dict[str, object]:
    """A row of the table dead_letters."""
    return {
        "gateway": batch.header.gateway,
        "epoch": batch.header.epoch,
        "seq": batch.header.first_seq + position,
        "received_at": int(batch.received_at[position]),
        "ingested_at": ingested_ms,
        **letter._asdict(),
    }


def _loss_blocks(slices: list[Slice], ingested_ms: int) -> list[Block]:
    rows = [
        {
            "gateway": part.batch.header.gateway,
            "epoch": part.batch.header.epoch,
            "first_seq": part.first_seq,
            "last_seq": part.last_seq,
            "reason": part.batch.loss.reason,
            "declared_at": part.batch.loss.declared_at,
            "ingested_at": ingested_ms,
        }
        for part in slices
        if part.batch.loss is not None
    ]
    return [Block(LOSSES, pa.Table.from_pylist(rows, LOSSES.schema))] if rows else []
