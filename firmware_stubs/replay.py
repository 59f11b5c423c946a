"""Messages from a recording: a CSV file in the form of La Haute Borne's SCADA data.

The first two columns are the device's name and the time with its zone, all others are metrics; an empty cell
is sent as null. Rows keep the file's order and stamps; two rows of the same device and time are two messages.
"""

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from firmware_stubs.message import Message, make


def devices(path: Path) -> list[str]:
    """The names of the devices in a file, sorted. Raises OSError, ValueError with a sentence."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if len(header) < 3:
            raise ValueError(f"{path} must have a header: device, time, and at least one metric")
        return sorted({row[0] for row in rows})


def messages(path: Path, only: set[str], speed: float) -> Iterator[Message]:
    """The messages of some devices. speed: seconds of recorded time per second; 0: all are due at once."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        metrics = next(rows)[2:]
        start_s: float | None = None
        for row in rows:
            at_s = datetime.fromisoformat(row[1]).timestamp()
            if start_s is None:
                start_s = at_s
            if row[0] not in only:
                continue
            values = {metric: float(cell) if cell else None for metric, cell in zip(metrics, row[2:], strict=True)}
            due_s = max(0.0, at_s - start_s) / speed if speed else 0.0
            yield make(row[0], due_s, round(at_s * 1000), values)
