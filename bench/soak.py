"""`make soak MINUTES=10`: constant load on the whole pipeline; what grows would show.

Every SAMPLE_S seconds it notes memory and open files of each process, the spool, the parts of the table readings and
the latency. It ends with a table, a picture and the samples (soak.png, soak.csv), closes the books, and has status 1
if they are not right or if something grew: if its median over the last quarter of the run is more than GROWTH_MAX above
that over the second quarter, in which everything has warmed up.
"""

import argparse
import asyncio
import contextlib
import csv
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.parts import stack
from bench.picture import label, lines, panels, save
from ingest.clickhouse.client import Client
from proof.account import Totals
from proof.demo import close_books, fleet_command, sent
from proof.ports import free_ports
from proof.stack import Stack, read_report

SAMPLE_S = 2.0
PROCESSES = ("edge", "ingest", "clickhouse", "device-broker", "trunk-broker")
GROWTH_MAX = 0.15
ENGINE_THREADS = 160
"""ClickHouse's pools fill in steps, the largest of 128 threads, as soon as so many parts are to be removed at once, and
keep their threads. It ends there: 164 threads after 10,800 statements (chDB 4.4, 2 cores)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One panel of the picture. slack: growth up to this, in the unit, is noise."""

    title: str
    unit: str
    lines: Sequence[str]
    slack: float


QUANTITIES = (
    Quantity("Resident memory", "MB", [f"memory {name}" for name in PROCESSES], 16),
    Quantity("Open files and sockets, without /proc", "", [f"files {name}" for name in PROCESSES], 8),
    Quantity("Threads", "", [f"threads {name}" for name in PROCESSES], ENGINE_THREADS),
    Quantity("Spool on disk", "MB", ["spool"], 4),
    Quantity("Active parts of the table readings", "", ["parts"], 20),
    Quantity("Latency, gateway to insert, median and worst", "s", ["latency median", "latency worst"], 1),
    Quantity("Readings stored per second", "/s", ["rate"], float("inf")),
)


@dataclass(slots=True)
class Samples:
    """Seconds since the start, and for each line its values."""

    at_s: list[float] = field(default_factory=list)
    lines: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at_s: float, values: dict[str, float]) -> None:
        self.at_s.append(at_s)
        for name, value in values.items():
            self.lines.setdefault(name, []).append(value)

    def quarter(self, line: str, number: int) -> float:
        """The median of a line over a quarter (1 to 4) of the run."""
        values = self.lines[line]
        return statistics.median(values[len(values) * (number - 1) // 4 : max(len(values) * number // 4, 1)] or values)

    def grew(self, line: str, slack: float) -> bool:
        """From the second quarter to the last."""
        before, after = self.quarter(line, 2), self.quarter(line, 4)
        return after > before * (1 + GROWTH_MAX) and after > before + slack


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2.0, help="messages per second of each device, of 4 readings")
    parser.add_argument("--profile", default="default", help="of agent and ingest: default or low_latency")
    parser.add_argument("--out", type=Path, default=Path("var"), help="where soak.png and soak.csv go")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="fieldline-soak-"))
    try:
        return asyncio.run(_run(directory, given))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _run(directory: Path, given: argparse.Namespace) -> int:
    console = Console(highlight=False)
    profile = f'profile = "{given.profile}"\n'
    pipeline = stack(directory, free_ports(), gateway_toml=profile, ingest_toml=profile)
    load = f"{given.devices} devices, {given.rate:g} messages of 4 readings a second each, profile {given.profile}"
    console.print(f"Soak: {load}, {given.minutes:g} minutes.")
    async with pipeline.running():
        with contextlib.closing(await asyncio.to_thread(pipeline.client)) as client:
            report = directory / "fleet.json"
            command = [*fleet_command(pipeline.ports, report), "--devices", str(given.devices)]
            fleet = pipeline.add("fleet", [*command, "--rate", str(given.rate)], restart=False)
            fleet.start()
            samples = await _watch(pipeline, client, given.minutes * 60, console)
            await fleet.stop(seconds_max=60)
            account = await close_books(client, sent(read_report(report)), Totals())
    grown = _table(samples, console)
    _write(samples, given.out / "soak.csv")
    _draw(samples, f"Fieldline soak: {load}", given.out / "soak.png")
    console.print(f"Written to {given.out / 'soak.png'} and {given.out / 'soak.csv'}")
    print(account.line(), flush=True)
    return 0 if account.holds and not grown else 1


