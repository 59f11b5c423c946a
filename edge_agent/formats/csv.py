"""Format `csv`: lines of comma-separated values (RFC 4180, UTF-8), one time and its readings in each.

  2026-01-01T00:00:00Z,21.5,40,"fair, calm"

The mapping names the columns, or says that the first line of each message does. A cell is read like a payload of
format `text`, quoted or not: a decimal number, a word for 1 or 0, or a text; an empty one, `nan` and `null` are no
reading. With `decimal_comma` a number has a comma for its point, and what has a point is a text. The time column has
the time of the line, as `time_format` and `time_zone` say; without it, or where it is empty, the arrival counts. Empty
lines are skipped, a line may end in LF, and a byte order mark may come first.

Refused, always as a whole: what is no CSV, a line with more or fewer cells than columns, a header that names a column
twice, a time that is none, numbers beyond a float64, names that are none.
Limits: METRICS_MAX columns, TEXT_BYTES_MAX per text, 131,072 characters per cell; the caller limits the payload.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from math import isfinite, isinf, isnan
from operator import itemgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo

from edge_agent.config import Csv
from edge_agent.formats.fields import METRICS_MAX, TEXT_BYTES_MAX
from edge_agent.formats.text import number
from edge_agent.formats.times import from_epoch, from_iso
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

LAYOUTS_MAX, HEADERS_MAX = 256, 16
"""Of configs, and of messages that name their columns, are remembered."""
_SWAPPED = str.maketrans(",.", ".,")


class _Layout(NamedTuple):
    """What stands where. cells: those of the metrics, of a line."""

    columns: int
    time: int | None
    metrics: tuple[str, ...]
    cells: Callable[[list[str]], Sequence[str]]


class _Line(NamedTuple):
    """A line's readings; texts by place."""

    metrics: tuple[str, ...]
    values: Sequence[float]
    at_ms: float
    quality: int
    texts: Mapping[int, str] | None = None


class CsvDecoder:
    """The messages of one topic."""

    __slots__ = ("_layout", "_options", "_series", "_zone")

    def __init__(self, series: SeriesIds, options: Csv) -> None:
        self._series = series
        self._options = options
        self._zone = ZoneInfo(options.time_zone) if options.time_zone else None
        self._layout = _from_config(options.columns, options.time_column) if options.columns else None

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        try:
            text = payload.decode("utf-8-sig")
        except UnicodeDecodeError:
            return "the payload is not valid UTF-8"
        plain = text.isascii() and "_" not in text  # else a cell may be a number for Python alone
        reader = csv.reader(StringIO(text, newline=""), delimiter=self._options.delimiter, strict=True)
        rows = filter(None, reader)
        lines: list[_Line] = []
        try:
            layout = self._layout or _from_header(tuple(next(rows, ())), self._options.time_column)
            if isinstance(layout, str):
                return layout
            for row in rows:
                line = self._line(row, layout, received_at_ms, plain=plain)
                if isinstance(line, str):
                    return f"line {reader.line_num}: {line}"
                lines.append(line)
        except csv.Error as error:
            return f"line {reader.line_num}: {error}"
        return self._add(lines, into) if lines else "the payload has no line of values"

    def _line(self, row: list[str], layout: _Layout, received_at_ms: int, *, plain: bool) -> _Line | str:
        if len(row) != layout.columns:
            return f"it has {len(row)} cells, {layout.columns} columns are expected"
        at: float = received_at_ms
        quality = TIME_FROM_GATEWAY
        if layout.time is not None and (cell := row[layout.time].strip()):
            stamp = self._time(cell)
            if isinstance(stamp, str):
                return stamp
            at, quality = stamp, TIME_FROM_DEVICE
        cells = layout.cells(row)
        if plain:
            try:
                values = [*map(float, map(self._numeral, cells) if self._options.decimal_comma else cells)]
            except ValueError:
                pass
            else:
                if isfinite(sum(values)):
                    return _Line(layout.metrics, values, at, quality)
        return self._mixed(layout.metrics, cells, at, quality)

    def _mixed(self, metrics: tuple[str, ...], cells: Sequence[str], at_ms: float, quality: int) -> _Line | str:
        """A line in which not every cell is a number."""
        values: dict[str, float] = {}
        texts: dict[int, str] = {}
        for metric, cell in zip(metrics, cells, strict=True):
            value = number(self._numeral(cell).encode())
            if value is None and cell.strip():
                if len(cell.encode()) > TEXT_BYTES_MAX:
                    return f"the text of {metric[:60]!r} has more than {TEXT_BYTES_MAX} bytes"
                texts[len(values)] = cell
                values[metric] = NAN
            elif value is not None and isinf(value):
                return f"{metric[:60]!r} is infinite, or out of a float64's range"
            elif value is not None and not isnan(value):
                values[metric] = value
        return _Line(tuple(values), [*values.values()], at_ms, quality, texts)

    def _numeral(self, cell: str) -> str:
        """As Python writes numbers. What has a point is none if numbers have a comma, so they change places."""
        return cell.translate(_SWAPPED) if self._options.decimal_comma else cell

    def _time(self, cell: str) -> float | str:
        unit = self._options.time_format
        if unit == "iso8601":
            return from_iso(cell, zone=self._zone)
        count = number(self._numeral(cell).encode())
        if count is None:
            return f"a time must be a number of {unit} since 1970, got {cell[:60]!r}"
        return from_epoch(count, unit)

    def _add(self, lines: Sequence[_Line], into: Readings) -> str | None:
        try:
            self._series[tuple(dict.fromkeys(metric for line in lines for metric in line.metrics))]  # all or none
        except FieldlineError as error:
            return str(error)
        for line in lines:
            into.add(self._series[line.metrics], line.values, line.at_ms, line.quality, line.texts)
        return None


@lru_cache(HEADERS_MAX)
def _from_header(columns: tuple[str, ...], time_column: str) -> _Layout | str:
    """The layout that the first line of a message names, or what is wrong with it."""
    if len(columns) > METRICS_MAX:
        return f"the header has {len(columns)} columns, at most {METRICS_MAX} are allowed"
    seen: set[str] = set()
    for column in columns:
        if not column:
            return f"the header has no name for column {len(seen) + 1}"
        if column in seen:
            return f"the header has the column {column[:60]!r} twice"
        seen.add(column)
    if not seen - {time_column}:
        return "the header has no column beside the time's" if seen else "the payload has no line of values"
    return _layout(columns, time_column)


def _layout(columns: tuple[str, ...], time_column: str) -> _Layout:
    """Columns without a name are not taken."""
    places = [place for place, column in enumerate(columns) if column and column != time_column]
    time = columns.index(time_column) if time_column in columns else None
    return _Layout(len(columns), time, tuple(columns[place] for place in places), _getter(places))


_from_config = lru_cache(LAYOUTS_MAX)(_layout)


def _getter(places: Sequence[int]) -> Callable[[list[str]], Sequence[str]]:
    """The cells in some places; itemgetter gives no sequence of one."""
    return itemgetter(*places) if len(places) > 1 else lambda row: [row[place] for place in places]
