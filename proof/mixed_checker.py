"""The verdict on the drill's mixed devices, by value: what they said, by the rules, against what the table holds.

Shares no code with the pipeline, on purpose: it works out from proof/rules.py what may be left out, and what windows
must say. Of each series in the order of its times:

plain, scaled, both   every reading is stored once, with its value and quality
band, rare            a reading is stored once, or the newest one before it that was kept excuses it
win                   a reading is stored once, if it was too late, or it is in its window and nowhere else: number, sum
                      and sum of squares, least and greatest of the window's aggregates are those of its readings

`left_out` is what the gateway must have counted. What is missing must have been declared lost; a series may also lack
the window that it had open when its spool was corrupted.
"""

import json
import math
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from proof.rules import (
    AGGREGATES,
    DEADBAND,
    HEARTBEAT_S,
    INTERVAL_S,
    OFFSET,
    SCALE,
    VALUE_MAX,
    WINDOW_S,
)

QUERY = """
SELECT device, metric, toUnixTimestamp64Milli(measured_at), value, quality, epoch, seq
FROM fieldline.readings WHERE startsWith(device, 'drill') FORMAT JSONCompactEachRow
"""
BAD = 2
WINDOW_MS = WINDOW_S * 1000
AGAIN = "CoAP observed"
"""Whose readings may be in the table twice after a restart."""


class Row(NamedTuple):
    """Of the table."""

    device: str
    metric: str
    at_ms: int
    value: float
    quality: int
    epoch: str
    seq: int


class Point(NamedTuple):
    """A value at its time."""

    at_ms: int
    value: float
    quality: int = 0


@dataclass(slots=True)
class Findings:
    """By transport, how many readings were said, of how many it was promised that they are stored, and how many are in
    the table or left out by a rule. missing: promised and neither; double: there too often; short: windows that lack
    readings, by series.
    """

    said: Counter[str] = field(default_factory=Counter)
    promised: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    double: int = 0
    missing: list[str] = field(default_factory=list)
    short: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def lacking(self, spools_lost: int) -> int:
        """How much is missing, but for the open windows that corrupted spools took with them: one per series each."""
        return len(self.missing) + sum(max(0, count - spools_lost) for count in self.short.values())

    def sentences(self) -> list[str]:
        """What is missing, for people."""
        said = []
        if self.missing:
            said.append(
                f"{len(self.missing)} readings of mixed devices are missing from the table, such as {self.missing[0]}"
            )
        if self.short:
            said.append(f"{self.short.total()} windows lack readings, such as of {next(iter(self.short))}")
        return said


def held(url: str) -> list[Row]:
    """What the table holds of mixed devices. Raises OSError."""
    request = urllib.request.Request(f"{url}/", QUERY.encode())  # noqa: S310 - the drill's own server
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return [Row(d, m, int(at), float(v), int(q), e, int(s)) for d, m, at, v, q, e, s in map(json.loads, answer)]


def judge(journal: Path, rows: Iterable[Row]) -> Findings:
    """The verdict."""
    findings = Findings()
    stored: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        stored[row.device, row.metric].append(row)
    promised: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    said: defaultdict[tuple[str, str], set[Point]] = defaultdict(set)
    via: dict[str, str] = {}
    with journal.open() as lines:
        for entry in map(json.loads, lines):
            via[entry["device"]] = entry["via"]
            for metric, value in entry["values"].items():
                point = _expected(metric, Point(entry["ts"], float(value)))
                said[entry["device"], metric].add(point)
                if entry["promise"] != "said":
                    promised[entry["device"], metric].append(point)
    for series, points in said.items():
        _series(series, via[series[0]], sorted(points), promised[series], stored, findings)
    for silent in set(via.values()) - set(+findings.found):
        findings.wrong.append(f"nothing of what was said over {silent} is in the table")
    for device, metric in stored.keys() - said.keys():
        if metric.partition(".")[0] not in ("win", "both"):
            findings.wrong.append(f"the table has a series that nobody said: {device} {metric}")
    return findings


