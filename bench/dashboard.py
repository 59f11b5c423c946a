"""Every query that a page asks, over 100 million readings: how long it takes, and what a reading takes on disk.

1,000 devices with 10 metrics each, a reading a minute, 20 gateways. The engine makes the readings itself, in slices as
a worker inserts them, into var/bench-dashboard-N, and keeps them there: a second run only asks. Values are rounded
waves with noise, as sensors send them; one metric is a counter. Each slice is taken into the rollups, as `fieldline
analytics rollup --follow` does. `python -m bench.dashboard --readings 10000000` takes fewer readings, `--seconds 100`
stops making them after so long, to go on at the next call.

Pages are those of analytics/web, the dashboards and variables of analytics/grafana.py, and the named queries that
neither asks. Each query is asked over HTTP by one client, as a page does, ROUNDS times after one that does not count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from analytics import grafana
from analytics.alerts.conditions import Condition, condition
from analytics.alerts.rules import of_json
from analytics.migrate import migrate
from analytics.queries import ask, load
from analytics.rollup import backfill, is_kept, roll_up
from analytics.web import charts
from analytics.web.pages import custody, explorer
from bench.figure import Figure, Table
from ingest.clickhouse.client import Client, connect
from proof.ports import free_ports

READINGS = 100_000_000
DEVICES, GATEWAYS = 1000, 20
STEP_S = 60
SLICE_STEPS = 100
COMMIT_MS = 1600
"""After the begin of a step, in which all devices measure within a second."""
SPAN = timedelta(days=7)
LETTERS_PER_GATEWAY = 500
ROUNDS = 9
MEDIAN_MS_MAX = 300

METRICS = (  # name, unit, mean, amplitude of the daily wave, noise, decimals
    ("wind_speed", "m/s", 9.0, 4.0, 3.0, 2),
    ("power", "kW", 1100.0, 700.0, 200.0, 1),
    ("rotor_speed", "rpm", 11.0, 3.0, 1.0, 2),
    ("pitch", "deg", 8.0, 6.0, 1.0, 1),
    ("nacelle_temperature", "Cel", 25.0, 6.0, 0.4, 1),
    ("gearbox_temperature", "Cel", 58.0, 9.0, 0.6, 1),
    ("outside_temperature", "Cel", 12.0, 7.0, 0.2, 1),
    ("voltage", "V", 690.0, 2.0, 3.0, 1),
    ("vibration", "mm/s", 2.0, 0.5, 1.2, 3),
    ("energy", "kWh", 0.0, 0.0, 0.0, 1),
)
PER_STEP = DEVICES * len(METRICS)
DEVICE, OTHERS = "turbine-0500", [f"turbine-{number:04d}" for number in range(100, 110)]


@dataclass(frozen=True, slots=True)
class Question:
    """A query as a page asks it. ask: gives the number of rows."""

    page: str
    what: str
    query: str
    ask: Callable[[Client], int]


def questions(end: datetime) -> list[Question]:
    """What the pages ask when the newest readings are of just before `end`."""
    return [*_pages(end), *_rules(end), *_grafana(end), *_others(end)]


def _named(page: str, what: str, query: str, given: dict[str, Any] | None = None) -> Question:
    return Question(page, what, query, lambda client: int(ask(client, query, **(given or {})).row_count))


def _before(end: datetime, hours: float) -> dict[str, Any]:
    return {"begin": end - timedelta(hours=hours), "end": end}


def _pages(end: datetime) -> Iterator[Question]:
    """What analytics/web/pages ask."""
    one = {"devices": [DEVICE], "metrics": ["power"]}
    many = {"devices": OTHERS[:4], "metrics": [metric[0] for metric in METRICS[:4]]}
    yield _named("Fleet", "", "web_gateways")
    yield _named("Fleet", "1,000 devices", "web_devices")
    yield _named("Fleet", "found by a part of the name", "web_devices", {"search": "0500"})
    yield _named("Fleet", "", "web_places")
    yield _named("Explorer", "", "web_choices")
    for name, chosen in (("a series", one), (f"{explorer.SERIES_MAX} series", many)):
        yield _named("Explorer", name, "web_selected", chosen)
        for span, span_s in explorer.SPANS.items():
            step_ms = charts.step_ms(span_s * 1000, explorer.POINTS)
            end_ms = int(end.timestamp() * 1000)
            given = chosen | {"begin_ms": end_ms - span_s * 1000, "end_ms": end_ms, "step_ms": step_ms}
            yield _named("Explorer", f"{name}, {span}", _series(step_ms), given)
    yield _named("Custody", "20 gateways", "accounting")
    yield _named("Custody", "", "web_dead_letters")
    yield _named("Custody", "", "web_letters", {"kind": "field … is no number"})
    yield _named("Custody", "", "losses", {"limit": custody.LOSSES_MAX})
    yield _named("Alerts", "", "web_alerts")
    yield _named("Alerts", "", "web_alert_rules")
    yield _named("SQL", "", "web_words")


def _series(step_ms: int) -> str:
    """The query of the coarsest table which still has the step."""
    return f"web_series_{'raw' if step_ms < 60_000 else '1m' if step_ms < 3_600_000 else '1h'}"


def _rules(end: datetime) -> Iterator[Question]:
    """Rules that are tried on the page, each over all devices."""
    now_ms = int(end.timestamp() * 1000)
    limit = {"name": "r", "metric": "power", "above": 1500}
    for rule in (
        {"kind": "threshold", "for_s": 600, **limit},
        {"kind": "rate", **limit},
        {"kind": "anomaly", "name": "r", "metric": "power"},
        {"kind": "silence", "name": "r", "after_s": 600},
        {"kind": "silence", "name": "r", "after_s": 600, "of": "gateway"},
        {"kind": "dead_letters", "name": "r"},
    ):
        asked = condition(of_json(json.dumps(rule)), now_ms)
        yield Question("Alerts", "1,000 devices", f"rule: {rule['kind']}", partial(_subjects, asked))


def _subjects(asked: Condition, client: Client) -> int:
    return len(asked.ask(client))


def _grafana(end: datetime) -> Iterator[Question]:
    """What Grafana's dashboards ask, for a day."""
    panels = {panel.query for _, panels in grafana.DASHBOARDS.values() for panel in panels}
    given = {"device": DEVICE, "devices": [DEVICE], "metric": "power", "metrics": ["power"]} | _before(end, 24)
    for query in sorted(panels):
        wanted = {parameter.name for parameter in load(query).parameters}
        yield _named("Grafana", "a day", query, {name: value for name, value in given.items() if name in wanted})
    for name, sql in grafana.VARIABLES.items():
        yield Question("Grafana", "", f"variable: {name}", partial(_rows, sql))


