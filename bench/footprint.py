"""What an agent takes when it is there: memory with a fleet, processor time without one, time to start, bytes on disk.

Memory is resident memory after MESSAGES_PER_DEVICE messages of each device, both protocols switched on. Idle is the
processor time while both brokers are connected and nothing arrives. The start is timed from the moment the
command is executed to the PUBACK for a message that has been waiting at the broker, as a relay in front of the
broker sees it. What is installed is added up from the lists of files of the packages that a gateway needs.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bench.figure import Figure
from bench.parts import StandInCloud, connected, cpu_s, publish_all, resident_mb, stack, until
from broker_bridge.mqtt.packets import PUBACK
from proof.link import Link
from proof.ports import free_ports

DEVICES, MESSAGES_PER_DEVICE = 1000, 30
IDLE_S = 20
STARTS = 5
ROOT = Path(__file__).parent.parent
ROOMS = ("telemetry", "broker_bridge", "edge_agent")
"""What of this project a gateway uses; the rest is installed with it, and as small."""


def run(directory: Path) -> list[Figure]:
    return [
        *asyncio.run(_memory_and_idle(directory / "fleet")),
        *asyncio.run(_start(directory / "start")),
        *_installed(),
    ]


async def _memory_and_idle(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    cloud = StandInCloud()
    messages = [
        (
            f"devices/dev-{device:05d}/telemetry",
            json.dumps({"ts": 1_750_000_000_000 + i * 1000, "temperature": 20 + i / 10, "humidity": 40.5 + i}).encode(),
        )
        for i in range(MESSAGES_PER_DEVICE)
        for device in range(DEVICES)
    ]
    async with (
        pipeline.running(["device-broker", "trunk-broker"]),
        cloud.running(pipeline.ports.trunk),
    ):
        await pipeline.start("edge")
        pid = pipeline.programs["edge"].pid
        at_start_mb = resident_mb(pid)
        async with connected(pipeline.ports.mqtt, "bench-devices") as devices:
            await publish_all(devices, messages)
        await until(lambda: cloud.records >= 2 * len(messages), "all readings came up the trunk")
        with_fleet_mb = resident_mb(pid)
        began_s, began_cpu_s = time.monotonic(), cpu_s(pid)
        await asyncio.sleep(IDLE_S)
        idle = (cpu_s(pid) - began_cpu_s) / (time.monotonic() - began_s)
    return [
        Figure(f"agent, resident memory with {DEVICES:,} devices", with_fleet_mb, "MB", at_most=50),
        Figure("agent, resident memory after its start", at_start_mb, "MB"),
        Figure("agent, a core's time while nothing arrives", idle * 100, "%", at_most=0.5),
    ]


class _Pubacks:
    """A tap that tells when the first PUBACK has been passed on."""

    def __init__(self) -> None:
        self.first_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def __call__(self) -> "_Pubacks":
        return self

    def words(self, data: bytes) -> None:
        if data[0] == PUBACK and not self.first_s.done():
            self.first_s.set_result(time.monotonic())

    def answers(self, data: bytes) -> None:
        pass


async def _start(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    broker, relay = pipeline.ports.mqtt, pipeline.ports.clickhouse
    config = pipeline.gateway_config
    config.write_text(config.read_text().replace(f"[mqtt]\nport = {broker}\n", f"[mqtt]\nport = {relay}\n"))
    link = Link(relay, broker)
    agent = pipeline.programs["edge"]
    took_s = []
    async with pipeline.running(["device-broker"]), link.open():
        await pipeline.start("edge")  # makes the session in which messages wait
        for number in range(STARTS):
            await agent.stop()
            async with connected(broker, "bench-device") as device:
                await device.publish("devices/d/telemetry", b'{"number": %d}' % number)
            pubacks = link.tap = _Pubacks()
            began_s = time.monotonic()
            agent.start()
            async with asyncio.timeout(60):
                took_s.append(await pubacks.first_s - began_s)
        await agent.stop()
    what = "agent, from its start to the first message acknowledged"
    return [Figure(what, statistics.median(took_s), "s", at_most=1)]


def _installed() -> Iterator[Figure]:
    sizes = {name: _bytes(name) / 1e6 for name in sorted(_needed("fieldline", "edge") - {"fieldline"})}
    ours = sum(file.stat().st_size for room in ROOMS for file in (ROOT / room).rglob("*.py")) / 1e6
    yield Figure(
        f"agent, installed size with its {len(sizes)} packages (without Python)", ours + sum(sizes.values()), "MB"
    )
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    yield Figure(f"the largest of them: {', '.join(largest)}", sum(map(sizes.__getitem__, largest)), "MB")


def _needed(name: str, extra: str = "") -> set[str]:
    """A package and all that it needs here, with an extra of its own."""
    needed = {name}
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed |= _needed(requirement.name)
    return needed


def _bytes(name: str) -> int:
    """The size of a package's files, compiled Python left out: it is made later, or not at all."""
    files = metadata.files(name) or ()
    return sum(Path(file.locate()).stat().st_size for file in files if file.suffix != ".pyc")
