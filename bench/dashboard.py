"""Every query that a page asks, over 100 million readings: how long it takes, and what a reading takes on disk.

1,000 devices with 10 metrics each, a reading a minute, 20 gateways. The engine makes the readings itself, in slices as
a worker inserts them, into var/bench-dashboard-N, and keeps them there: a second run only asks. Values are rounded
waves with noise, as sensors send them; one metric is a counter. Each slice is taken into the rollups, as `fieldline
analytics rollup --follow` does. `python -m bench.dashboard --readings 10000000` takes fewer readings, `--seconds 100`
stops making them after so long, to go on at the next call.

bench/questions.py has the queries. Each is asked over HTTP by one client, as a page does, ROUNDS times after one that
does not count.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from analytics.migrate import migrate
from analytics.queries import ask
from analytics.rollup import backfill, is_kept, roll_up
from bench.figure import Figure, Table
from bench.questions import Question, questions
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
    rows = [
        (question, *_asked(client, question, rounds)) for question in questions(end, [metric[0] for metric in METRICS])
    ]
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
    slowest = max(statistics.median(times_ms) for question, _, times_ms in rows if question.page)
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