def _rows(sql: str, client: Client) -> int:
    return int(client.query(sql).row_count)


def _others(end: datetime) -> Iterator[Question]:
    """Named queries, over longer ranges."""
    hour, day, week = (_before(end, hours) for hours in (1, 24, 7 * 24))
    one = {"device": DEVICE, "metric": "power"}
    five = {"devices": [DEVICE], "metrics": [metric[0] for metric in METRICS[:5]]}
    ten = {"devices": OTHERS, "metrics": ["power"]}
    yield _named("", "1,000 devices", "devices")
    yield _named("", "", "metrics")
    yield _named("", "1,000 devices", "metric_latest", {"metric": "power"})
    for name, span in (("an hour", hour), ("a day", day), ("a week", week)):
        yield _named("", f"5 metrics, {name}", "series", five | span)
        yield _named("", f"10 devices, {name}", "series", ten | span)
    yield _named("", "a week by 10 min", "resample", one | week | {"step_s": 600, "fill": "linear"})
    yield _named("", "a week", "lttb", one | week)
    yield _named("", "a week by hour", "rate", {"device": DEVICE, "metric": "energy", "step_s": 3600} | week)
    yield _named("", "a week by hour", "time_weighted", one | week)
    yield _named("", "a week", "as_of", one | week | {"other": "wind_speed"})
    yield _named("", "a week by hour", "percentiles", one | week)
    yield _named("", "a week", "histogram", one | week)
    yield _named("", "an hour", "top_devices", {"metric": "power"} | hour)
    yield _named("", "a week", "top_devices", {"metric": "power"} | week)


def run(_directory: Path, readings: int = READINGS) -> list[Figure | Table]:
    with engine(Path("var") / f"bench-dashboard-{readings}") as client:
        fill(client, readings)
        return measure(client, readings)


