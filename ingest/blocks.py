"""From admitted slices to the blocks of one commit: one Arrow table per ClickHouse partition and target.

A block is what one INSERT carries: rows of one month, so that ClickHouse makes it one part, atomically. It
has at most commit.rows_max rows and those of one more batch, fewer than INSERT_SETTINGS let a block have.
Columns are NumPy arrays from the wire to the insert. Names are looked up once per batch, and are integers in
its rows; a dictionary never holds a value twice.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.admit import Slice
from ingest.decode import Batch
from ingest.tables import DEAD_LETTERS, LOSSES, TIME, Target, with_columns
from telemetry.columns import DEAD, US_PER_MS, DeadLetter, Series

T = TypeVar("T", bound=Hashable)
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows for one INSERT."""

    target: Target
    rows: pa.Table


class Codes(Generic[T]):
    """Values to dense codes, each value once."""

    def __init__(self) -> None:
        self._codes: dict[T, int] = {}

    def code(self, value: T) -> int:
        return self._codes.setdefault(value, len(self._codes))

    def codes(self, values: list[T]) -> Ints:
        return np.array([self.code(value) for value in values], np.int32)

    @property
    def values(self) -> list[T]:
        return list(self._codes)


def blocks(slices: list[Slice], ingested_ms: int) -> list[Block]:
    """All blocks of a commit: readings by month, then dead letters, then losses."""
    made = list(_reading_blocks([s for s in slices if s.batch.loss is None], ingested_ms))
    made += _dead_letter_blocks(slices, ingested_ms)
    made += _loss_blocks(slices, ingested_ms)
    return made


def _reading_blocks(slices: list[Slice], ingested_ms: int) -> Iterator[Block]:
    readings = _Readings()
    for part in slices:
        readings.add(part)
    if not readings.parts:
        return
    target, measured_at = readings.target, readings.joined("measured_at")
    rows = readings.table(target, ingested_ms)
    ends = np.array([measured_at.min(), measured_at.max()])
    if len(set(_months(ends).tolist())) == 1:  # all but always
        yield Block(target, rows)
        return
    months = _months(measured_at)
    for month in np.unique(months):
        yield Block(target, rows.filter(pa.array(months == month)))


def _months(at_ms: npt.NDArray[np.generic]) -> npt.NDArray[np.datetime64]:
    return at_ms.astype("datetime64[ms]").astype("datetime64[M]")


@dataclass(slots=True)
class _Readings:
    """The readings of a commit, column by column; each column in the parts that the slices brought."""

    parts: dict[str, list[npt.NDArray[np.generic]]] = field(default_factory=dict)
    rows: int = 0
    fine: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = field(
        default_factory=list
    )  # rows whose times have more than ms, and what
    series: Codes[Series] = field(default_factory=Codes)
    texts: Codes[str] = field(default_factory=Codes)
    gateways: Codes[str] = field(default_factory=Codes)
    epochs: Codes[str] = field(default_factory=Codes)

    def add(self, part: Slice) -> None:
        batch, span = part.batch, slice(part.start, part.stop)
        series = batch.series[span]
        kept = series != DEAD if batch.dead else None
        if kept is not None and not kept.any():
            return
        header = batch.header
        columns: dict[str, npt.NDArray[np.generic]] = {
            "series": series,
            "measured_at": batch.measured_at[span],
            "received_at": batch.received_at[span],
            "value": batch.value[span],
            "quality": batch.quality[span],
            "text": self._texts(part),
            "seq": np.arange(part.first_seq, part.last_seq + 1, dtype=np.uint64),
        }
        if kept is not None:
            columns = {name: column[kept] for name, column in columns.items()}
        columns["series"] = self.series.codes(batch.names)[columns["series"]]
        rows = len(columns["series"])
        columns["gateway"] = np.full(rows, self.gateways.code(header.gateway), np.int32)
        columns["epoch"] = np.full(rows, self.epochs.code(header.epoch), np.int32)
        if batch.fine:
            self._add_fine(part, kept)
        self.rows += rows
        for name, column in columns.items():
            self.parts.setdefault(name, []).append(column)

    def _add_fine(self, part: Slice, kept: npt.NDArray[np.bool_] | None) -> None:
        fine = np.zeros(part.stop - part.start, np.int64)
        positions = np.fromiter(part.batch.fine, np.int64) - part.start
        there = (positions >= 0) & (positions < len(fine))
        fine[positions[there]] = np.fromiter(part.batch.fine.values(), np.int64)[there]
        if kept is not None:
            fine = fine[kept]
        rows = np.flatnonzero(fine).astype(np.int64)
        self.fine.append((rows + self.rows, fine[rows]))

    @property
    def target(self) -> Target:
        """With the columns that these readings need."""
        return with_columns(
            tags=any(one.tags for one in self.series.values), fine=any(len(rows) for rows, _ in self.fine)
        )

    def _join_fine(self) -> None:
        """What times have beside milliseconds, as columns of their own."""
        fine = np.zeros(self.rows, np.int64)
        for rows, values in self.fine:
            fine[rows] = values
        offsets, microseconds = np.divmod(fine, US_PER_MS)
        self.parts |= {"measured_us": [microseconds], "clock_offset_ms": [offsets]}

    def _texts(self, part: Slice) -> Ints:
        codes = np.full(part.stop - part.start, self.texts.code(""), np.int32)
        for position, text in part.batch.texts.items():
            if part.start <= position < part.stop:
                codes[position - part.start] = self.texts.code(text)
        return codes

    def joined(self, name: str) -> npt.NDArray[np.generic]:
        parts = self.parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    def table(self, target: Target, ingested_ms: int) -> pa.Table:
        if self.fine:
            self._join_fine()
        series = self.joined("series")
        dictionaries: dict[str, pa.DictionaryArray] = {
            name: _dictionary(Codes[str](), [getattr(one, name) for one in self.series.values], series)
            for name in set(Series._fields) & set(target.schema.names)
        }
        for name, words in (("text", self.texts), ("gateway", self.gateways), ("epoch", self.epochs)):
            dictionaries[name] = pa.DictionaryArray.from_arrays(self.joined(name), pa.array(words.values, pa.string()))
        arrays = []
        for column in target.schema:
            if column.name == "ingested_at":
                arrays.append(pa.array(np.full(len(series), ingested_ms)).cast(TIME))
            elif column.name in dictionaries:
                arrays.append(dictionaries[column.name])
            elif column.type == TIME:
                arrays.append(pa.array(self.joined(column.name), pa.int64()).cast(TIME))
            else:
                arrays.append(pa.array(self.joined(column.name), column.type))
        return pa.Table.from_arrays(arrays, schema=target.schema)


def _dictionary(words: Codes[str], names: list[str], series: npt.NDArray[np.generic]) -> pa.DictionaryArray:
    """For each row the name of its series."""
    return pa.DictionaryArray.from_arrays(words.codes(names)[series], pa.array(words.values, pa.string()))


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
