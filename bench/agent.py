"""The agent's cost: bytes on the trunk per reading (wind-turbine replay), and memory at 1,000 devices."""

import asyncio
import csv
import json
from datetime import datetime
from pathlib import Path

from bench.figure import Figure
from bench.parts import StandInCloud, connected, publish_all, resident_mb, stack, until
from proof.ports import free_ports

SAMPLE = Path(__file__).parent.parent / "data" / "la_haute_borne" / "2015-03.csv"
DEVICES, MESSAGES_PER_DEVICE = 1000, 30


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    turbines, fleet = directory / "turbines", directory / "fleet"
    return [*await _bytes_per_reading(turbines), *await _memory(fleet)]


async def _bytes_per_reading(directory: Path) -> list[Figure]:
    messages, readings = replay(SAMPLE)
    pipeline = stack(directory, free_ports())
    cloud = StandInCloud()
    async with (
        pipeline.running(["device-broker", "trunk-broker"]),
        cloud.running(pipeline.ports.trunk),
    ):
        await pipeline.start("edge")
        async with connected(pipeline.ports.mqtt, "bench-devices") as devices:
            await publish_all(devices, messages)
        await until(lambda: cloud.records >= readings, "all readings came up the trunk")
    json_bytes = sum(len(payload) for _, payload in messages) / readings
    return [
        Figure(
            "uplink, bytes per reading (wind turbines, replayed at full speed)",
            cloud.wire_bytes / cloud.records,
            "B",
            at_most=5,
        ),
        Figure("the same readings as the devices' JSON", json_bytes, "B"),
    ]


def replay(path: Path) -> tuple[list[tuple[str, bytes]], int]:
    """The sample's rows as MQTT messages, and the number of readings in them."""
    messages, readings = [], 0
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            ts = int(datetime.fromisoformat(row["Date_time"]).timestamp() * 1000)
            values = {
                name: float(cell) if cell else None
                for name, cell in row.items()
                if name not in ("Wind_turbine_name", "Date_time")
            }
            readings += sum(value is not None for value in values.values())
            topic = f"devices/{row['Wind_turbine_name']}/telemetry"
            messages.append((topic, json.dumps({"ts": ts} | values).encode()))
    return messages, readings


async def _memory(directory: Path) -> list[Figure]:
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
        at_start = resident_mb(pid)
        async with connected(pipeline.ports.mqtt, "bench-devices") as devices:
            await publish_all(devices, messages)
        await until(lambda: cloud.records >= 2 * len(messages), "all readings came up the trunk")
        return [
            Figure(f"agent, resident memory with {DEVICES:,} devices", resident_mb(pid), "MB", at_most=80),
            Figure("agent, resident memory after its start", at_start, "MB"),
        ]
