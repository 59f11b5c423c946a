"""Devices at one agent, 10 to 100,000: what a message costs when its device is new and when it is known, and memory.

All devices send in turn, as a fleet does in which each reports once a minute: every topic is the one that was seen
longest ago. The trunk is away meanwhile, so that collecting and sending up are measured one after the other; then a
stand-in for the cloud takes what is in the spool.
"""

import asyncio
import itertools
from pathlib import Path

from bench.figure import Figure, Table
from bench.parts import StandInCloud, cpu_s, mark, resident_mb, stack, until
from bench.picture import curves, label, panels, save
from bench.publisher import command
from proof.ports import free_ports
from proof.stack import Stack

DEVICES = (10, 100, 1_000, 10_000, 20_000, 50_000, 100_000)
METRICS, KNOWN_MESSAGES = 4, 100_000
NEW_MIN = 1_000
"""Of fewer new devices the processor time cannot be told: the kernel counts in 10 ms."""
HEADINGS = (
    "devices",
    "collect µs/message, new device",
    "collect µs/message, known device",
    "uplink µs/message",
    "trunk B/reading",
    "memory MB",
    "memory MB, uplink done",
)


def run(directory: Path) -> list[Figure | Table]:
    rows = [asyncio.run(_row(directory / f"{devices}", devices)) for devices in DEVICES]
    _draw(rows, directory / "growth-devices.png")
    (known_us,) = (row[2] for row in rows if row[0] == NEW_MIN)
    most = f"{rows[-1][0]:,} devices"
    return [
        Figure(
            f"growth: collect, a message of {most} against one of {NEW_MIN:,}", float(rows[-1][2]) / float(known_us), ""
        ),
        Figure(f"growth: agent, resident memory with {most}", float(rows[-1][-1]), "MB"),
        Table("growth-devices", f"Devices at one agent, messages of {METRICS} readings", HEADINGS, rows),
    ]


async def _row(directory: Path, devices: int) -> list[float | str]:
    pipeline = stack(directory, free_ports())
    cloud = StandInCloud()
    async with pipeline.running(["device-broker", "edge"]):
        agent = pipeline.programs["edge"].pid
        at_s = [cpu_s(agent)]
        for messages in (devices, KNOWN_MESSAGES):
            await _publish(pipeline, devices, messages)
            at_s.append(cpu_s(agent))
        memory_mb, readings = resident_mb(agent), (devices + KNOWN_MESSAGES) * METRICS
        await pipeline.start("trunk-broker")
        async with cloud.running(pipeline.ports.trunk):
            await until(lambda: mark(pipeline) == readings, "all is confirmed")
        at_s.append(cpu_s(agent))
        new_s, known_s, uplink_s = (after - before for before, after in itertools.pairwise(at_s))
        new_us: float | str = round(1e6 * new_s / devices, 1) if devices >= NEW_MIN else ""
        per_message = (1e6 * s for s in (known_s / KNOWN_MESSAGES, uplink_s / (devices + KNOWN_MESSAGES)))
        measured = (*per_message, cloud.wire_bytes / cloud.records, memory_mb, resident_mb(agent))
        return [devices, new_us, *(round(number, 1) for number in measured)]


async def _publish(pipeline: Stack, devices: int, messages: int) -> None:
    """Publish, and wait until the spool has all."""
    before = pipeline.spool_status()
    goal = (before.last_seq if before else 0) + messages * METRICS
    options = {"devices": devices, "metrics": METRICS, "messages": messages}
    publisher = pipeline.add("publisher", command(pipeline.ports.mqtt, **options), restart=False)
    publisher.start()
    await until(lambda: (status := pipeline.spool_status()) is not None and status.last_seq >= goal, "all is spooled")
    await publisher.stop()


def _draw(rows: list[list[float | str]], path: Path) -> None:
    canvas, (cost, size, memory) = panels("Devices at one agent, each sends in its turn", 1, 3, (13, 4))
    curves(cost, rows, {"collect, device is new": 1, "collect, device is known": 2, "uplink": 3})
    label(cost, "Processor time of a message", "devices", "µs")
    curves(size, rows, {"": 4})
    label(size, "On the trunk", "devices", "bytes per reading")
    curves(memory, rows, {"after collecting": 5, "after the uplink": 6})
    label(memory, "Agent, resident memory", "devices", "MB")
    save(canvas, path)
