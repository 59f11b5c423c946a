"""Collect: QoS 1 messages per cpu-second, device broker to decoded, fsynced and acknowledged, against a bare
paho consumer that only acknowledges what it receives. Same broker, same messages, same run.

The two take turns, so that what else the machine does meets both; each ratio is of two neighbours, and the median
of the rounds is told.
"""

import asyncio
import re
import statistics
import subprocess
import sys
from pathlib import Path

from bench.figure import Figure
from bench.parts import connected, cpu_s, publish_all, stack, until
from proof.ports import free_ports
from proof.stack import Stack

MESSAGES, DEVICES, ROUNDS = 60_000, 100, 5
METRICS = 3
OURS, BARE = "devices/dev-{:04d}/telemetry", "another/dev-{:04d}/telemetry"
"""Their topics, equally long: what is sent to one, the other does not get."""

PAHO = """
import sys
import paho.mqtt.client as mqtt

left = int(sys.argv[2])

def on_message(client, _, message):
    global left
    client.ack(message.mid, message.qos)
    left -= 1
    if left == 0:
        print("done", flush=True)

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "bench-paho", manual_ack=True)
client.on_message = on_message
client.on_connect = lambda client, *_: client.subscribe("another/+/telemetry", 1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    figures: list[Figure] = []
    async with pipeline.running(["device-broker"]):
        for version in ("5", "3.1.1"):
            _set_version(pipeline, version)
            await pipeline.start("edge")
            bare, ours = [], []
            for _ in range(ROUNDS + 1):
                bare.append(await _paho(pipeline.ports.mqtt))
                ours.append(await _agent(pipeline))
            await pipeline.programs["edge"].stop()
            figures += _figures(version, ours[1:], bare[1:])  # the first round warmed up
    return figures


def _figures(version: str, ours: list[float], bare: list[float]) -> list[Figure]:
    what = f"collect by MQTT {version}, messages per cpu-second"
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    return [
        Figure(f"{what}, against a bare paho consumer that only acknowledges", ratio, "", at_least=4.0),
        Figure(f"{what} ({METRICS} readings each)", statistics.median(ours), "messages/s"),
        Figure("bare paho, messages per cpu-second", statistics.median(bare), "messages/s"),
    ]


def _set_version(pipeline: Stack, version: str) -> None:
    file = pipeline.gateway_config
    file.write_text(re.sub(r"\[mqtt\]\n(version.*\n)?", f'[mqtt]\nversion = "{version}"\n', file.read_text()))


def messages(topic: str) -> list[tuple[str, bytes]]:
    """Messages of METRICS readings of DEVICES devices, as (topic, payload)."""
    return [
        (
            topic.format(i % DEVICES),
            b'{"ts": %d, "temperature": %.2f, "humidity": %.2f, "pressure": %.1f}'
            % (1_750_000_000_000 + i, 20 + i % 1000 / 100, 40 + i % 700 / 100, 1000 + i % 90 / 10),
        )
        for i in range(MESSAGES)
    ]


async def _agent(pipeline: Stack) -> float:
    """Messages per cpu-second of the running agent."""
    pid = pipeline.programs["edge"].pid
    expected = _spooled(pipeline) + MESSAGES * METRICS
    began = cpu_s(pid)
    async with connected(pipeline.ports.mqtt, "bench-devices", inflight_max=500) as devices:
        await publish_all(devices, messages(OURS))
    await until(lambda: _spooled(pipeline) == expected, "all messages are in the spool")
    return MESSAGES / (cpu_s(pid) - began)


def _spooled(pipeline: Stack) -> int:
    status = pipeline.spool_status()
    return status.last_seq if status else 0


async def _paho(port: int) -> float:
    """Messages per cpu-second of a paho consumer; its start and its connecting are left out."""
    consumer = subprocess.Popen(
        [sys.executable, "-c", PAHO, str(port), str(MESSAGES)], stdout=subprocess.PIPE, text=True
    )
    assert consumer.stdout is not None
    try:
        await asyncio.to_thread(consumer.stdout.readline)
        began = cpu_s(consumer.pid)
        async with connected(port, "bench-devices", inflight_max=500) as devices:
            await publish_all(devices, messages(BARE))
        await asyncio.to_thread(consumer.stdout.readline)
        return MESSAGES / (cpu_s(consumer.pid) - began)
    finally:
        consumer.kill()
        consumer.wait()
        consumer.stdout.close()
