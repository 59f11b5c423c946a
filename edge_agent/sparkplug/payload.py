"""A Sparkplug B payload: what its fields mean (Sparkplug 3.0, chapter 6), and the one command that we write.

  Payload      1 timestamp, 2 metrics, 3 seq, 5 body
  Metric       1 name, 2 alias, 3 timestamp, 4 datatype, 6 is_transient, 7 is_null, 9 properties, 10-18 the value
  PropertySet  1 keys, 2 values, in pairs        PropertyValue  3-8 the value
Everything else is passed over; so is is_historical (5), for a reading stands at its own time anyway.

Times are ms since 1970 UTC. Nothing is checked but what it takes to read on: WireError says why that is impossible.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from edge_agent.sparkplug.protobuf import BYTES, FIXED32, FIXED64, VARINT, WireError, fields, written
from telemetry.columns import VALUE_BAD, VALUE_STALE

REBIRTH = "Node Control/Rebirth"
BOOLEAN = 11
QUALITY_GOOD, QUALITY_STALE = 192, 500
UNIT_CHARS_MAX = 32

INT, LONG, FLOAT, DOUBLE = 10 << 3 | VARINT, 11 << 3 | VARINT, 12 << 3 | FIXED32, 13 << 3 | FIXED64
BOOL, STRING, BYTES_VALUE = 14 << 3 | VARINT, 15 << 3 | BYTES, 16 << 3 | BYTES
DATASET, TEMPLATE = 17 << 3 | BYTES, 18 << 3 | BYTES
"""The tags of a metric's value, of which it has one. A cell of a data set has the first six, with numbers from 1."""
VALUES = frozenset((INT, LONG, FLOAT, DOUBLE, BOOL, STRING, BYTES_VALUE, DATASET, TEMPLATE))

float32 = Struct("<f").unpack
float64 = Struct("<d").unpack

_TIMESTAMP, _METRICS, _SEQ, _BODY = 1 << 3 | VARINT, 2 << 3 | BYTES, 3 << 3 | VARINT, 5 << 3 | BYTES
_NAME, _PROPERTIES = 1 << 3 | BYTES, 9 << 3 | BYTES
_INTEGERS = {
    2 << 3 | VARINT: "alias",
    3 << 3 | VARINT: "timestamp",
    4 << 3 | VARINT: "datatype",
    6 << 3 | VARINT: "is_transient",
    7 << 3 | VARINT: "is_null",
}
_KEY, _PROPERTY = 1 << 3 | BYTES, 2 << 3 | BYTES
_PROPERTY_INT, _PROPERTY_STRING = 3 << 3 | VARINT, 8 << 3 | BYTES


@dataclass(slots=True)
class Metric:
    """One metric of a payload. `tag` says which of VALUES it has; null has none, 0."""

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None
    datatype: int = 0
    is_transient: int = 0
    is_null: int = 0
    tag: int = 0
    value: Any = 0
    unit: str = ""
    quality: int = 0


@dataclass(slots=True)
class Payload:
    """One message's payload. has_body: bytes of whatever meaning, compressed metrics perhaps."""

    timestamp: int | None = None
    seq: int | None = None
    metrics: list[Metric] = field(default_factory=list)
    has_body: bool = False


def parse(raw: bytes) -> Payload:
    """Raises WireError."""
    payload = Payload()
    metrics = payload.metrics
    for tag, value in fields(raw):
        if tag == _METRICS:
            metrics.append(_metric(value))
        elif tag == _TIMESTAMP:
            payload.timestamp = value
        elif tag == _SEQ:
            payload.seq = value
        elif tag == _BODY:
            payload.has_body = True
    return payload


def _metric(raw: bytes) -> Metric:
    metric = Metric()
    for tag, value in fields(raw):
        if tag in VALUES:
            metric.tag, metric.value = tag, value
        elif tag in _INTEGERS:
            setattr(metric, _INTEGERS[tag], value)
        elif tag == _NAME:
            metric.name = text(value)
        elif tag == _PROPERTIES:
            metric.unit, metric.quality = _properties(value)
    if metric.is_null:
        metric.tag = 0
    return metric


def _properties(raw: bytes) -> tuple[str, int]:
    """The unit that the property engUnit names, and the flags that Quality means; whatever else there is."""
    keys: list[str] = []
    values: list[bytes] = []
    for tag, value in fields(raw):
        if tag == _KEY:
            keys.append(text(value))
        elif tag == _PROPERTY:
            values.append(value)
    unit, quality = "", 0
    for key, value in zip(keys, values, strict=False):
        if key == "engUnit":
            said = dict(fields(value)).get(_PROPERTY_STRING)
            unit = "" if said is None else text(said)
            unit = unit if unit.isprintable() and len(unit) <= UNIT_CHARS_MAX else ""
        elif key.lower() == "quality":
            code = dict(fields(value)).get(_PROPERTY_INT, QUALITY_GOOD)
            quality = 0 if code == QUALITY_GOOD else VALUE_STALE if code == QUALITY_STALE else VALUE_BAD
    return unit, quality


def text(value: bytes) -> str:
    """A string field. Raises WireError."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError("a text is not valid UTF-8") from None


def rebirth_request(now_ms: int) -> bytes:
    """The payload of an NCMD that asks an edge node for all its birth certificates."""
    metric = written(1, REBIRTH.encode()) + written(3, now_ms) + written(4, BOOLEAN) + written(14, 1)
    return written(1, now_ms) + written(2, metric)
