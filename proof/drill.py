"""`fieldline drill`: break every part of the pipeline at moments drawn from a seed, then check the books.

The faults are in proof/faults.py; each kind comes once, in random order, then all over again. Between agent and
trunk broker stands a link that can go bad, and somebody on the trunk sends batches again. Both brokers are
Mosquitto where it is installed: it marks redeliveries, which the embedded one does not (docs/decisions/0005).

Every message that a device was told is safe is compared by value with the table (proof/checker.py): the fleet
writes a journal, and a query counts each (device, metric, time, value). 0 only when nothing is double and nothing
is missing but what a corrupted spool has declared lost.
"""

import asyncio
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from proof.account import Account, Totals
from proof.checker import Verdict, held, judge, told
from proof.demo import close_books, fleet_command, sent
from proof.faults import FAULTS, KEEPALIVE_S, Scene, faketime, faketime_environment
from proof.link import Link
from proof.meddler import Meddler
from proof.ports import free_ports
from proof.stack import Stack, mosquitto, mosquitto_broker, read_report
from telemetry.errors import FieldlineError

PAUSE_S = (1.0, 4.0)
RECOVERED_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """See `fieldline drill --help`."""

    seconds: float
    seed: int
    report: Path | None = None
    faults: tuple[str, ...] = tuple(FAULTS)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.faults if name not in FAULTS]:
            raise FieldlineError(f"--fault {unknown[0]!r} is not one of: {', '.join(FAULTS)}")


@dataclass(slots=True)
class Struck:
    """One kind of fault: how often, and the slowest return to work, from its beginning on."""

    times: int = 0
    recovery_s_worst: float = 0.0


@dataclass(slots=True)
class Drill:
    """One run."""

    scene: Scene
    console: Console
    faults: tuple[str, ...]
    began_s: float = field(default_factory=time.monotonic)
    struck: dict[str, Struck] = field(default_factory=dict)
    backlog: int = 0
    backlog_peak: int = 0
    _bag: list[str] = field(default_factory=list)

    @property
    def stack(self) -> Stack:
        return self.scene.stack

    def _draw(self) -> str:
        """The next fault: every kind once, in random order, then all over again."""
        if not self._bag:
            self._bag = [name for name in self.faults if name != "set gateway's clock" or self.scene.clock is not None]
            self.scene.chance.shuffle(self._bag)
        return self._bag.pop()

    async def strike(self) -> None:
        """One fault, and the wait until what is spooled from then on is confirmed."""
        name = self._draw()
        struck = self.struck.setdefault(name, Struck())
        at_s = time.monotonic()
        self.console.print(f"{at_s - self.began_s:6.1f} s  {name:<20}", end="")
        await FAULTS[name](self.scene)
        await self._works_again(name)
        took_s = time.monotonic() - at_s
        self.console.print(f" {took_s:5.1f} s until confirmed, {self.backlog:,} records wait")
        struck.times += 1
        struck.recovery_s_worst = max(struck.recovery_s_worst, took_s)

    async def _works_again(self, name: str) -> None:
        """The receipt moves on: something that is spooled from now on was confirmed."""
        deadline_s = time.monotonic() + RECOVERED_S_MAX
        goal: int | None = None
        while True:
            status = await asyncio.to_thread(self.stack.spool_status)
            if status is not None:
                self.backlog = status.records
                self.backlog_peak = max(self.backlog_peak, status.records)
                goal = status.last_seq + 1 if goal is None else goal
                if status.mark >= goal:
                    return
            if time.monotonic() > deadline_s:
                logs = "\n".join(f"{part}:\n{self.stack.programs[part].tail(8)}" for part in ("edge", "ingest"))
                raise FieldlineError(
                    f"After the fault {name!r} nothing was confirmed for {RECOVERED_S_MAX:.0f} s.\n{logs}"
                )
            await asyncio.sleep(0.05)


