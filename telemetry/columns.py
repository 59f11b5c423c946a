"""Records as columns: what decoders append to, the spool stores and the wire carries.

One record is a reading or a dead letter. Readings fill the five arrays; texts and dead letters are rare
and sparse, by position. Nothing here makes an object per reading.
"""

import re
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

NAN = float("nan")

DEAD = -1
"""The series of a record that is a dead letter."""

TIME_FROM_DEVICE = 0
TIME_FROM_GATEWAY = 1
"""Quality codes. 0: the device said when it measured. 1: it did not, `measured_at` is the arrival or counts from it."""

VALUE_BAD = 2
VALUE_STALE = 4
"""Added to a quality code. The value is bad, as the device says or a range in the gateway's config; the device says
that it is not up to date any more."""

TIME_NOT_BELIEVED = 8
"""Added to TIME_FROM_GATEWAY. The device did say when it measured, but a time that cannot be true."""

TIME_ESTIMATED = 16
"""Added to TIME_FROM_GATEWAY. The gateway went off without having learned the time: it is the latest it can be."""

TIME_CORRECTED = 32
"""Added to a quality code. measured_at is the device's time less what its clock is known to be ahead."""

US_PER_MS = 1000

CUT_NOTE = "; the first {} are kept"
"""The end of a dead letter's reason if its raw bytes are only the beginning of what came."""


class Series(NamedTuple):
    """What a series id stands for within one spool. tags: as `telemetry.tags` has them."""

    device: str
    metric: str
    unit: str
    tags: str = ""


class DeadLetter(NamedTuple):
    """Input that could not become readings. `source` is the MQTT topic or the CoAP path it came by."""

    source: str
    raw: bytes
    reason: str

    @property
    def is_whole(self) -> bool:
        """Whether `raw` is all that came; the reason says if only its beginning was kept."""
        return re.search(CUT_NOTE.format(r"\d+") + "$", self.reason) is None


@dataclass(slots=True)
class Columns:
    """Records in the order of their seqs; entry i of every array belongs to record i.

    series: int32 id, DEAD for a dead letter. measured_at, received_at: int64 ms since 1970 UTC.
    value: float64, NaN where the reading is a text. quality: uint8 code.
    texts, dead: position -> the text, the dead letter.
    fine: position -> what measured_at does not say, for readings that have it: the device's time is measured_at plus
    offset ms and `us` microseconds, 0..999; here is offset * US_PER_MS + us.
    """

    series: "array[int]" = field(default_factory=lambda: array("i"))
    measured_at: "array[int]" = field(default_factory=lambda: array("q"))
    received_at: "array[int]" = field(default_factory=lambda: array("q"))
    value: "array[float]" = field(default_factory=lambda: array("d"))
    quality: "array[int]" = field(default_factory=lambda: array("B"))
    texts: dict[int, str] = field(default_factory=dict)
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    fine: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.series)

    def add_dead(self, letter: DeadLetter, at_ms: int) -> None:
        """Append a dead letter that arrived at `at_ms`."""
        self.dead[len(self.series)] = letter
        self.series.append(DEAD)
        self.measured_at.append(at_ms)
        self.received_at.append(at_ms)
        self.value.append(NAN)
        self.quality.append(0)

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on: a message is taken whole or not at all."""
        for column in (self.series, self.measured_at, self.received_at, self.value, self.quality):
            del column[length:]
        for sparse in (self.texts, self.dead, self.fine):
            for position in [p for p in sparse if p >= length]:
                del sparse[position]

    def extend(self, other: "Columns") -> None:
        """Append all records of `other`."""
        offset = len(self.series)
        self.series.extend(other.series)
        self.measured_at.extend(other.measured_at)
        self.received_at.extend(other.received_at)
        self.value.extend(other.value)
        self.quality.extend(other.quality)
        self.texts.update((offset + position, text) for position, text in other.texts.items())
        self.dead.update((offset + position, letter) for position, letter in other.dead.items())
        self.fine.update((offset + position, fine) for position, fine in other.fine.items())

    def slice(self, start: int, stop: int) -> "Columns":
        """Records start..stop-1 as columns of their own."""
        return Columns(
            self.series[start:stop],
            self.measured_at[start:stop],
            self.received_at[start:stop],
            self.value[start:stop],
            self.quality[start:stop],
            {p - start: text for p, text in self.texts.items() if start <= p < stop},
            {p - start: letter for p, letter in self.dead.items() if start <= p < stop},
            {p - start: fine for p, fine in self.fine.items() if start <= p < stop},
        )
