"""What becomes of a message, shown to people: for `edge check --try` and `edge listen`. It touches no spool."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_agent.check import is_collected
from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.mapping import mapping_of
from edge_agent.sparkplug.room import is_sparkplug
from telemetry import tags
from telemetry.clock import SystemClock
from telemetry.columns import (
    DEAD,
    TIME_CORRECTED,
    TIME_FROM_DEVICE,
    TIME_FROM_GATEWAY,
    TIME_NOT_BELIEVED,
    US_PER_MS,
    VALUE_BAD,
    VALUE_STALE,
    Columns,
    Series,
)
from telemetry.delivery import Chunk
from telemetry.errors import FieldlineError

TIMES = {TIME_FROM_DEVICE: "time of the device", TIME_FROM_GATEWAY: "time of arrival"}
MARKS = {
    VALUE_BAD: "bad value",
    VALUE_STALE: "stale value",
    TIME_NOT_BELIEVED: "the device's was not believed",
    TIME_CORRECTED: "the device's clock corrected",
}
NO_READING = "no reading: it has no value that is taken"
WIDTH = 200
HEADINGS = ("device", "metric", "value", "unit", "time (UTC)", "quality", "tags")


class Fate(NamedTuple):
    """Of one message. mapping: which one takes it, in words. readings: a row each, under HEADINGS.

    reason: why it would be a dead letter, None if it would not. silence: why it has none or fewer readings else.
    """

    mapping: str
    readings: list[tuple[str, ...]]
    reason: str | None
    silence: str = ""


class Preview:
    """Decodes messages as the running agent would."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._ids: dict[Series, int] = {}
        self._series: list[Series] = []
        self._decoder = Decoder(config, self._series_id, births={})
        self._not_derived = self._decoder.explain()

    def __call__(self, topic: str, payload: bytes, received_at_ms: int, bytes_: int | None = None) -> Fate:
        """`bytes_`: how long the payload is if only its beginning is here."""
        columns = Columns()
        oversized = {} if bytes_ is None else {0: bytes_}
        thinned = self._decoder.thinned
        refused = self._decoder.decode(Chunk(received_at_ms, [topic], [payload], [0], oversized=oversized), columns)
        self._decoder.take()  # births that it remembers itself, and commands that are not ours to give
        rows = [self._row(columns, at) for at in range(len(columns)) if columns.series[at] != DEAD]
        silence = "" if rows or refused else NO_READING
        if thinned := self._decoder.thinned - thinned:
            silence = f"readings left out, as [[process]] says: {thinned}"
        silence = "; ".join([*([silence] if silence else []), *self._not_derived])
        self._not_derived.clear()
        if self._config.sparkplug is not None and is_sparkplug(topic):
            return Fate("none, but the section sparkplug", rows, refused.get(0), silence)
        found = mapping_of(self._config.mappings, topic)
        if found is None:
            return Fate("none", rows, refused.get(0))
        place, mapping = found
        name = f"mappings.{place}" if place < len(self._config.mappings) else "CoAP's own"
        if mapping.ignore:
            return Fate(f"{name}, topic {mapping.topic}", rows, None, "ignored, as the mapping says")
        return Fate(f"{name}, topic {mapping.topic}, format {mapping.format}", rows, refused.get(0), silence)

    def _series_id(self, series: Series) -> int:
        if series not in self._ids:
            if len(self._series) >= self._config.collect.series_max:
                raise FieldlineError(f"it would be one series more than series_max, {len(self._series)}")
            self._ids[series] = len(self._series)
            self._series.append(series)
        return self._ids[series]

    def _row(self, columns: Columns, at: int) -> tuple[str, ...]:
        device, metric, unit, tagged = self._series[columns.series[at]]
        value = repr(columns.texts[at]) if at in columns.texts else f"{columns.value[at]:.15g}"
        when = datetime.fromtimestamp(columns.measured_at[at] / 1000, UTC)
        quality = columns.quality[at]
        us = columns.fine.get(at, 0) % US_PER_MS
        time = when.isoformat(timespec="milliseconds").replace("+00:00", f"{us:03d}Z" if us else "Z")
        words = [TIMES[quality & TIME_FROM_GATEWAY], *(word for bit, word in MARKS.items() if quality & bit)]
        return device, metric, value, unit, time, ", ".join(words), tags.shown(tagged)


def try_message(config: GatewayConfig, topic: str, payload: bytes) -> None:
    """Print what would become of a message. Raises FieldlineError, the reason, if that is a dead letter."""
    fate = Preview(config)(topic, payload, SystemClock().now_ms())
    print(f"mapping: {fate.mapping}")
    if not is_collected(config, topic):
        print(f"No message comes to {topic[:200]!r}: mqtt.topics does not have it. Tried all the same:")
    if fate.readings:
        console().print(table_of(fate.readings))
    if fate.readings and fate.silence:
        print(f"Not there: {fate.silence}.")
    if fate.reason is not None:
        raise FieldlineError(f"it would become a dead letter: {fate.reason}")
    if not fate.readings:
        print(f"It would be acknowledged and give nothing: {fate.silence}.")


def console() -> Console:
    """For standard output; wide if that is not a terminal."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def table_of(rows: Sequence[tuple[str, ...]]) -> Table:
    """The readings for a terminal."""
    table = Table()
    headings = HEADINGS if any(row[-1] for row in rows) else HEADINGS[:-1]
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row[: len(headings)]))
    return table


def payload_of(argument: str, stdin: BinaryIO, *, is_hex: bool) -> bytes:
    """The payload that a command line means: `-` is standard input, `@FILE` a file. Raises FieldlineError."""
    if argument == "-":
        payload = stdin.read()
    elif argument.startswith("@"):
        try:
            payload = Path(argument[1:]).read_bytes()
        except OSError as error:
            raise FieldlineError(f"cannot read the payload from {argument[1:]}: {error.strerror}") from error
    else:
        payload = argument.encode(errors="surrogateescape")
    if not is_hex:
        return payload
    try:
        return bytes.fromhex(payload.decode())
    except (ValueError, UnicodeDecodeError) as error:
        raise FieldlineError(
            "with --hex the payload must be pairs of hexadecimal digits, such as 0a1b or 0a 1b"
        ) from error