async def run(options: Options) -> int:
    """Run the drill; 0 only when the books are right, by count and by value."""
    console = Console(highlight=False)
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise FieldlineError(f"cannot write --report {options.report}: there is no such directory")
    with tempfile.TemporaryDirectory(prefix="fieldline-drill-") as directory:
        chance = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
        stack, clock = _stack(Path(directory), console)
        console.print(f"Drill with seed {options.seed}: {options.seconds:.0f} s of faults, logs in {directory}/logs")
        meddler = Meddler(stack.ports.trunk, chance)
        async with Link(stack.uplink_port, stack.ports.trunk).open() as link, stack.running():
            client = await asyncio.to_thread(stack.client)
            meddling = asyncio.create_task(meddler.run(), name="meddler")
            try:
                drill = Drill(Scene(stack, link, meddler, client, chance, clock), console, options.faults)
                account, verdict = await _run(options, drill)
            finally:
                meddling.cancel()
                await asyncio.gather(meddling, return_exceptions=True)
                await asyncio.to_thread(client.close)
    console.print(_table(drill))
    console.print(f"Batches sent again: {meddler.sent}")
    for line in verdict.sentences():
        console.print(line)
    passed = account.adds_up and not verdict.double and verdict.missing.total() <= account.losses
    if passed and account.losses:
        console.print(f"The {account.losses} records that the corrupted spool lost are declared, and no others.")
    if options.report is not None:
        _write(options, drill, account, verdict, passed=passed)
    print(account.line(), flush=True)
    return 0 if passed else 1


def _stack(directory: Path, console: Console) -> tuple[Stack, Path | None]:
    """The pipeline under test, and the file that sets its gateway's clock, if that can be done here."""
    ports, uplink_port, program = free_ports(), free_ports().trunk, mosquitto()
    device_broker, trunk_broker = (
        ((), ())
        if program is None
        else (mosquitto_broker(program, port, directory) for port in (ports.mqtt, ports.trunk))
    )
    if program is None:
        console.print("Mosquitto is not installed: the embedded device broker may redeliver unmarked.")
    stack = Stack(directory, ports, device_broker, trunk_broker, uplink_port=uplink_port, keepalive_s=KEEPALIVE_S)
    library, clock = faketime(), directory / "clock"
    if library is None:
        console.print("libfaketime is not installed (Debian: faketime): the gateway's clock is not set.")
        return stack, None
    stack.programs["edge"].environment = faketime_environment(library, clock)
    return stack, clock


async def _run(options: Options, drill: Drill) -> tuple[Account, Verdict]:
    stack = drill.stack
    report, journal = stack.directory / "fleet.json", stack.directory / "journal.jsonl"
    command = [*fleet_command(stack.ports, report), "--journal", str(journal)]
    command += ["--devices", "60", "--rate", "5", "--poison", "0.01", "--seed", str(options.seed)]
    fleet = stack.add("fleet", command, restart=False)
    fleet.start()
    drill.began_s = time.monotonic()
    while time.monotonic() - drill.began_s < options.seconds:
        await asyncio.sleep(drill.scene.chance.uniform(*PAUSE_S))
        await drill.strike()
    drill.console.print("No more faults; the fleet stops, and the books are closed.")
    if await fleet.stop(seconds_max=RECOVERED_S_MAX) != 0:
        raise FieldlineError(f"The fleet was left without answers:\n{fleet.tail()}")
    account = await close_books(drill.scene.client, sent(read_report(report)), Totals())
    return account, await asyncio.to_thread(lambda: judge(told(journal), held(stack.url)))


def _table(drill: Drill) -> Table:
    table = Table(title=f"Faults (largest backlog {drill.backlog_peak:,} records)", title_justify="left")
    for heading in ("fault", "times", "until confirmed, worst"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name in drill.faults:
        if struck := drill.struck.get(name):
            table.add_row(name, str(struck.times), f"{struck.recovery_s_worst:.1f} s")
        else:
            table.add_row(name, "0", "-")
    return table


def _write(options: Options, drill: Drill, account: Account, verdict: Verdict, *, passed: bool) -> None:
    faults = [
        {"fault": name, "times": struck.times, "recovery_s_worst": round(struck.recovery_s_worst, 2)}
        for name, struck in drill.struck.items()
    ]
    content = {
        "passed": passed,
        "seed": options.seed,
        "seconds": options.seconds,
        "accounting": account.line(),
        "differences": verdict.sentences(),
        "backlog_peak": drill.backlog_peak,
        "batches_sent_again": drill.scene.meddler.sent,
        "faults": faults,
    }
    assert options.report is not None
    options.report.write_text(json.dumps(content, indent=1))
