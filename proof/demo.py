"""`fieldline demo`: four wind turbines, the whole way, on one machine.

Starts the stack, waits until what a former run left is settled, takes a baseline, lets the fleet send, shows
what happens, and closes the books. With `seconds` the fleet stops by itself; Ctrl-C stops it earlier. Either
way nothing is torn down before everything that devices were told is safe has a receipt.
"""

import asyncio
import contextlib
import importlib.util
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.clickhouse.client import ClickHouseError, Client
from proof.account import Account, Totals, totals
from proof.display import Display, Sample
from proof.ports import Ports
from proof.stack import FIELDLINE, Stack, read_report
from telemetry.errors import FieldlineError

SETTLE_S_MAX = 120.0
QUIET_S_MAX = 60.0
SAMPLE_S = 0.5
LATEST = """
SELECT device, formatDateTime(max(measured_at), '%F %R') AS at,
    round(argMaxIf(value, measured_at, metric = 'Ws_avg'), 1), round(argMaxIf(value, measured_at, metric = 'P_avg')),
    round(argMaxIf(value, measured_at, metric = 'Ot_avg'), 1)
FROM fieldline.readings WHERE metric IN ('Ws_avg', 'P_avg', 'Ot_avg') GROUP BY device ORDER BY device LIMIT 8
"""


@dataclass(frozen=True, slots=True)
class Options:
    """See `fieldline demo --help`. fleet: arguments of `fieldline simulate`; devices: the fleet's names."""

    directory: Path
    ports: Ports
    fleet: Sequence[str]
    devices: Sequence[str]
    seconds: float | None = None


async def run(options: Options) -> int:
    """Run the demo; 0 only when the books are right."""
    options.ports.check_free()
    stack = Stack(options.directory, options.ports)
    stack.add_alerts()
    has_dashboard = importlib.util.find_spec("nicegui") is not None  # the extra `web`
    if has_dashboard:
        stack.add_dashboard()
    stopping = asyncio.Event()
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopping, main)
    display = Display(options.directory, options.ports)
    display.say(f"Starting brokers, ClickHouse, ingest and the edge agent. Logs: {options.directory}/logs")
    async with stack.running():
        client = await asyncio.to_thread(stack.client)
        try:
            before = await settled(options, stack, client, stopping)
            if stopping.is_set():
                display.say("Stopped before anything was sent.")
                account = Account.of(0, before, before)
            else:
                display.say_how_to_look(has_dashboard=has_dashboard)
                sent_count = await _send(options, stack, client, display, stopping)
                display.say("The fleet has stopped; waiting for the last receipts.")
                account = await close_books(client, sent_count, before, options.devices)
                await confirmed(stack)
        finally:
            await asyncio.to_thread(client.close)
    display.end(account)
    return 0 if account.holds else 1


def _stop(stopping: asyncio.Event, main: "asyncio.Task[object]") -> None:
    """The first signal ends the sending, a second one everything, without closing the books."""
    if stopping.is_set():
        main.cancel()
    stopping.set()


async def settled(options: Options, stack: Stack, client: Client, stopping: asyncio.Event) -> Totals:
    """Wait until the spool of a former run is delivered; the tables' content is the baseline."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while (status := await asyncio.to_thread(stack.spool_status)) is None or status.records:
        if stopping.is_set():
            break
        if time.monotonic() > deadline_s:
            raise FieldlineError(
                f"What a former run left in the spool was not delivered within {SETTLE_S_MAX:.0f} s:\n"
                f"{stack.programs['ingest'].tail()}"
            )
        await asyncio.sleep(0.1)
    return await asyncio.to_thread(totals, client, options.devices)


async def _send(options: Options, stack: Stack, client: Client, display: Display, stopping: asyncio.Event) -> int:
    """Run the fleet until it ends by itself, by time or by Ctrl-C; what devices had acknowledged.

    Raises FieldlineError when the fleet fails. One that is stopped before it could write its first report has
    sent nothing.
    """
    report = options.directory / "fleet.json"
    report.unlink(missing_ok=True)
    command = [*fleet_command(options.ports, report), *options.fleet]
    if options.seconds is not None:
        command += ["--seconds", str(options.seconds)]
    fleet = stack.add("fleet", command, restart=False)
    fleet.start()
    with display:
        while fleet.is_running and not stopping.is_set():
            display.show(await asyncio.to_thread(_sample, stack, client, report))
            await asyncio.sleep(SAMPLE_S)
        await fleet.stop(seconds_max=QUIET_S_MAX)
    counts = read_report(report)
    assert fleet.process is not None
    if stopping.is_set() and not counts and fleet.process.returncode == -signal.SIGTERM:
        return 0
    if not counts or fleet.process.returncode != 0:
        raise FieldlineError(f"The fleet failed:\n{fleet.tail()}")
    return sent(counts)


def fleet_command(ports: Ports, report: Path) -> list[str]:
    """`fieldline simulate` against the stack's device side."""
    return [
        *FIELDLINE,
        "simulate",
        "--mqtt",
        f"127.0.0.1:{ports.mqtt}",
        "--coap",
        f"127.0.0.1:{ports.coap}",
        "--report",
        str(report),
    ]


def sent(counts: dict[str, int]) -> int:
    """Readings, and poison messages, that were acknowledged to a device."""
    return counts.get("readings_acked", 0) + counts.get("poison_acked", 0)


async def close_books(client: Client, sent_count: int, before: Totals, devices: Sequence[str] = ()) -> Account:
    """Wait until the tables hold what devices were told, or nothing has changed for QUIET_S_MAX."""
    account = Account.of(sent_count, before, before)
    changed_s = time.monotonic()
    while time.monotonic() - changed_s < QUIET_S_MAX:
        try:
            now = await asyncio.to_thread(totals, client, devices)
        except (ClickHouseError, FieldlineError):
            now = None
        if now is not None:
            latest = Account.of(sent_count, now, before)
            if latest != account:
                account, changed_s = latest, time.monotonic()
            if now.uncommitted == 0 and latest.missing == 0:
                return latest
        await asyncio.sleep(0.2)
    return account


async def confirmed(stack: Stack) -> None:
    """Wait until the agent has a receipt for all that is in its spool now, or none has come for QUIET_S_MAX."""
    goal = mark = 0
    changed_s = time.monotonic()
    while time.monotonic() - changed_s < QUIET_S_MAX:
        if (status := await asyncio.to_thread(stack.spool_status)) is not None:
            goal = goal or status.last_seq
            if status.mark >= goal:
                return
            if status.mark != mark:
                mark, changed_s = status.mark, time.monotonic()
        await asyncio.sleep(0.1)


def _sample(stack: Stack, client: Client, report: Path) -> Sample:
    """What the display shows; parts that do not answer now are left out."""
    rows = latency_ms = None
    latest: list[tuple[str, ...]] = []
    with contextlib.suppress(ClickHouseError):
        ((rows, latency_ms),) = client.query(
            "SELECT (SELECT count() FROM fieldline.readings), "
            "quantile(0.5)(toUnixTimestamp64Milli(ingested_at) - toUnixTimestamp64Milli(received_at)) "
            "FROM fieldline.readings WHERE ingested_at > now64(3) - INTERVAL 5 SECOND"
        ).result_rows
        latest = [tuple(map(str, row)) for row in client.query(LATEST).result_rows]
    return Sample(
        at_s=time.monotonic(),
        wall_s=time.time(),
        counts=read_report(report),
        spool=stack.spool_status(),
        rows=rows,
        latency_ms=latency_ms,
        latest=latest,
        restarts={name: p.restarts for name, p in stack.programs.items() if p.restarts},
    )
