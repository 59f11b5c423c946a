"""`fieldline drill`: break every part of the pipeline at moments drawn from a seed, then check the books.

The faults are in proof/faults.py; each kind comes once, in random order, then all over again. Between the parts
stand links that can go bad, and somebody on the trunk sends batches again. Both brokers are Mosquitto where it is
installed: it marks redeliveries, which the embedded one does not (docs/decisions/0005).

Beside a fleet of many turbines run a few mixed devices (proof/mixed.py): every transport, seven formats, and every
processing rule (proof/rules.py).

Every message that a device was told is safe is compared by value with the table (proof/checker.py): the fleet
writes a journal, and a query counts each (device, metric, time, value). What the mixed devices wrote down is
compared by the rules (proof/mixed_checker.py): also what was left out, and what windows say. A witness
(proof/witness.py) hears whether the agent acknowledges in order. 0 only when it does, and nothing is double, and
nothing is missing but what a corrupted spool has declared lost.
"""

import asyncio
import contextlib
import importlib.util
import json
import random
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from proof import demo, rules
from proof.books import Books, close_books
from proof.faults import FAULTS, faketime, faketime_environment
from proof.link import Link
from proof.meddler import Meddler
from proof.mixed_setup import Mixed
from proof.ports import free_port, free_ports
from proof.scene import KEEPALIVE_S, Links, Scene
from proof.stack import Stack, mosquitto, mosquitto_broker, read_report
from proof.supervisor import Program
from proof.witness import Witness
from telemetry.errors import FieldlineError

PAUSE_S = (0.5, 2.0)
RECOVERED_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """See `fieldline drill --help`. has_mixed: whether there are mixed devices, too."""

    seconds: float
    seed: int
    report: Path | None = None
    faults: tuple[str, ...] = tuple(FAULTS)
    has_mixed: bool = True

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
    """One run. wrong: sentences about what did not come back after a fault."""

    scene: Scene
    console: Console
    faults: tuple[str, ...]
    began_s: float = field(default_factory=time.monotonic)
    struck: dict[str, Struck] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
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
        self.console.print(f"{at_s - self.began_s:6.1f} s  {name:<22}", end="")
        await FAULTS[name](self.scene)
        works = await self.works()
        took_s = time.monotonic() - at_s
        struck.times += 1
        struck.recovery_s_worst = max(struck.recovery_s_worst, took_s)
        if works:
            self.console.print(f" {took_s:5.1f} s until confirmed, {self.backlog:,} records wait")
        else:
            self.wrong.append(f"after the fault {name!r} nothing was confirmed for {RECOVERED_S_MAX:.0f} s")
            self.console.print(" nothing is confirmed any more")
            for part in ("edge", "ingest"):
                self.console.print(f"{part}:\n{self.stack.programs[part].tail(8)}")

    async def works(self) -> bool:
        """Whether the receipt moves on: something that is spooled from now on is confirmed."""
        deadline_s = time.monotonic() + RECOVERED_S_MAX
        goal: int | None = None
        while True:
            status = await asyncio.to_thread(self.scene.status)
            if status is not None:
                self.backlog = status.records
                self.backlog_peak = max(self.backlog_peak, status.records)
                goal = status.last_seq + 1 if goal is None else goal
                if status.mark >= goal:
                    return True
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.05)


async def run(options: Options) -> int:
    """Run the drill; 0 only when the books are right, by count and by value."""
    console = Console(highlight=False)
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise FieldlineError(f"cannot write --report {options.report}: there is no such directory")
    with tempfile.TemporaryDirectory(prefix="fieldline-drill-") as directory:
        chance = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
        stack, mixed, clock = _stack(Path(directory), console)
        console.print(f"Drill with seed {options.seed}: {options.seconds:.0f} s of faults, logs in {directory}/logs")
        meddler, witness = Meddler(stack.ports.trunk, chance), Witness()
        async with _links(stack, witness) as links, stack.running():
            client = await asyncio.to_thread(stack.client)
            meddling = asyncio.create_task(meddler.run(), name="meddler")
            try:
                drill = Drill(Scene(stack, links, meddler, client, chance, clock), console, options.faults)
                books = await _run(options, drill, mixed)
            finally:
                meddling.cancel()
                await asyncio.gather(meddling, return_exceptions=True)
                await asyncio.to_thread(client.close)
    console.print(_table(drill))
    console.print(f"Batches sent again: {meddler.sent}; acknowledgements heard: {witness.acknowledged}")
    console.print(books.table())
    console.print(f"Left out on purpose, in a window or by a rule: {books.thinned:,} readings")
    wrong = [*drill.wrong, *witness.sentences(), *books.differences()]
    for line in wrong:
        console.print(line)
    passed = not wrong
    if passed and books.now.losses:
        console.print(f"The {books.now.losses} records that the corrupted spool lost are declared, and no others.")
    if options.report is not None:
        _write(options, drill, books, wrong, passed=passed)
    print(books.account.line(), flush=True)
    return 0 if passed else 1


