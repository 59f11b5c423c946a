"""Messages that are made up: devices with slowly wandering values, and broken messages on request.

Everything but the time stamps follows from the seed.
"""

import random
import time
from collections.abc import Iterator

from firmware_stubs.message import Message, make

METRICS = ("temperature", "humidity", "pressure", "battery", "co2", "lux", "noise", "flow")
START = (20.0, 55.0, 1013.0, 3.7, 420.0, 300.0, 45.0, 12.0)

POISON = (
    b'{"ts": 17500000',
    b'{"temperature": NaN}',
    b'{"temperature": [1, 2]}',
    b'["no", "object"]',
    b"",
    b'{"ts": 99999999999999, "temperature": 1}',
    b'{"ts": "yesterday", "temperature": 1}',
    b"\x00\xff\xfe not text",
    b'{"blob": "' + b"x" * 300_000 + b'"}',
)
"""Each must become exactly one dead letter; but over CoAP the last one is too long (4.13) and kept nowhere."""


def device_names(count: int) -> list[str]:
    return [f"dev-{number:05d}" for number in range(count)]


def messages(names: list[str], rate_hz: float, metrics: int, seed: int) -> Iterator[Message]:
    """Each device sends `rate_hz` messages a second, for ever; devices are spread over the period."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    labels = METRICS[:metrics]
    values = {name: [start + chance.uniform(-2, 2) for start in START[:metrics]] for name in names}
    tick = 0
    while True:
        for index, name in enumerate(names):
            due_s = (tick + index / len(names)) / rate_hz
            state = values[name]
            for position in range(len(state)):
                state[position] += chance.gauss(0, 0.05)
            readings = {label: round(value, 2) for label, value in zip(labels, state, strict=True)}
            yield make(name, due_s, time.time_ns() // 1_000_000, readings)
        tick += 1


def poisoned(source: Iterator[Message], share: float, seed: int) -> Iterator[Message]:
    """The same messages, some of them replaced by broken ones."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    for message in source:
        if chance.random() < share:
            yield message._replace(payload=chance.choice(POISON), readings=0, poison=True)
        else:
            yield message
