"""Formats `senml-json` and `senml-cbor`: Sensor Measurement Lists (RFC 8428), a pack of records.

  [{"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1767225600, "n": "voltage", "u": "V", "v": 120.1},
   {"n": "current", "t": -5, "u": "A", "v": 1.2}]

The device is the topic's; a record's whole name, base name and name, is the metric, and its unit that of the series
(the mapping's units win). v is a number, vb 1.0 or 0.0, vs a text, vd a text too: its bytes in base64url, as in JSON.
A sum is a metric of its own, NAME.sum in UNIT.s. A base field holds for its record and those after it, until it comes
again. A record of base fields only is no reading; nor is `ut`, which is checked and left.

Times below 2^28 s are relative to the arrival, and then the gateway's clock is what they rest on: such readings have
the quality of those without a time. Others are seconds since 1970, at most of 2099.

Versions: up to 10 (RFC 8428; its own examples say 5) and 26 (RFC 9100: with secondary units, which are units like any
other here). Unknown fields are ignored, but refused when they end in _, as they must be understood. Refused as well:
fields of a wrong type, more than one value in a record, none, a key that comes twice, numbers that are not finite.
Names are not held to the RFC's letters: what is a metric's name elsewhere is one here.
Limits: those of `fields`.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from edge_agent.formats.cbor import cbor_tree
from edge_agent.formats.fields import METRICS_MAX, READINGS_MAX, too_long, wrong_count
from edge_agent.formats.json import json_tree
from edge_agent.formats.times import AT_MS_MAX, AT_MS_MIN, fine
from edge_agent.readings import NAME_CHARS_MAX, Metric, Readings, SeriesIds
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

VERSIONS = frozenset((*range(1, 11), 26))
RELATIVE_BELOW_S = 2**28

_Types = tuple[type, ...]
_NUMBER: _Types = (int, float)
_TEXT: _Types = (str,)
_BOOLEAN: _Types = (bool,)
_DATA: _Types = (str, bytes)
_TYPES: Mapping[str, _Types] = {
    "bn": _TEXT, "bt": _NUMBER, "bu": _TEXT, "bv": _NUMBER, "bs": _NUMBER, "bver": _NUMBER,
    "n": _TEXT, "u": _TEXT, "v": _NUMBER, "vs": _TEXT, "vb": _BOOLEAN, "vd": _DATA,
    "s": _NUMBER, "t": _NUMBER, "ut": _NUMBER,
}  # fmt: skip
_KINDS = {_NUMBER: "a number", _TEXT: "a text", _BOOLEAN: "true or false", _DATA: "data"}
_BASE = frozenset(("bn", "bt", "bu", "bv", "bs", "bver"))
_REGULAR = _TYPES.keys() - _BASE
_OTHER_VALUES = frozenset(("vs", "vb", "vd"))
_VALUES = _OTHER_VALUES | {"v"}
_CBOR_LABELS = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
_is_base64url = re.compile(r"[A-Za-z0-9_-]*").fullmatch


class SenmlDecoder:
    """The messages of one topic; `tree` raises FieldlineError for bytes that it refuses."""

    __slots__ = ("_series", "_tree")

    def __init__(self, tree: Callable[[bytes], object], series: SeriesIds) -> None:
        self._tree = tree
        self._series = series

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        try:
            pack = _Pack(received_at_ms)
            pack.read(self._tree(payload))
            pack.move_to(self._series, into)
        except FieldlineError as error:
            return str(error)
        except OverflowError:
            return "a number is out of a float64's range"
        return None


def senml_json(series: SeriesIds) -> SenmlDecoder:
    return SenmlDecoder(json_tree, series)


def senml_cbor(series: SeriesIds) -> SenmlDecoder:
    return SenmlDecoder(lambda payload: cbor_tree(payload, _CBOR_LABELS), series)


class _Pack:
    """The readings of a pack, its base fields as they are after the records read so far."""

    def __init__(self, received_at_ms: int) -> None:
        self._received_at_ms = received_at_ms
        self._base: dict[str, Any] = {"bn": "", "bt": 0, "bu": ""}
        self._metrics: list[Metric] = []
        self._values: list[float] = []
        self._measured_at: list[float] = []
        self._quality: list[int] = []
        self._texts: dict[int, str] = {}

    def read(self, records: object) -> None:
        """Raises FieldlineError, the reason, and OverflowError for an integer beyond a float64."""
        if not isinstance(records, list):
            raise FieldlineError("a SenML pack must be an array of records")
        if len(records) > READINGS_MAX:
            raise FieldlineError(f"the pack has {len(records)} records, at most {READINGS_MAX} are allowed")
        for number, record in enumerate(records, 1):
            try:
                self._record(record)
            except FieldlineError as error:
                raise FieldlineError(f"record {number}: {error}") from None

    def move_to(self, series: SeriesIds, into: Readings) -> None:
        """Raises FieldlineError for a bad name or unit, before any reading is added."""
        metrics = tuple(dict.fromkeys(self._metrics))
        if not 0 < len(metrics) <= METRICS_MAX:
            raise FieldlineError(wrong_count(len(metrics)))
        ids = dict(zip(metrics, series[metrics], strict=True))
        each = [ids[metric] for metric in self._metrics]
        into.add_each(each, self._values, self._measured_at, self._quality, self._texts)

    def _record(self, record: object) -> None:
        if not isinstance(record, dict):
            raise FieldlineError("is no object")
        if fault := _fault(record):
            raise FieldlineError(fault)
        base = self._base
        for field in _BASE.intersection(record):
            base[field] = record[field]
        if base.get("bver", 10) not in VERSIONS:
            raise FieldlineError(f"version {base['bver']} of SenML is not supported, only up to 10 and 26 are")
        if not _REGULAR.isdisjoint(record):
            self._readings(record)

    def _readings(self, record: dict[str, Any]) -> None:
        base, own = self._base, record.get("n", "")
        if len(base["bn"]) + len(own) > NAME_CHARS_MAX:
            raise FieldlineError(f"the name has more than {NAME_CHARS_MAX} characters")
        name, unit = base["bn"] + own, record.get("u", base["bu"])
        time = self._time(base["bt"] + record.get("t", 0))
        is_number = _OTHER_VALUES.isdisjoint(record)
        has_sum = "s" in record or ("bs" in base and is_number)
        if has_sum:
            self._add(f"{name}.sum", unit and f"{unit}.s", base.get("bs", 0) + record.get("s", 0), time)
        if "vb" in record:
            self._add(name, unit, record["vb"], time)
        elif not is_number:
            self._add(name, unit, NAN, time, record["vs"] if "vs" in record else _base64url(record["vd"]))
        elif "v" in record or "bv" in base:
            self._add(name, unit, base.get("bv", 0) + record.get("v", 0), time)
        elif not has_sum:
            raise FieldlineError("has no value")

    def _time(self, seconds: float) -> tuple[float, int]:
        """In ms since 1970 UTC, and the quality."""
        if not isfinite(seconds):
            raise FieldlineError(f"the time {seconds} is none")
        at, quality = fine(round(seconds * 1_000_000)), TIME_FROM_DEVICE
        if seconds < RELATIVE_BELOW_S:
            at, quality = at + self._received_at_ms, TIME_FROM_GATEWAY
        if not AT_MS_MIN <= at < AT_MS_MAX:
            raise FieldlineError(f"the time must lie in 1970-2099, got {float(seconds):.17g} s")
        return at, quality

    def _add(self, name: str, unit: str, value: float, time: tuple[float, int], text: str | None = None) -> None:
        if text is not None:
            if reason := too_long((name,), {0: text}):
                raise FieldlineError(reason)
            self._texts[len(self._metrics)] = text
        elif not isfinite(value):
            raise FieldlineError(f"the value of {name[:60]!r} is {value}, only finite numbers can be readings")
        self._metrics.append((name, unit) if unit else name)
        self._values.append(value)
        self._measured_at.append(time[0])
        self._quality.append(time[1])


def _fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a record's fields."""
    for field, value in record.items():
        types = _TYPES.get(field)
        if types is None:
            if field.endswith("_"):
                return f"the field {field[:60]!r} must be understood, and is not known"
        elif type(value) not in types:
            return f"{field!r} must be {_KINDS[types]}"
    return "has more than one value" if len(_VALUES.intersection(record)) > 1 else None


def _base64url(data: str | bytes) -> str:
    """Data as it is written in JSON: base64url without padding."""
    if isinstance(data, bytes):
        return urlsafe_b64encode(data).decode().rstrip("=")
    if not _is_base64url(data) or len(data) % 4 == 1:
        raise FieldlineError("'vd' must be base64url without padding")
    return data
