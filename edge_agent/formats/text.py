"""Format `text`: the payload is one plain value, of the metric that the topic names (`home/{device}/{metric}/state`).

White space (ASCII) around it does not count. What is left is, whatever the case of its letters:
- a number as a float64: decimal digits, with a sign, a point and an exponent if need be (`-12.5`, `1e3`, `.5`);
- `true` or `on`, which is 1.0; `false` or `off`, which is 0.0;
- `nan` or `null`: no reading, as null in JSON (ESPHome sends `nan` for a sensor that does not answer);
- else a text in UTF-8, as it is: so are `21,5`, `21.5 °C`, `1_000`, `open`.

There is no time in it: the arrival counts. If the mapping's topic has no {metric}, the metric is `value`.
Refused: an empty payload, infinities and numbers beyond a float64, what is not UTF-8, control characters but tab
and line ends, a text of more than TEXT_BYTES_MAX bytes.
"""

import re
from collections.abc import Mapping
from math import isinf, isnan

from edge_agent.formats.fields import TEXT_BYTES_MAX
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import NAN, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

_WORDS = {b"true": 1.0, b"on": 1.0, b"false": 0.0, b"off": 0.0, b"null": NAN}
_control = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]").search


class TextDecoder:
    """The messages of one topic."""

    __slots__ = ("_metrics", "_series")

    def __init__(self, series: SeriesIds) -> None:
        self._series = series
        self._metrics = (series.metric,)

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        value = number(payload)
        if value is None:
            return self._text(payload, received_at_ms, into)
        if isnan(value):
            return None
        if isinf(value):
            return "the number is infinite, or out of a float64's range"
        return self._add(value, received_at_ms, into)

    def _text(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        raw = payload.strip()
        if not raw:
            return "the payload is empty"
        if len(raw) > TEXT_BYTES_MAX:
            return f"the text has {len(raw)} bytes, at most {TEXT_BYTES_MAX} are allowed"
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return "the payload is not valid UTF-8"
        if _control(text):
            return "the payload is no plain text: control characters are in it"
        return self._add(NAN, received_at_ms, into, {0: text})

    def _add(
        self, value: float, received_at_ms: int, into: Readings, texts: Mapping[int, str] | None = None
    ) -> str | None:
        try:
            ids = self._series[self._metrics]
        except FieldlineError as error:
            return str(error)
        into.add(ids, (value,), received_at_ms, TIME_FROM_GATEWAY, texts)
        return None


def number(payload: bytes) -> float | None:
    """What a payload says as a number, NaN if that is none; None for a text."""
    try:
        value = float(payload)
    except ValueError:
        return _WORDS.get(payload.strip().lower())
    return None if b"_" in payload else value  # 1_000 is a number for Python alone
