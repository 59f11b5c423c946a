"""MQTT to ClickHouse as most people write it first: a callback that inserts each message as it comes.

python mqtt_to_clickhouse.py MQTT_PORT CLICKHOUSE_PORT
"""
# ruff: noqa: ANN001, ANN201, ARG001 - as people write scripts, without annotations

import json
import sys
from datetime import UTC, datetime

import clickhouse_connect
import paho.mqtt.client as mqtt

MQTT_PORT, CLICKHOUSE_PORT = int(sys.argv[1]), int(sys.argv[2])

clickhouse = clickhouse_connect.get_client(host="127.0.0.1", port=CLICKHOUSE_PORT, database="peers")


def on_connect(client, userdata, flags, reason_code, properties):
    client.subscribe("devices/+/telemetry", qos=1)


def on_message(client, userdata, message):
    device = message.topic.split("/")[1]
    fields = json.loads(message.payload)
    measured_at = datetime.fromtimestamp(fields.pop("ts") / 1000, UTC)
    rows = [[device, metric, measured_at, value] for metric, value in fields.items()]
    clickhouse.insert("readings", rows, column_names=["device", "metric", "measured_at", "value"])


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = on_connect
client.on_message = on_message
client.connect("127.0.0.1", MQTT_PORT)
client.loop_forever()
