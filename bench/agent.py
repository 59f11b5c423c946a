"""The agent's cost: bytes on the trunk per reading and per small batch."""

import asyncio
import statistics
from pathlib import Path

from bench.figure import Figure
from bench.parts import StandInCloud, connected, publish_all, stack, until
from bench.samples import DEVICES, FLEET_METRICS, PERIOD_MS, Sample, fleet, fleet_messages, replay
from edge_agent.config import Uplink
from proof.ports import free_ports
from telemetry.columns import Columns
from telemetry.wire import Dictionary, Header, encode

SMALL_BATCHES = 20


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    return [
        *await _turbine_bytes(directory / "turbines"),
        *await asyncio.to_thread(_fleet_bytes),
        *await _small_batches(directory / "small"),
    ]


async def _turbine_bytes(directory: Path) -> list[Figure]:
    messages, readings = replay()
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
            at_most=3,
        ),
        Figure("the same readings as the devices' JSON", json_bytes, "B"),
    ]


def _fleet_bytes() -> list[Figure]:
    """The synthetic fleet, encoded in this process: its times of arrival are part of what is measured."""
    sample, messages = fleet(), fleet_messages()
    readings = len(sample.columns)
    live_ms = int(Uplink().batch_age_s_max * 1000)
    backlog = _encoded(sample, sample.batches(Uplink().batch_rows_max))
    live = _encoded(sample, sample.live_batches(live_ms))
    json_bytes = sum(len(message.payload) for message in messages)
    what = f"{DEVICES} devices, {FLEET_METRICS} metrics with 2 decimals every {PERIOD_MS // 1000} s"
    return [
        Figure(f"uplink, bytes per reading ({what}; a backlog)", backlog / readings, "B", at_most=3),
        Figure(f"the same, live, a batch every {live_ms} ms", live / readings, "B"),
        Figure("the same readings as the devices' JSON", json_bytes / readings, "B"),
    ]


def _encoded(sample: Sample, batches: list[tuple[Header, Columns]]) -> int:
    """Bytes of all batches over one connection."""
    dictionary = Dictionary()
    return sum(len(encode(header, columns, sample.series.__getitem__, dictionary)) for header, columns in batches)


async def _small_batches(directory: Path) -> list[Figure]:
    """One message at a time, the next when it has come up the trunk."""
    pipeline = stack(directory, free_ports())
    cloud = StandInCloud()
    sent = [message for message in fleet_messages() if message.topic.endswith("dev-00000/telemetry")]
    batch_bytes = []
    async with (
        pipeline.running(["device-broker", "trunk-broker"]),
        cloud.running(pipeline.ports.trunk),
    ):
        await pipeline.start("edge")
        async with connected(pipeline.ports.mqtt, "bench-devices") as device:
            for number, (_, topic, payload) in enumerate(sent[:SMALL_BATCHES], start=1):
                before = cloud.wire_bytes
                await device.publish(topic, payload)
                await until(lambda n=number: cloud.records == n * FLEET_METRICS, "the message came up the trunk")
                batch_bytes.append(cloud.wire_bytes - before)
    json_bytes = statistics.mean(len(message.payload) for message in sent[:SMALL_BATCHES])
    later = statistics.mean(batch_bytes[1:])
    return [
        Figure("uplink, a batch of one message of 4 readings", later, "B"),
        Figure("the same against the device's JSON", later / json_bytes, "", at_most=0.7),
        Figure("the first of a connection, which defines its series", batch_bytes[0], "B"),
    ]