def _expected(metric: str, point: Point) -> Point:
    if metric != "scaled":
        return point
    value = point.value * SCALE + OFFSET
    return Point(point.at_ms, value, BAD if value > VALUE_MAX else 0)


def _series(
    series: tuple[str, str],
    via: str,
    said: Sequence[Point],
    promised: Sequence[Point],
    stored: Mapping[tuple[str, str], list[Row]],
    findings: Findings,
) -> None:
    device, metric = series
    found = Counter(Point(row.at_ms, row.value, row.quality) for row in stored.get(series, ()))
    known = frozenset(said)
    for point, count in found.items():
        if point not in known or (count > 1 and via != AGAIN):
            findings.wrong.append(f"{device} {metric} is in the table too often: {count} times {point}")
            findings.double += count - (point in known)
    left_out = _left_out(series, sorted(promised), found, findings)
    findings.left_out += left_out
    findings.said[via] += len(said)
    findings.promised[via] += len(promised)
    findings.found[via] += len(found) + left_out
    if metric in ("win", "both"):
        late = {row.at_ms for row in stored.get((device, "win"), ())}
        _windows(series, [p for p in promised if p.at_ms not in late], stored, findings)


def _left_out(series: tuple[str, str], promised: Sequence[Point], found: Counter[Point], findings: Findings) -> int:
    """How many readings a rule excuses; others that are not in the table are missing."""
    left_out = 0
    kept: Point | None = None
    for point in promised:
        if point in found:
            kept = point
        elif series[1] == "win" or (kept is not None and _excused(series[1], kept, point)):
            left_out += 1
        else:
            findings.missing.append(f"{series} {point}")
            kept = point
    return left_out


def _excused(metric: str, kept: Point, point: Point) -> bool:
    age_ms = point.at_ms - kept.at_ms
    if metric == "rare":
        return age_ms < INTERVAL_S * 1000
    return metric == "band" and age_ms < HEARTBEAT_S * 1000 and abs(point.value - kept.value) <= DEADBAND


def _windows(
    series: tuple[str, str],
    points: Sequence[Point],
    stored: Mapping[tuple[str, str], list[Row]],
    findings: Findings,
) -> None:
    """Aggregates of one window have seqs one after another; a window that was closed and begun again has two lots."""
    lots: defaultdict[int, defaultdict[tuple[str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    device, metric = series
    for place, name in enumerate(AGGREGATES):
        for row in stored.get((device, f"{metric}.{name}"), ()):
            lots[row.at_ms][row.epoch, row.seq - place][name] = row.value
    windows: defaultdict[int, list[float]] = defaultdict(list)
    for point in points:
        windows[point.at_ms - point.at_ms % WINDOW_MS].append(point.value)
    for start_ms in sorted(lots.keys() - windows.keys()):
        findings.wrong.append(f"{series} has a window from {start_ms} on, in which nothing was measured")
    last = max(windows, default=0)
    for start_ms, values in windows.items():
        whole = [lot for lot in lots[start_ms].values() if len(lot) == len(AGGREGATES)]
        count = sum(lot["count"] for lot in whole)
        if start_ms == last and not lots[start_ms]:
            continue  # it is still open: it has the one reading that closed the window before
        if count < len(values):
            findings.short[series] += 1
        elif count > len(values) or not _agrees(whole, values):
            findings.wrong.append(f"{series} from {start_ms} on: {whole} is not what {values} give")


def _agrees(lots: Sequence[dict[str, float]], values: Sequence[float]) -> bool:
    """Whether aggregates are those of these values: each is in them once."""
    sums = sum(lot["count"] * lot["mean"] for lot in lots)
    squares = sum(lot["count"] * (lot["stddev"] ** 2 + lot["mean"] ** 2) for lot in lots)
    return (
        min(lot["min"] for lot in lots) == min(values)
        and max(lot["max"] for lot in lots) == max(values)
        and {lot["last"] for lot in lots} <= set(values)
        and math.isclose(sums, math.fsum(values), rel_tol=1e-9)
        and math.isclose(squares, math.fsum(value * value for value in values), rel_tol=1e-9)
    )
