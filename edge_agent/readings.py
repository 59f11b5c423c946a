"""Readings on their way from payloads into columns: lists, of a chunk's messages at a time.

A list takes the readings of a message in a quarter of the time that an array needs for them, and an array takes
a whole list at once. So formats add to these, and the decode stage moves them into columns, chunk by chunk.
"""

from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import compress, count
from typing import Any, Protocol

from telemetry.columns import US_PER_MS, Columns

NAME_CHARS_MAX = 128
UNIT_CHARS_MAX = 32

DROPPED = -2
"""The series id of readings that the mapping does not take; see `Readings.drop`."""

Metric = str | tuple[str, str]
"""A metric's name, or its name and the unit that a message states: that counts unless the mapping gives one."""


class SeriesIds(Protocol):
    """A device's metrics -> the ids of their series. Raises FieldlineError for one that has none and gets none.

    device, metric: as the topic names them; the metric is of messages that are one value.
    """

    device: str
    metric: str

    def __getitem__(self, metrics: tuple[Metric, ...], /) -> tuple[int, ...]: ...


@dataclass(slots=True)
class Readings:
    """Entry i of every list belongs to reading i; see `Columns` for what they hold.

    measured_at: an int, or a float if it has microseconds. offsets: position -> what was subtracted from the device's
    time, in ms.
    """

    series: list[int] = field(default_factory=list)
    measured_at: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    quality: list[int] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)

    def add(
        self,
        series: Collection[int],
        values: Collection[float],
        measured_at_ms: float,
        quality: int,
        texts: Mapping[int, str] | None = None,
    ) -> None:
        """Append readings that were measured at one time: a series id and a value for each.

        Values are floats, whole numbers or booleans. texts: place among these readings -> text; its value is NaN.
        """
        count = len(series)
        self.add_each(series, values, [measured_at_ms] * count, [quality] * count, texts)

    def add_each(
        self,
        series: Collection[int],
        values: Collection[float],
        measured_at_ms: Collection[float],
        quality: Collection[int],
        texts: Mapping[int, str] | None = None,
    ) -> None:
        """Append readings of which each has a time and a quality of its own."""
        if texts:
            start = len(self.value)
            self.texts.update((start + place, text) for place, text in texts.items())
        self.series += series
        self.value += values
        self.measured_at += measured_at_ms
        self.quality += quality

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        for column in (self.series, self.measured_at, self.value, self.quality):
            del column[length:]
        for sparse in (self.texts, self.offsets):
            for position in [p for p in sparse if p >= length]:
                del sparse[position]

    def drop(self, start: int) -> None:
        """Forget the readings from position `start` on whose series is DROPPED."""
        kept = [id_ != DROPPED for id_ in self.series[start:]]
        if all(kept):
            return
        places = {old: start + new for new, old in enumerate(compress(count(start), kept))}
        both: tuple[dict[int, Any], ...] = (self.texts, self.offsets)
        for sparse in both:
            moved = {position: sparse.pop(position) for position in [p for p in sparse if p >= start]}
            sparse.update((places[position], each) for position, each in moved.items() if position in places)
        columns: tuple[list[Any], ...] = (self.series, self.measured_at, self.value, self.quality)
        for column in columns:
            column[start:] = compress(column[start:], kept)

    def move_to(self, into: Columns, received_at_ms: int) -> None:
        """Append all readings, which arrived at `received_at_ms`, to columns, and be empty."""
        count, offset = len(self.value), len(into)
        if not count:
            return
        into.series.fromlist(self.series)
        self._move_times(into, offset)
        into.received_at.extend(array("q", [received_at_ms]) * count)
        into.value.fromlist(self.value)
        into.quality.frombytes(bytes(self.quality))
        into.texts.update((offset + position, text) for position, text in self.texts.items())
        self.truncate(0)

    def _move_times(self, into: Columns, offset: int) -> None:
        for position, offset_ms in self.offsets.items():
            into.fine[offset + position] = offset_ms * US_PER_MS
        try:
            into.measured_at.fromlist(self.measured_at)  # type: ignore[arg-type]  # all of them are ints, or it raises
        except TypeError:
            for position, at in enumerate(self.measured_at, offset):
                at_ms, us = divmod(round(at * US_PER_MS), US_PER_MS) if isinstance(at, float) else (at, 0)
                into.measured_at.append(at_ms)
                if us:
                    into.fine[position] = into.fine.get(position, 0) + us
