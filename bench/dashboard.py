"""The named queries of a dashboard over 100 million readings: how long each takes, and what a reading takes on disk.

1,000 devices with 10 metrics each, a reading a minute, 20 gateways. The engine makes the readings itself, in slices as
a worker inserts them, into var/bench-dashboard-N, and keeps them there: a second run only asks. Values are rounded
waves with noise, as sensors send them; one metric is a counter. `python -m bench.dashboard --readings 10000000` takes
fewer readings, `--seconds 100` stops making them after so long, to go on at the next call.

Each query is asked over HTTP by one client, as a page does, ROUNDS times after one that does not count.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from analytics.migrate import migrate
from analytics.queries import ask
from bench.figure import Figure, Table
from ingest.clickhouse.client import Client, connect
from proof.ports import free_ports

READINGS = 100_000_000
DEVICES, GATEWAYS = 1000, 20
STEP_S = 60
SLICE_STEPS = 100
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


@dataclass(frozen=True, slots=True)
class Question:
    """A query as a page asks it."""

    page: str
    what: str
    query: str
    given: dict[str, Any]


def questions(end: datetime) -> list[Question]:
    """What the pages ask when the newest readings are of just before `end`."""
    device, other = "turbine-0500", [f"turbine-{number:04d}" for number in range(100, 110)]
    hour, day, week = ({"begin": end - timedelta(hours=hours), "end": end} for hours in (1, 24, 7 * 24))
    one = {"device": device, "metric": "power"}
    five = {"devices": [device], "metrics": [metric[0] for metric in METRICS[:5]]}
    return [
        Question("fleet", "", "gateways", {}),
        Question("fleet", "a day", "throughput", day),
        Question("fleet", "an hour", "ingest_latency", hour),
        Question("fleet", "", "devices", {}),
        Question("fleet", "", "storage", {}),
        Question("device", "", "device_latest", {"device": device}),
        Question("device", "5 metrics, an hour", "series", five | hour),
        Question("device", "5 metrics, a day", "series", five | day),
        Question("device", "5 metrics, a week", "series", five | week),
        Question("device", "a day", "readings", {"device": device} | day),
        Question("explorer", "", "metrics", {}),
        Question("explorer", "1,000 devices", "metric_latest", {"metric": "power"}),
        Question("explorer", "10 devices, an hour", "series", {"devices": other, "metrics": ["power"]} | hour),
        Question("explorer", "10 devices, a day", "series", {"devices": other, "metrics": ["power"]} | day),
        Question("explorer", "10 devices, a week", "series", {"devices": other, "metrics": ["power"]} | week),
        Question("explorer", "a week by 10 min", "resample", one | week | {"step_s": 600, "fill": "linear"}),
        Question("explorer", "a week", "lttb", one | week),
        Question("explorer", "a week by hour", "rate", {"device": device, "metric": "energy", "step_s": 3600} | week),
        Question("explorer", "a week by hour", "time_weighted", one | week),
        Question("explorer", "a week", "as_of", one | week | {"other": "wind_speed"}),
        Question("explorer", "a week by hour", "percentiles", one | week),
        Question("explorer", "a week", "histogram", one | week),
        Question("explorer", "an hour", "top_devices", {"metric": "power"} | hour),
        Question("explorer", "a week", "top_devices", {"metric": "power"} | week),
        Question("custody", "", "accounting", {}),
        Question("custody", "", "dead_letter_reasons", {"begin": end - timedelta(days=30)}),
        Question("custody", "a day", "dead_letter_rate", day),
        Question("custody", "", "losses", {}),
    ]


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
    began = time.monotonic()
    for number in range(-(-stored // PER_STEP // SLICE_STEPS), -(-steps // SLICE_STEPS)):
        if time.monotonic() - began > seconds_max:
            return False
        first = number * SLICE_STEPS
        client.command(_slice(begin, first, min(SLICE_STEPS, steps - first)))
        client.command(_announcement(begin, number, first, min(SLICE_STEPS, steps - first)))
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
            {int(begin.timestamp())} * 1000 + step * {STEP_S * 1000} + cityHash64(d) % 1000 AS at_ms,
            cityHash64(number, {first}) AS drawn,
            fromUnixTimestamp64Milli(toInt64(at_ms), 'UTC') AS at
        SELECT
            concat('turbine-', leftPad(toString(d), 4, '0')),
            {list(names)}[m],
            at,
            at + toIntervalMillisecond(20 + drawn % 500),
            at + toIntervalMillisecond(600 + drawn % 1000),
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


def _announcement(begin: datetime, number: int, first: int, steps: int) -> str:
    per_gateway = PER_STEP // GATEWAYS
    at_s = int(begin.timestamp()) + (first + steps) * STEP_S
    return f"""
        INSERT INTO fieldline.intents
        SELECT
            'bench', {number}, 1, [0], toDateTime64({at_s}, 3, 'UTC') - toIntervalSecond(1),
            arrayMap(
                g -> (concat('gateway-', leftPad(toString(g), 2, '0')), 'e1',
                    {first * per_gateway + 1}, {(first + steps) * per_gateway}),
                range({GATEWAYS})
            ),
            toDateTime64({at_s - steps * STEP_S}, 3, 'UTC'), toDateTime64({at_s}, 3, 'UTC')
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
        if name == "readings" or "rollup" in name
    ]
    return [table, Figure("the slowest query of a page, median", slowest, "ms", at_most=MEDIAN_MS_MAX), *sizes]


def _asked(client: Client, question: Question, rounds: int) -> tuple[int, Sequence[float]]:
    """Rows given, and the time of each round in ms."""
    times_ms = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        found = ask(client, question.query, **question.given)
        times_ms.append(1000 * (time.perf_counter() - began))
    return found.row_count, times_ms[1:]


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
