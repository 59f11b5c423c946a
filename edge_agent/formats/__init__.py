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
from edge_agent.formats.cbor import cbor_tree
from edge_agent.formats.csv import CsvDecoder
from edge_agent.formats.influx import InfluxDecoder
from edge_agent.formats.json import JsonDecoder, json_tree
from edge_agent.formats.msgpack import MsgpackDecoder
from edge_agent.formats.objects import ObjectsDecoder
from edge_agent.formats.senml import senml_cbor, senml_json
from edge_agent.formats.struct import StructDecoder
from edge_agent.formats.text import TextDecoder
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

FORMATS: dict[str, Format] = {
    "cbor": lambda series, mapping: ObjectsDecoder(cbor_tree, series, mapping.cbor),
    "csv": lambda series, mapping: CsvDecoder(series, _given(mapping.csv)),
    "influx": lambda series, mapping: InfluxDecoder(series, mapping.influx or Influx()),
    "json": lambda series, mapping: (
        JsonDecoder(series) if mapping.json_ is None else ObjectsDecoder(json_tree, series, mapping.json_)
    ),
    "msgpack": lambda series, mapping: MsgpackDecoder(series, mapping.msgpack),
    "senml-cbor": lambda series, _: senml_cbor(series),
    "senml-json": lambda series, _: senml_json(series),
    "struct": lambda series, mapping: StructDecoder(series, _given(mapping.struct)),
    "text": lambda series, _: TextDecoder(series),
}
