"""MQTT to ClickHouse as one writes it the second time: batches by size and time, acknowledged after their insert.

A session that the broker keeps, and acknowledgements by hand: what was not inserted when the script dies is sent again.

    python mqtt_to_clickhouse.py MQTT_PORT CLICKHOUSE_PORT
"""
# ruff: noqa: ANN001, ANN201, ARG001, BLE001 - as people write scripts, without annotations

import json
import queue
import sys
import time

import clickhouse_connect
import paho.mqtt.client as mqtt

MQTT_PORT, CLICKHOUSE_PORT = int(sys.argv[1]), int(sys.argv[2])
BATCH_MESSAGES, BATCH_S, RETRY_S = 1_000, 1.0, 1.0
COLUMNS = ["device", "metric", "measured_at", "value"]

arrived = queue.SimpleQueue()


def on_connect(client, userdata, flags, reason_code, properties):
    client.subscribe("devices/+/telemetry", qos=1)


def on_message(client, userdata, message):
    arrived.put(message)


def connect():
    """ClickHouse, as soon as it can be reached."""
    while True:
        try:
            return clickhouse_connect.get_client(host="127.0.0.1", port=CLICKHOUSE_PORT, database="peers")
        except Exception as error:
            print(f"ClickHouse: {error}", flush=True)
            time.sleep(RETRY_S)


def next_batch():
    """At least one message; then all that come within BATCH_S, up to BATCH_MESSAGES."""
    batch = [arrived.get()]
    deadline = time.monotonic() + BATCH_S
    while len(batch) < BATCH_MESSAGES:
        try:
            batch.append(arrived.get(timeout=max(0, deadline - time.monotonic())))
        except queue.Empty:
            break
    return batch


def columns(batch):
    """The readings of a batch, by column; times as milliseconds, which is what the column holds."""
    devices, metrics, times, values = [], [], [], []
    for message in batch:
        fields = json.loads(message.payload)
        measured_at = fields.pop("ts")
        devices += [message.topic.split("/")[1]] * len(fields)
        metrics += fields.keys()
        times += [measured_at] * len(fields)
        values += fields.values()
    return [devices, metrics, times, values]


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "script-batched", clean_session=False, manual_ack=True)
client.on_connect = on_connect
client.on_message = on_message
client.connect("127.0.0.1", MQTT_PORT)
client.loop_start()
clickhouse = connect()
while True:
    batch = next_batch()
    data = columns(batch)
    while True:
        try:
            clickhouse.insert("readings", data, column_names=COLUMNS, column_oriented=True)
            break
        except Exception as error:
            print(f"ClickHouse: {error}", flush=True)
            time.sleep(RETRY_S)
    for message in batch:
        client.ack(message.mid, message.qos)