@contextlib.asynccontextmanager
async def _links(stack: Stack, witness: Witness) -> AsyncIterator[Links]:
    """What stands between the parts, forwarding."""
    near, far = stack.links, stack.ports
    assert near is not None
    links = Links(
        device=Link(near.mqtt, far.mqtt, witness),
        trunk=Link(near.trunk, far.trunk),
        clickhouse=Link(near.clickhouse, far.clickhouse),
    )
    async with links.device.open(), links.trunk.open(), links.clickhouse.open():
        yield links


def _stack(directory: Path, console: Console) -> tuple[Stack, Mixed, Path | None]:
    """The pipeline under test, its mixed devices, and what sets its gateway's clock, if that can be done here."""
    ports, links, program = free_ports(), free_ports(), mosquitto()
    device_broker, trunk_broker = (
        ((), ())
        if program is None
        else (mosquitto_broker(program, port, directory) for port in (ports.mqtt, ports.trunk))
    )
    if program is None:
        console.print("Mosquitto is not installed: the embedded device broker may redeliver unmarked.")
    has_dtls = importlib.util.find_spec("OpenSSL") is not None
    if not has_dtls:
        console.print("pyOpenSSL is not installed (pip install 'fieldline[dtls]'): nobody speaks CoAP over DTLS.")
    psk_file = directory / "coap.psk"
    psk_file.touch(mode=0o600)
    psk_file.write_text(f"{rules.IDENTITY}:{secrets.token_hex(16)}\n")
    oscore_file = None
    if importlib.util.find_spec("cryptography") is not None:
        from proof import mixed_oscore  # noqa: PLC0415 - cryptography is an extra

        oscore_file = directory / "coap.oscore.toml"
        mixed_oscore.keys_file(oscore_file, secrets.token_hex(16))
    mixed = Mixed(free_port(), psk_file, free_port() if has_dtls else None, oscore_file, plain_mqtt=program is None)
    stack = Stack(
        directory,
        ports,
        device_broker,
        trunk_broker,
        mixed.gateway_toml(),
        links=links,
        keepalive_s=KEEPALIVE_S,
        topics=rules.TOPICS,
    )
    library, clock = faketime(), directory / "clock"
    if library is None:
        console.print("libfaketime is not installed (Debian: faketime): the gateway's clock is not set.")
        return stack, mixed, None
    stack.programs["edge"].environment = faketime_environment(library, clock)
    return stack, mixed, clock


async def _run(options: Options, drill: Drill, mixed: Mixed) -> Books:
    stack = drill.stack
    report, journal = stack.directory / "fleet.json", stack.directory / "journal.jsonl"
    command = [*demo.fleet_command(stack.ports, report), "--journal", str(journal)]
    command += ["--devices", "60", "--rate", "5", "--poison", "0.01", "--seed", str(options.seed)]
    said = stack.directory / "mixed.jsonl"
    said.touch()
    senders = [stack.add("fleet", command, restart=False)]
    if options.has_mixed:
        senders.append(stack.add("mixed devices", mixed.command(stack, said, options.seed), restart=False))
    for sender in senders:
        sender.start()
    if not await drill.works():  # a fault before there is anything to break would be none
        drill.wrong.append("nothing was confirmed before the first fault")
    drill.began_s = time.monotonic()
    while time.monotonic() - drill.began_s < options.seconds and not drill.wrong:
        await asyncio.sleep(drill.scene.chance.uniform(*PAUSE_S))
        await drill.strike()
    drill.console.print("No more faults; the fleet stops, and the books are closed.")
    await asyncio.gather(*(_stop(sender, drill) for sender in senders))
    return await close_books(drill.scene, journal, said, read_report(report).get("poison_acked", 0))


async def _stop(sender: Program, drill: Drill) -> None:
    if await sender.stop(seconds_max=RECOVERED_S_MAX) != 0:
        drill.wrong.append(f"{sender.name} was left without answers")
        drill.console.print(f"{sender.name} was left without answers:\n{sender.tail()}")


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


def _write(options: Options, drill: Drill, books: Books, wrong: list[str], *, passed: bool) -> None:
    faults = [
        {"fault": name, "times": struck.times, "recovery_s_worst": round(struck.recovery_s_worst, 2)}
        for name, struck in drill.struck.items()
    ]
    content = {
        "passed": passed,
        "seed": options.seed,
        "seconds": options.seconds,
        "accounting": books.account.line(),
        "transports": books.transports(),
        "thinned": books.thinned,
        "differences": wrong,
        "backlog_peak": drill.backlog_peak,
        "batches_sent_again": drill.scene.meddler.sent,
        "faults": faults,
    }
    assert options.report is not None
    options.report.write_text(json.dumps(content, indent=1))