async def _watch(pipeline: Stack, client: Client, seconds: float, console: Console) -> Samples:
    samples = Samples()
    began_s = time.monotonic()
    rows = 0
    with console.status("") as status:
        while (at_s := time.monotonic() - began_s) < seconds:
            values = await asyncio.to_thread(_sample, pipeline, client)
            rows, before = int(values.pop("rows")), rows
            values["rate"] = (rows - before) / (at_s - samples.at_s[-1] if samples.at_s else SAMPLE_S)
            samples.add(at_s, values)
            status.update(f"{at_s / 60:.1f} of {seconds / 60:g} min, {rows:,} readings stored")
            await asyncio.sleep(max(0.0, began_s + len(samples.at_s) * SAMPLE_S - time.monotonic()))
    return samples


def _sample(pipeline: Stack, client: Client) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in PROCESSES:
        process = psutil.Process(pipeline.programs[name].pid)
        values[f"memory {name}"] = process.memory_info().rss / 1e6
        values[f"files {name}"] = float(_open_files(process.pid))
        values[f"threads {name}"] = float(process.num_threads())
    spool = pipeline.spool_status()
    values["spool"] = spool.bytes / 1e6 if spool else 0.0
    ((parts, rows),) = client.query(
        "SELECT count(), sum(rows) FROM system.parts WHERE database = 'fieldline' AND table = 'readings' AND active"
    ).result_rows
    values |= {"parts": float(parts), "rows": float(rows or 0)}
    ((median, worst),) = client.query(
        "SELECT ifNotFinite(median(delay), 0), ifNotFinite(max(delay), 0) FROM (SELECT "
        "date_diff('ms', received_at, ingested_at) / 1000 AS delay FROM fieldline.readings "
        "WHERE ingested_at > now64(3) - 10)"
    ).result_rows
    return values | {"latency median": float(median), "latency worst": float(worst)}


def _open_files(pid: int) -> int:
    """Without those in /proc: each thread of ClickHouse that has run a statement keeps three there, its counters."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(link.readlink()))
    return sum(not link.startswith("/proc/") for link in links)


def _table(samples: Samples, console: Console) -> list[str]:
    """Print what each line was at first and in the end; returns what grew."""
    table = Table(title="Medians over quarters of the run", title_justify="left")
    for heading in ("what", "unit", "2nd quarter", "4th quarter", "most", ""):
        table.add_column(heading, justify="left" if heading in ("what", "unit", "") else "right")
    grown = []
    for quantity in QUANTITIES:
        for line in quantity.lines:
            grew = samples.grew(line, quantity.slack)
            grown += [line] if grew else []
            numbers = (samples.quarter(line, 2), samples.quarter(line, 4), max(samples.lines[line]))
            table.add_row(line, quantity.unit, *(f"{number:,.1f}" for number in numbers), "GREW" if grew else "")
    console.print(table)
    return grown


def _write(samples: Samples, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *samples.lines])
        for at, row in zip(samples.at_s, zip(*samples.lines.values(), strict=True), strict=True):
            writer.writerow([f"{at:.1f}", *(f"{value:.3f}" for value in row)])


def _draw(samples: Samples, title: str, path: Path) -> None:
    minutes = [at / 60 for at in samples.at_s]
    canvas, found = panels(title, -(-len(QUANTITIES) // 2), 2, (12, 13))
    for panel in found[len(QUANTITIES) :]:
        panel.set_axis_off()
    for panel, quantity in zip(found, QUANTITIES, strict=False):
        lines(panel, minutes, {line.split(" ", 1)[-1]: samples.lines[line] for line in quantity.lines})
        label(panel, quantity.title, x="minutes", y=quantity.unit)
    save(canvas, path)


if __name__ == "__main__":
    sys.exit(main())
