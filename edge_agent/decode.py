"""The decode stage: a chunk's messages become readings in columns, or dead letters. Pure but for `series_id`.

Every message ends as exactly one of: all its readings, a dead letter, or nothing because the caller knows it as a
repetition or its mapping says to ignore it; the config's rules may add readings (edge_agent.derived) and leave some
out, counted (edge_agent.processing). Nothing raises: a message that cannot be decoded must not stop those
behind it. Sparkplug's messages have a memory and therefore a room of their own, with another contract:
edge_agent.sparkplug.

Limits: a payload above payload_bytes_max is not decoded; a dead letter keeps the first dead_letter_bytes_max
bytes of its payload.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from edge_agent.config import GatewayConfig
from edge_agent.derived import Deriving
from edge_agent.formats import Decode
from edge_agent.mapping import Routes, Selected, of_sparkplug
from edge_agent.naming import Naming
from edge_agent.offsets import Offsets
from edge_agent.plausibility import judge
from edge_agent.processing import NO_WINDOWS, Processing
from edge_agent.readings import Readings
from edge_agent.sparkplug.room import Room, Todo, is_sparkplug
from telemetry.columns import CUT_NOTE, Columns, DeadLetter, Series
from telemetry.delivery import Chunk
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)


class Decoder:
    """`series_id` gives the id of a series, always the same one; it raises FieldlineError at series_max.

    births: what a decoder before this one left to remember of Sparkplug's sessions (edge_agent.sparkplug). Without it
    Sparkplug's messages are refused: what one of them says depends on those before it.
    windows: of series ids, the windows that it left open (edge_agent.windows).
    """

    def __init__(
        self,
        config: GatewayConfig,
        series_id: Callable[[Series], int],
        births: Mapping[str, bytes] | None = None,
        windows: Mapping[int, bytes] = NO_WINDOWS,
    ) -> None:
        self._limits = config.collect
        self._offsets = Offsets(config.time.offsets_s, config.time.device_off_s_min, series_id)
        series_id = self._offsets.series_id
        self._processing = Processing(config.process, series_id, windows) if config.process or windows else None
        if self._processing is not None:
            series_id = self._processing.series_id
        self._deriving = Deriving(config.derived, series_id) if config.derived else None
        if self._deriving is not None:
            series_id = self._deriving.series_id
        self._time = config.time
        self._has_sparkplug = config.sparkplug is not None
        naming = Naming(config.tags, config.devices)
        of_special = series_id if naming.is_empty else of_sparkplug(series_id, naming)
        self._selects = bool(config.devices)
        self._sparkplug = (
            Room(config.sparkplug, of_special, births) if config.sparkplug and births is not None else None
        )
        self._routes = Routes(config.mappings, series_id, self._special, naming)
        self._has_failed = False

    def decode(self, chunk: Chunk, into: Columns, skip: AbstractSet[int] = frozenset()) -> dict[int, str]:
        """Append the chunk's messages to `into`, but those at the indexes in `skip`.

        Returns index -> reason for each message that became a dead letter.
        """
        refused: dict[int, str] = {}
        readings, routes = Readings(), self._routes
        received_at, oversized, formats = chunk.received_at_ms, chunk.oversized, chunk.formats
        payload_bytes_max = self._limits.payload_bytes_max
        for index, (topic, payload) in enumerate(zip(chunk.topics, chunk.payloads, strict=True)):
            if index in skip:
                continue
            if len(payload) > payload_bytes_max or index in oversized:
                if routes.ignores(topic):
                    routes.ignored.count += 1
                    continue
                reason: str | None = self._too_large(oversized.get(index, len(payload)))
                if self._sparkplug is not None:
                    self._sparkplug.missed(topic)
            else:
                start = len(readings.value)
                try:
                    route = (topic, formats[index]) if index in formats else topic
                    reason = routes[route](payload, received_at, readings)
                    if reason is None and self._deriving is not None:
                        reason = self._deriving.add(readings, start)
                except FieldlineError as error:
                    reason = str(error)
                except Exception as error:  # noqa: BLE001 - the formats' edge: a defect costs one message
                    readings.truncate(start)
                    reason = self._failed(topic, error)
            if reason is not None:
                refused[index] = reason
                self._move(readings, into, received_at)  # what came before comes before
                kept = payload[: self._limits.dead_letter_bytes_max]
                into.add_dead(DeadLetter(topic, kept, reason), received_at)
        self._move(readings, into, received_at)
        return refused

    def close_windows(self, now_ms: int, into: Columns) -> None:
        """Append what windows say that nothing has come into for long: to be called when no message comes."""
        self._move(Readings(), into, now_ms)

    def _move(self, readings: Readings, into: Columns, received_at_ms: int) -> None:
        self._offsets.apply(readings, received_at_ms)
        judge(readings, received_at_ms, self._time)
        if self._processing is not None:
            self._processing.apply(readings, received_at_ms)
        readings.move_to(into, received_at_ms)

    @property
    def ignored(self) -> int:
        """How many messages a mapping said to ignore."""
        return self._routes.ignored.count

    @property
    def thinned(self) -> int:
        """How many readings the config's rules have left out."""
        return 0 if self._processing is None else self._processing.thinned

    @property
    def has_windows(self) -> bool:
        """Whether `close_windows` may have something to do, now or later."""
        return self._processing is not None and self._processing.has_windows

    def take_windows(self) -> dict[int, bytes]:
        """The windows that the messages since the last call have changed, by series id."""
        return {} if self._processing is None else self._processing.take_windows()

    def take(self) -> Todo | None:
        """What the messages since the last call have led to, beside records."""
        return None if self._sparkplug is None else self._sparkplug.take()

    def _special(self, topic: str) -> Decode | None:
        if self._sparkplug is not None:
            special = self._sparkplug.decoder(topic)
            return Selected(special) if special is not None and self._selects else special
        if self._has_sparkplug and is_sparkplug(topic):
            raise FieldlineError("a Sparkplug message cannot be read alone: it needs the birth certificates before it")
        return None

    def explain(self) -> list[str]:
        """A list that from now on gets a sentence for each derived reading that there is not."""
        notes: list[str] = []
        if self._deriving is not None:
            self._deriving.notes = notes
        return notes

    @classmethod
    def alone(cls, config: GatewayConfig) -> Callable[[Chunk], tuple[Columns, list[Series]]]:
        """A decoder without a spool: of each chunk the records, and what their series ids stand for.

        It leaves no reading out.
        """
        known: dict[Series, int] = {}
        rules = tuple(rule.keeping_all() for rule in config.process)
        decoder = cls(config.model_copy(update={"process": rules}), lambda series: known.setdefault(series, len(known)))

        def decode(chunk: Chunk) -> tuple[Columns, list[Series]]:
            columns = Columns()
            decoder.decode(chunk, columns)
            return columns, list(known)

        return decode

    def _failed(self, topic: str, error: Exception) -> str:
        if not self._has_failed:  # the first time with its traceback; the dead letters tell of the others
            log.error("A format failed on a message of topic %r.", topic[:200], exc_info=error)
        self._has_failed = True
        return f"the format failed: {type(error).__name__}: {str(error)[:200]}"

    def _too_large(self, size: int) -> str:
        limits = self._limits
        reason = f"the payload has {size} bytes, payload_bytes_max is {limits.payload_bytes_max}"
        if size > limits.dead_letter_bytes_max:
            reason += CUT_NOTE.format(limits.dead_letter_bytes_max)
        return reason
