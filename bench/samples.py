"""Readings to measure with, as columns that the agent's decoder made: real turbines, and a fleet that is made up.

The fleet: DEVICES devices that send one JSON message of four metrics every PERIOD_MS, by their own clocks in integer
milliseconds, each up to JITTER_MS early or late; a message takes DELAY_MS to arrive. Each value goes its own random
way in steps of a normal distribution (sigma STEP) and is sent with two decimals. All draws come from one seed.
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from firmware_stubs.synthetic import METRICS, START
from telemetry.columns import Columns, Series
from telemetry.delivery import Chunk
from telemetry.wire import Header

TURBINES = Path(__file__).parent.parent / "data" / "la_haute_borne" / "2015-03.csv"
DEVICES, PERIOD_MS, JITTER_MS, DELAY_MS, STEP = 200, 5000, 50, (5, 40), 0.05
FLEET_METRICS = 4
FLEET_S = 600
START_MS = 1_767_225_600_000
EPOCH = "0123456789abcdef"


class Message(NamedTuple):
    """What a device sends, and when it arrives at the gateway."""

    received_ms: int
    topic: str
    payload: bytes


class Sample(NamedTuple):
    """Records in the order of their arrival, and what their series ids stand for."""

    columns: Columns
    series: list[Series]

    def batches(self, rows_max: int) -> list[tuple[Header, Columns]]:
        """Cut as a backlog is cut."""
        starts = range(0, len(self.columns), rows_max)
        return self._cut([*starts, len(self.columns)])

    def live_batches(self, every_ms: int) -> list[tuple[Header, Columns]]:
        """Cut as it comes: what has arrived within each `every_ms`."""
        ticks = [at_ms // every_ms for at_ms in self.columns.received_at]
        starts = [at for at in range(1, len(ticks)) if ticks[at] != ticks[at - 1]]
        return self._cut([0, *starts, len(ticks)])

    def _cut(self, bounds: Sequence[int]) -> list[tuple[Header, Columns]]:
        return [
            (Header("gateway-1", EPOCH, start + 1, stop - start), self.columns.slice(start, stop))
            for start, stop in pairwise(bounds)
        ]


def replay(path: Path = TURBINES) -> tuple[list[tuple[str, bytes]], int]:
    """The turbines' rows as MQTT messages, and the number of readings in them."""
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


def turbines() -> Sample:
    """The replay, 20 messages in a millisecond."""
    messages, _ = replay()
    return decoded(Message(START_MS + i // 20, topic, payload) for i, (topic, payload) in enumerate(messages))


def fleet_messages() -> list[Message]:
    """What the fleet sends in FLEET_S, in the order of arrival."""
    chance = random.Random(1)
    names = METRICS[:FLEET_METRICS]
    messages = []
    for device in range(DEVICES):
        values = [start + chance.uniform(-2, 2) for start in START[:FLEET_METRICS]]
        phase_ms = chance.uniform(0, PERIOD_MS)
        for tick in range(FLEET_S * 1000 // PERIOD_MS):
            ts = START_MS + int(phase_ms + tick * PERIOD_MS + chance.uniform(-JITTER_MS, JITTER_MS))
            values = [value + chance.gauss(0, STEP) for value in values]
            fields = {"ts": ts} | {name: round(value, 2) for name, value in zip(names, values, strict=True)}
            received_ms = ts + chance.randint(*DELAY_MS)
            messages.append(Message(received_ms, f"devices/dev-{device:05d}/telemetry", json.dumps(fields).encode()))
    return sorted(messages)


def fleet() -> Sample:
    return decoded(fleet_messages())


def decoded(messages: Iterator[Message] | Sequence[Message]) -> Sample:
    """By the agent's decoder."""
    known: dict[Series, int] = {}
    config = GatewayConfig.model_validate({"gateway": "gateway-1", "mqtt": {}, "spool": {"path": "."}})
    decoder = Decoder(config, lambda series: known.setdefault(series, len(known)))
    columns = Columns()
    for received_ms, topic, payload in messages:
        assert not decoder.decode(Chunk(received_ms, [topic], [payload], [0], set()), columns)
    return Sample(columns, list(known))
