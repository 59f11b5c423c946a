"""An independent reader of recordings, journals and the table: shares no code with pipeline or fleet."""

import csv
import json
import math
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

Value = tuple[str, str, int, float]
"""(device, metric, ms since 1970 UTC, value)"""


def _cells(path: Path) -> Any:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            device, at = row.pop("Wind_turbine_name"), row.pop("Date_time")
            ts = round(datetime.fromisoformat(at).timestamp() * 1000)
            for metric, cell in row.items():
                if cell != "":
                    yield device, metric, ts, float(cell)


def statistics(path: Path) -> dict[tuple[str, str], tuple[int, float, float, float]]:
    """(turbine, signal) -> count, sum, min, max of the cells that are not empty."""
    values = defaultdict(list)
    for device, metric, _, value in _cells(path):
        values[device, metric].append(value)
    return {key: (len(v), math.fsum(v), min(v), max(v)) for key, v in values.items()}


def multiset(path: Path) -> Counter[Value]:
    """All readings of a recording."""
    return Counter(_cells(path))


def journal(path: Path) -> tuple[Counter[Value], int]:
    """All readings that a fleet's devices were told are safe, and the number of broken messages."""
    readings: Counter[Value] = Counter()
    poison = 0
    with path.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if entry.get("poison"):
                poison += 1
                continue
            for metric, value in entry["values"].items():
                if value is not None:
                    readings[entry["device"], metric, entry["ts"], float(value)] += 1
    return readings, poison


def table(client: Any, where: str = "1") -> Counter[Value]:
    """All readings in the table."""
    query = (
        "SELECT toString(device), toString(metric), toUnixTimestamp64Milli(measured_at), value "
        f"FROM fieldline.readings WHERE {where or '1'}"
    )
    return Counter(tuple(row) for row in client.query(query).result_rows)
