"""Payload formats: from the bytes of one message to readings. One file per format, one line in FORMATS.

A format makes a decoder for a topic, `FORMATS[name](series, mapping)`; its options are a section of the mapping. A
decoder belongs to the messages of that topic and may remember what they have in common. `decode(payload,
received_at_ms, into)`:
- It appends the message's readings to `into` and returns None, or appends nothing and returns the reason, a
  sentence for the firmware's author. A message is taken whole or not at all.
- It appends by `into.add`, all readings of one time at once, or `into.add_each`: that is a few steps of C for a
  message, and none of Python for a reading.
- `series[metrics]` gives the ids of a device's metrics in their order, once their names have been checked; a metric
  of which the message states the unit is a pair of name and unit. A FieldlineError from it is a reason too. Ask it
  last: a refused message should make no series. Ids never change.
  `series.metric` is the metric of messages that are one value (`edge_agent.config.ONE_VALUE`).
- What becomes of a message does not depend on the messages before it; only how fast that is done may.
- No payload makes it raise. Time and memory are linear in the payload's length, which the caller limits.
- No object, log call or function call per reading where numbers only come.

A new format is its file, its line here and in `edge_agent.config.Mapping`, a folder of cases in
`tests/cases/formats/NAME`, and its messages in `bench/formats.py`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from edge_agent.config import Influx, Mapping
from edge_agent.readings import Readings, SeriesIds
from telemetry.config import Section


class Decode(Protocol):
    """What a format makes for a topic."""

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """Append the readings of `payload`, or append nothing and return why. Times in ms since 1970 UTC."""
        ...


S = TypeVar("S", bound=Section)


def _given(section: S | None) -> S:
    assert section is not None, "edge_agent.config.Mapping requires it"
    return section


Format = Callable[[SeriesIds, Mapping], Decode]

# A format is imported when a mapping first needs it: all of them together are a megabyte of the agent's memory.


def _cbor(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.cbor import cbor_tree
    from edge_agent.formats.objects import ObjectsDecoder

    return ObjectsDecoder(cbor_tree, series, mapping.cbor)


def _csv(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.csv import CsvDecoder

    return CsvDecoder(series, _given(mapping.csv))


def _influx(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.influx import InfluxDecoder

    return InfluxDecoder(series, mapping.influx or Influx())


def _json(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.json import JsonDecoder, json_tree

    if mapping.json_ is None:
        return JsonDecoder(series)
    from edge_agent.formats.objects import ObjectsDecoder

    return ObjectsDecoder(json_tree, series, mapping.json_)


def _msgpack(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.msgpack import MsgpackDecoder

    return MsgpackDecoder(series, mapping.msgpack)


def _senml_cbor(series: SeriesIds, _: Mapping) -> Decode:
    from edge_agent.formats.senml import senml_cbor

    return senml_cbor(series)


def _senml_json(series: SeriesIds, _: Mapping) -> Decode:
    from edge_agent.formats.senml import senml_json

    return senml_json(series)


def _struct(series: SeriesIds, mapping: Mapping) -> Decode:
    from edge_agent.formats.struct import StructDecoder

    return StructDecoder(series, _given(mapping.struct))


def _text(series: SeriesIds, _: Mapping) -> Decode:
    from edge_agent.formats.text import TextDecoder

    return TextDecoder(series)


FORMATS: dict[str, Format] = {
    "cbor": _cbor,
    "csv": _csv,
    "influx": _influx,
    "json": _json,
    "msgpack": _msgpack,
    "senml-cbor": _senml_cbor,
    "senml-json": _senml_json,
    "struct": _struct,
    "text": _text,
}
