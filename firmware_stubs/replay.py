"""Messages from a recording: a CSV file in the form of La Haute Borne's SCADA data.

The first two columns are the device's name and the time with its zone, all others are metrics; an empty cell
is sent as null. Rows keep the file's order and stamps; two rows of the same device and time are two messages.
Whatever is wrong with a file is a ValueError with a sentence that names the line.
"""

import csv
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from firmware_stubs.message import Message, make


def devices(path: Path) -> list[str]:
    """The names of the devices in a file, sorted, after a look at every row.

    Raises OSError, and ValueError with a sentence.
    """
    names = {device for device, *_ in _measurements(path, None)}
    if not names:
        raise ValueError(f"{path} has a header and no rows")
    return sorted(names)


def messages(path: Path, only: set[str], speed: float) -> Iterator[Message]:
    """The messages of some devices. speed: seconds of recorded time per second; 0: all are due at once.

    Raises OSError, and ValueError with a sentence, when it comes to the row.
    """
    for device, after_s, at_s, values in _measurements(path, only):
        due_s = max(0.0, after_s) / speed if speed else 0.0
        yield make(device, due_s, round(at_s * 1000), values)


def _measurements(path: Path, only: set[str] | None) -> Iterator[tuple[str, float, float, dict[str, float | None]]]:
    """Of each row of some devices, or of all: device, seconds after the first row, seconds since 1970 UTC, values."""
    rows = _rows(path)
    _, (_, _, *metrics) = next(rows)
    start_s: float | None = None
    for place, (device, at, *cells) in rows:
        at_s = _time(place, at)
        if start_s is None:
            start_s = at_s
        if only is not None and device not in only:
            continue
        if not device.isprintable() or not device or set(device) & set("/+#"):
            raise ValueError(f"{place}: {device!r} cannot be a device's name, which is a part of a topic")
        values = {metric: _value(place, cell) for metric, cell in zip(metrics, cells, strict=True)}
        yield device, at_s - start_s, at_s, values


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The header, then each row that is not empty, with its place in words. All have the header's length."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        length = 0
        try:
            for row in rows:
                place = f"{path}, line {rows.line_num}"
                if not length and len(row) < 3:
                    break
                if row and length and len(row) != length:
                    raise ValueError(f"{place}: it has {len(row)} cells, the header has {length}")
                length = length or len(row)
                if row:
                    yield place, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no CSV file: it is not text in UTF-8") from error
    if not length:
        raise ValueError(f"{path} must have a header: device, time, and at least one metric")


def _time(place: str, text: str) -> float:
    """Seconds since 1970 UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(f"{place}: {text[:40]!r} must be a time with its zone, such as 2015-03-01T00:10:00+01:00")
    return at.timestamp()


def _value(place: str, cell: str) -> float | None:
    """A metric's value; None for an empty cell."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: {cell[:40]!r} must be a number, or empty for none")
    return value
