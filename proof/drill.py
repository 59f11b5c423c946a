"""`fieldline drill`: kill every part of the pipeline at moments drawn from a seed, then check the books.

Faults: SIGKILL of the agent, of ingest, of ClickHouse and of the trunk's broker (which keeps nothing), each
restarted by the supervisor; SIGSTOP of ingest and of the agent for a while. The device broker is Mosquitto
where it is installed: it marks redeliveries, which the embedded one does not (docs/decisions/0005).

Every message that a device was told is safe is compared by value with the table: the fleet writes a journal,
and a query counts each (device, metric, time, value). 0 only when nothing is missing and nothing is double.
"""

import asyncio
import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ingest.clickhouse.client import Client
from proof.account import Account, Totals
from proof.demo import close_books, fleet_command, sent
from proof.ports import free_ports
from proof.stack import Stack, mosquitto, mosquitto_broker, read_report
from telemetry.errors import FieldlineError

KILLED = ("edge", "ingest", "clickhouse", "trunk-broker")
HUNG = ("edge", "ingest")
PAUSE_S = (2.0, 6.0)
HANG_S = (1.0, 8.0)
RECOVERED_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """See `fieldline drill --help`."""

    seconds: float
    seed: int
    report: Path | None = None


@dataclass(slots=True)
class Fault:
    """One kind of fault on one program: how often, and the slowest return to work."""

    name: str
    times: int = 0
    recovery_s_worst: float = 0.0


@dataclass(slots=True)
class Drill:
    """One run."""

    stack: Stack
    chance: random.Random
    console: Console
    faults: dict[str, Fault] = field(default_factory=dict)
    backlog_peak: int = 0

    async def strike(self) -> None:
        """One fault, and the wait until new rows reach the table again."""
        name = self.chance.choice(KILLED + HUNG)
        kind = self.chance.choice(("kill", "hang")) if name in HUNG else "kill"
        program = self.stack.programs[name]
        fault = self.faults.setdefault(f"{kind} {name}", Fault(f"{kind} {name}"))
        self.console.print(f"  {kind} {name}")
        began_s = time.monotonic()
        if kind == "kill":
            program.kill()
        else:
            program.signal(signal.SIGSTOP)
            await asyncio.sleep(self.chance.uniform(*HANG_S))
            program.signal(signal.SIGCONT)
        await self._works_again(program.name)
        fault.times += 1
        fault.recovery_s_worst = max(fault.recovery_s_worst, time.monotonic() - began_s)

    async def _works_again(self, name: str) -> None:
        """The receipt moves on: something that is spooled from now on was confirmed."""
        deadline_s = time.monotonic() + RECOVERED_S_MAX
        goal: int | None = None
        while True:
            status = await asyncio.to_thread(self.stack.spool_status)
            if status is not None:
                self.backlog_peak = max(self.backlog_peak, status.records)
                goal = status.last_seq + 1 if goal is None else goal
                if status.mark >= goal:
                    return
            if time.monotonic() > deadline_s:
                raise FieldlineError(
                    f"After a fault of {name} nothing was confirmed for {RECOVERED_S_MAX:.0f} s.\n"
                    f"{self.stack.programs[name].tail()}"
                )
            await asyncio.sleep(0.05)


async def run(options: Options) -> int:
    """Run the drill; 0 only when the books are right, by count and by value."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="fieldline-drill-") as directory:
        ports, found = free_ports(), mosquitto()
        broker = mosquitto_broker(found, ports.mqtt, Path(directory)) if found else ()
        stack = Stack(Path(directory), ports, device_broker=broker)
        if not found:
            console.print("Mosquitto is not installed: the embedded device broker may redeliver unmarked.")
        console.print(f"Drill with seed {options.seed}, {options.seconds:.0f} s of faults")
        drill = Drill(stack, random.Random(options.seed), console)  # noqa: S311 - a schedule, not a secret
        async with stack.running():
            account, differences = await _run(options, drill)
    console.print(_table(drill))
    for line in differences:
        console.print(line)
    passed = account.holds and not differences
    if options.report is not None:
        _write(options.report, drill, account, passed=passed)
    print(account.line(), flush=True)
    return 0 if passed else 1


async def _run(options: Options, drill: Drill) -> tuple[Account, list[str]]:
    stack = drill.stack
    report, journal = stack.directory / "fleet.json", stack.directory / "journal.jsonl"
    command = [*fleet_command(stack.ports, report), "--journal", str(journal)]
    command += ["--devices", "60", "--rate", "5", "--poison", "0.01", "--seed", str(options.seed)]
    fleet = stack.add("fleet", command, restart=False)
    fleet.start()
    deadline_s = time.monotonic() + options.seconds
    while time.monotonic() < deadline_s:
        await asyncio.sleep(drill.chance.uniform(*PAUSE_S))
        await drill.strike()
    if await fleet.stop(seconds_max=RECOVERED_S_MAX) != 0:
        raise FieldlineError(f"The fleet was left without answers:\n{fleet.tail()}")
    client = await asyncio.to_thread(stack.client)
    try:
        account = await close_books(client, sent(read_report(report)), Totals())
        return account, await asyncio.to_thread(compare, client, journal)
    finally:
        client.close()


def compare(client: Client, journal: Path) -> list[str]:
    """Sentences about every kind of difference between what devices were told and the table, by value."""
    told: Counter[tuple[str, str, int, float]] = Counter()
    with journal.open() as lines:
        for entry in map(json.loads, lines):
            for metric, value in entry.get("values", {}).items():
                if value is not None:
                    told[entry["device"], metric, entry["ts"], value] += 1
    held: Counter[tuple[str, str, int, float]] = Counter()
    with client.query_row_block_stream(
        "SELECT toString(device), toString(metric), toUnixTimestamp64Milli(measured_at), value, count() "
        "FROM fieldline.readings GROUP BY device, metric, measured_at, value"
    ) as blocks:
        for block in blocks:
            for *key, count in block:
                held[tuple(key)] = count
    sentences = []
    for what, difference in (
        ("missing from the table", told - held),
        ("in the table too often", held - told),
    ):
        if difference:
            some = ", ".join(map(str, list(difference)[:3]))
            sentences.append(f"{difference.total()} readings are {what}, such as {some}")
    return sentences


def _table(drill: Drill) -> Table:
    table = Table(title=f"Faults (largest backlog {drill.backlog_peak:,} records)", title_justify="left")
    for heading in ("fault", "times", "worst recovery"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for fault in sorted(drill.faults.values(), key=lambda fault: fault.name):
        table.add_row(fault.name, str(fault.times), f"{fault.recovery_s_worst:.1f} s")
    return table


def _write(path: Path, drill: Drill, account: Account, *, passed: bool) -> None:
    faults: Sequence[dict[str, object]] = [
        {"fault": f.name, "times": f.times, "recovery_s_worst": round(f.recovery_s_worst, 2)}
        for f in drill.faults.values()
    ]
    content = {
        "passed": passed,
        "accounting": account.line(),
        "backlog_peak": drill.backlog_peak,
        "faults": faults,
    }
    path.write_text(json.dumps(content, indent=1))
