"""Payload formats: from the bytes of one message to readings. One file per format, one line in FORMATS.

A format is a pure function `decode(payload, received_at_ms, series, into)`:
- It appends the message's readings to the columns `into` and returns None, or appends nothing and returns
  the reason, a sentence for the firmware's author. A message is taken whole or not at all.
- `series[metrics]` gives the ids of a device's metrics in their order, once their names have been checked; a
  FieldlineError from it is a reason too. Ask it last: a refused message should make no series.
- No payload makes it raise. Time and memory are linear in the payload's length, which the caller limits.
- No object, log call or function call per reading where numbers only come.

A new format is its file, its line here and in `edge_agent.config.Mapping`, and a folder of cases in
`tests/cases/formats/NAME`.
"""

from array import array
from collections.abc import Mapping
from typing import Protocol

from edge_agent.formats import json
from telemetry.columns import Columns


class Format(Protocol):
    """What a format must provide."""

    def __call__(
        self,
        payload: bytes,
        received_at_ms: int,
        series: Mapping[tuple[str, ...], "array[int]"],
        into: Columns,
    ) -> str | None:
        """Append the readings of `payload`, or append nothing and return why. Times in ms since 1970 UTC."""
        ...


FORMATS: dict[str, Format] = {"json": json.decode}
