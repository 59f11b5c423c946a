"""Plays the part of ThingsBoard that the gateway talks to, as far as the comparison needs it.

On a broker it answers the gateway's first requests (there are no rate limits, which is ThingsBoard's default, and no
attributes), and writes what comes on v1/gateway/telemetry to ClickHouse, in batches by time, acknowledged after the
insert. It is ours, does no more than that, and is counted apart.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from broker_bridge.mqtt.client import Connection, Messages, Options

TELEMETRY = "v1/gateway/telemetry"
RPC, ATTRIBUTES = "v1/devices/me/rpc", "v1/devices/me/attributes"
LIMITS = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
BATCH_S, RETRY_S, PACKET_BYTES_MAX = 0.5, 1.0, 1024 * 1024
COLUMNS = ["device", "metric", "measured_at", "value"]


class Platform:
    """Answers, and what waits for its insert."""

    def __init__(self, clickhouse_port: int) -> None:
        self._port = clickhouse_port
        self._client: Client | None = None
        self._payloads: list[bytes] = []
        self._packet_ids: list[int] = []
        self._answers: set[asyncio.Task[None]] = set()

    def receive(self, messages: Messages, connection: Connection) -> None:
        """All messages of one socket read."""
        for topic, payload, packet_id in zip(messages.topics, messages.payloads, messages.packet_ids, strict=True):
            if topic == TELEMETRY:
                self._payloads.append(payload)
                self._packet_ids.append(packet_id)
                continue
            if packet_id:
                connection.ack([packet_id])
            if topic.startswith((f"{RPC}/request/", f"{ATTRIBUTES}/request/")):
                answer = LIMITS if b"getSessionLimits" in payload else {}
                reply = connection.publish(topic.replace("/request/", "/response/"), json.dumps(answer).encode())
                task = asyncio.create_task(reply)
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)

    async def write(self, connection: Connection) -> None:
        """Every BATCH_S what has come, then its acknowledgements."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                await asyncio.sleep(BATCH_S)
                payloads, packet_ids = self._payloads, self._packet_ids
                if not payloads:
                    continue
                self._payloads, self._packet_ids = [], []
                await loop.run_in_executor(thread, self._insert, payloads)
                connection.ack(packet_ids)

    def _insert(self, payloads: list[bytes]) -> None:
        data = columns(payloads)
        while True:
            try:
                if self._client is None:
                    self._client = clickhouse_connect.get_client(host="127.0.0.1", port=self._port, database="peers")
                self._client.insert("readings", data, column_names=COLUMNS, column_oriented=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, the readings are here and are tried again
                print(f"ClickHouse: {error}", flush=True)
                time.sleep(RETRY_S)
            else:
                return


def columns(payloads: list[bytes]) -> list[list[object]]:
    """The readings in telemetry messages of the gateway API, by column."""
    devices: list[object] = []
    metrics: list[object] = []
    times: list[object] = []
    numbers: list[object] = []
    for payload in payloads:
        for device, entries in json.loads(payload).items():
            for entry in entries:
                values = entry["values"]
                devices += [device] * len(values)
                metrics += values.keys()
                times += [entry["ts"]] * len(values)
                numbers += values.values()
    return [devices, metrics, times, numbers]


async def main(trunk_port: int, clickhouse_port: int) -> None:
    """Until it is stopped."""
    platform = Platform(clickhouse_port)
    options = Options("127.0.0.1", trunk_port, "platform", clean_session=False, packet_bytes_max=PACKET_BYTES_MAX)
    connection = await Connection.open(options, platform.receive)
    await connection.subscribe([TELEMETRY, f"{RPC}/request/+", f"{ATTRIBUTES}/request/+"])
    await platform.write(connection)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
