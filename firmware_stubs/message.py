"""What a device sends: one JSON object of its metrics, stamped with the device's time."""

import json
from collections.abc import Mapping
from typing import NamedTuple


class Message(NamedTuple):
    """One message. `due_s`: when to send it, in seconds after the start.

    readings: how many values it carries (a null is none). poison: it is broken on purpose.
    """

    device: str
    due_s: float
    payload: bytes
    readings: int
    poison: bool = False


def make(device: str, due_s: float, ts_ms: int, values: Mapping[str, float | None]) -> Message:
    """A message of measured values; `ts_ms` is in milliseconds since 1970 UTC."""
    payload = json.dumps({"ts": ts_ms, **values}, separators=(",", ":")).encode()
    return Message(device, due_s, payload, sum(value is not None for value in values.values()))