@contextmanager
def engine(path: Path) -> Iterator[Client]:
    """The embedded server on `path`, in a process of its own, with the schema."""
    port = free_ports().clickhouse
    command = [sys.executable, "-m", "ingest.clickhouse.server", "--path", str(path), "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            client = _connected(port, server)
            migrate(client)
            yield client
            client.close()
        finally:
            server.terminate()


def _connected(port: int, server: subprocess.Popen[bytes]) -> Client:
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect(f"http://127.0.0.1:{port}", database="default", answer_timeout_s=600)
        except Exception:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def fill(client: Client, readings: int, seconds_max: float = float("inf")) -> bool:
    """Make what is missing; returns whether all is there. `readings` is rounded up to whole steps."""
    steps = -(-readings // PER_STEP)
    stored, begin = _stored(client)
    if not is_kept(client):
        backfill(client, Console(quiet=True))
    began = time.monotonic()
    for number in range(-(-stored // PER_STEP // SLICE_STEPS), -(-steps // SLICE_STEPS)):
        if time.monotonic() - began > seconds_max:
            return False
        first = number * SLICE_STEPS
        client.command(_slice(begin, first, min(SLICE_STEPS, steps - first)))
        client.command(_announcement(begin, first, min(SLICE_STEPS, steps - first)))
        roll_up(client)
        print(f"\r{(first + SLICE_STEPS) * PER_STEP:,} readings are made", end="", file=sys.stderr, flush=True)
    _settle(client, begin, steps)
    return True


def _stored(client: Client) -> tuple[int, datetime]:
    """How many readings there are, and the day on which they begin, or would: a week ago."""
    [(stored, first)] = client.query("SELECT count(), min(measured_at) FROM fieldline.readings").result_rows
    began = first.replace(tzinfo=UTC) if stored else datetime.now(UTC) - SPAN
    return stored, began.replace(hour=0, minute=0, second=0, microsecond=0)


def _slice(begin: datetime, first: int, steps: int) -> str:
    """An insert of `steps` readings of every series, from step `first` on; the gateway's clock is right."""
    names, units, means, amplitudes, noises, decimals = zip(*METRICS, strict=True)
    per_gateway = PER_STEP // GATEWAYS
    return f"""
        INSERT INTO fieldline.readings
            (device, metric, measured_at, received_at, ingested_at, value, text, unit, quality, gateway, epoch, seq)
        WITH
            {first} + number % {steps} AS step,
            intDiv(number, {steps}) % {len(METRICS)} + 1 AS m,
            intDiv(number, {steps * len(METRICS)}) AS d,
            {int(begin.timestamp())} * 1000 + step * {STEP_S * 1000} AS begin_ms,
            begin_ms + cityHash64(d) % 1000 AS at_ms,
            cityHash64(number, {first}) AS drawn,
            fromUnixTimestamp64Milli(toInt64(at_ms), 'UTC') AS at
        SELECT
            concat('turbine-', leftPad(toString(d), 4, '0')),
            {list(names)}[m],
            at,
            at + toIntervalMillisecond(20 + drawn % 500),
            fromUnixTimestamp64Milli(toInt64(begin_ms + {COMMIT_MS}), 'UTC'),
            if(
                m = {len(METRICS)},
                floor(step * (5 + d % 20) / 10, 1),
                round({[10**digits for digits in decimals]}[m] * (
                    {list(means)}[m] + {list(amplitudes)}[m] * sin(step * {STEP_S} / 13751 + d)
                    + {list(noises)}[m] * (intDiv(drawn, 1048576) % 1000 / 1000 - 0.5)
                )) / {[10**digits for digits in decimals]}[m]
            ),
            '',
            {list(units)}[m],
            0,
            concat('gateway-', leftPad(toString(d % {GATEWAYS}), 2, '0')),
            'e1',
            step * {per_gateway} + intDiv(d, {GATEWAYS}) * {len(METRICS)} + m
        FROM numbers({steps * PER_STEP})
    """


def _announcement(begin: datetime, first: int, steps: int) -> str:
    """The settled intents of a slice: each step was a commit."""
    per_gateway = PER_STEP // GATEWAYS
    return f"""
        INSERT INTO fieldline.intents
        WITH number + {first} AS step, toDateTime64({int(begin.timestamp())} + step * {STEP_S}, 3, 'UTC') AS at
        SELECT
            'bench', step, 1, [0], at + toIntervalMillisecond({COMMIT_MS}),
            arrayMap(
                g -> (concat('gateway-', leftPad(toString(g), 2, '0')), 'e1',
                    step * {per_gateway} + 1, (step + 1) * {per_gateway}),
                range({GATEWAYS})
            ),
            at, at + toIntervalSecond(1)
        FROM numbers({steps})
    """


def _settle(client: Client, begin: datetime, steps: int) -> None:
    """The ledger, the gateways' reports and some dead letters and losses, once."""
    if client.query("SELECT count() FROM fieldline.ledger").result_rows[0][0]:
        return
    stored = steps * PER_STEP // GATEWAYS
    mark = stored + LETTERS_PER_GATEWAY
    end_s = int(begin.timestamp()) + steps * STEP_S
    at, gateway = f"toDateTime64({end_s}, 3, 'UTC')", "concat('gateway-', leftPad(toString(number % {0}), 2, '0'))"
    gateway = gateway.format(GATEWAYS)
    client.command(
        f"""INSERT INTO fieldline.dead_letters
        SELECT {gateway}, 'e1', {stored + 1} + intDiv(number, {GATEWAYS}), {at} - toIntervalSecond(number * 7),
            {at} - toIntervalSecond(number * 7), 'devices/x',
            concat('field \\'f', toString(number), '\\' is no number'), '{{"'
        FROM numbers({GATEWAYS * LETTERS_PER_GATEWAY})"""
    )
    client.command(
        f"""INSERT INTO fieldline.losses
        SELECT {gateway}, 'e1', {mark + 1}, {mark + 100}, 'the disk was full', {at}, {at} FROM numbers({GATEWAYS})"""
    )
    client.command(
        f"""INSERT INTO fieldline.gateways (gateway, epoch, reported_at, mark, last_seq)
        SELECT {gateway}, 'e1', {at}, {mark + 100}, {mark + 100} FROM numbers({GATEWAYS})"""
    )
    client.command(
        f"""INSERT INTO fieldline.ledger
        SELECT {gateway}, 'e1', {mark + 100}, [], 'bench', 1, 1, {at} FROM numbers({GATEWAYS})"""
    )


def measure(client: Client, readings: int, rounds: int = ROUNDS) -> list[Figure | Table]:
    stored, begin = _stored(client)
    end = begin + timedelta(seconds=stored // PER_STEP * STEP_S)
    _take_in(client)
    rows = [(question, *_asked(client, question, rounds)) for question in questions(end)]
    books = ask(client, "accounting").named_results()
    assert all(row["identity_holds"] for row in books), "the books of the generated readings do not balance"
    at_rest = {row["table"]: row for row in ask(client, "storage").named_results()}
    assert at_rest["readings"]["rows"] == stored >= readings
    headings = ("page", "query", "over", "rows", "median ms", "slowest ms")
    table = Table(
        "dashboard",
        f"Queries of the pages over {stored:,} readings",
        headings,
        [
            (question.page, question.query, question.what, given, statistics.median(times_ms), max(times_ms))
            for question, given, times_ms in rows
        ],
    )
    slowest = max(statistics.median(times_ms) for *_, times_ms in rows)
    sizes = [
        Figure(f"bytes on disk per reading: {name}", at_rest[name]["bytes_on_disk"] / stored, "B")
        for name in at_rest
        if name == "readings" or name.startswith(("rollup", "kept"))
    ]
    return [table, Figure("the slowest query of a page, median", slowest, "ms", at_most=MEDIAN_MS_MAX), *sizes]


def _take_in(client: Client) -> None:
    """Wait for the engine's merges, and take in what they have made."""
    while client.query("SELECT count() FROM system.merges").result_rows != [(0,)]:
        time.sleep(0.5)
    roll_up(client)


def _asked(client: Client, question: Question, rounds: int) -> tuple[int, Sequence[float]]:
    """Rows given, and the time of each round in ms."""
    times_ms = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        rows = question.ask(client)
        times_ms.append(1000 * (time.perf_counter() - began))
    return rows, times_ms[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.dashboard", description=__doc__)
    parser.add_argument("--readings", type=int, default=READINGS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="make readings for so long")
    given = parser.parse_args()
    with engine(Path("var") / f"bench-dashboard-{given.readings}") as client:
        if not fill(client, given.readings, given.seconds):
            print("\nThere are more to make: call again.")
            return
        for made in measure(client, given.readings):
            Console(width=130).print(made.shown if isinstance(made, Table) else f"{made.what}: {made.shown}")


if __name__ == "__main__":
    main()
