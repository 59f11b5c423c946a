"""Collect: QoS 1 messages per cpu-second, device broker to decoded, fsynced and acknowledged, against a bare
paho consumer that only acknowledges what it receives. Same broker, same messages, same run.
"""

import asyncio
import statistics
import subprocess
import sys
from pathlib import Path

from bench.figure import Figure
from bench.parts import connected, cpu_s, publish_all, stack, until
from proof.ports import free_ports

MESSAGES, DEVICES, ROUNDS = 60_000, 100, 3
METRICS = 3

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
client.on_connect = lambda client, *_: client.subscribe("devices/+/telemetry", 1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    ours, bare = [], []
    messages = [
        (
            f"devices/dev-{i % DEVICES:04d}/telemetry",
            b'{"ts": %d, "temperature": %.2f, "humidity": %.2f, "pressure": %.1f}'
            % (1_750_000_000_000 + i, 20 + i % 1000 / 100, 40 + i % 700 / 100, 1000 + i % 90 / 10),
        )
        for i in range(MESSAGES)
    ]
    async with pipeline.running(["device-broker"]):
        bare += [await _paho(pipeline.ports.mqtt, messages) for _ in range(ROUNDS)]
        await pipeline.start("edge")
        for round_ in range(ROUNDS + 1):  # the first one warms up
            began = cpu_s(pipeline.programs["edge"].pid)
            async with connected(pipeline.ports.mqtt, "bench-devices", inflight_max=500) as devices:
                await publish_all(devices, messages)
            expected = (round_ + 1) * MESSAGES * METRICS
            await until(lambda n=expected: _spooled(pipeline) == n, "all messages are in the spool")
            ours.append(MESSAGES / (cpu_s(pipeline.programs["edge"].pid) - began))
    ratio = statistics.median(ours[1:]) / statistics.median(bare)
    return [
        Figure(
            "collect, messages per cpu-second, against a bare paho consumer that only acknowledges",
            ratio,
            "",
            at_least=0.8,
        ),
        Figure("collect, messages per cpu-second (3 readings each)", statistics.median(ours[1:]), "messages/s"),
        Figure("bare paho, messages per cpu-second", statistics.median(bare), "messages/s"),
    ]


def _spooled(pipeline: object) -> int:
    status = pipeline.spool_status()  # type: ignore[attr-defined]
    return status.last_seq if status else 0


async def _paho(port: int, messages: list[tuple[str, bytes]]) -> float:
    consumer = subprocess.Popen(
        [sys.executable, "-c", PAHO, str(port), str(len(messages))], stdout=subprocess.PIPE, text=True
    )
    assert consumer.stdout is not None
    try:
        await asyncio.to_thread(consumer.stdout.readline)
        began = cpu_s(consumer.pid)
        async with connected(port, "bench-devices", inflight_max=500) as devices:
            await publish_all(devices, messages)
        await asyncio.to_thread(consumer.stdout.readline)
        return len(messages) / (cpu_s(consumer.pid) - began)
    finally:
        consumer.kill()
        consumer.wait()
        consumer.stdout.close()
