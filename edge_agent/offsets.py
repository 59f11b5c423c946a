"""Clocks of devices that are off by a constant: corrected where the config says by how much, else found.

Correction. `[time.offsets_s]` says how many seconds a device's clock is ahead. That is subtracted from every time that
the device states, before it is judged (edge_agent.plausibility); the reading keeps it (`fine` in telemetry.columns) and
has TIME_CORRECTED. It depends on the message and the config alone, so a message that is decoded again, after a crash
say, gives the same.

Finding. A message arrives after it was measured, so of many the least delay, received_at less the stated time, is near
to what the clock is behind; a clock that is ahead makes it negative. Of each device the least delay within FIND_MS
counts, if MESSAGES_MIN were looked at; two in a row that agree within AGREE_MS are told, once. A backlog does not
matter as long as one message of the hour came at once. A device that always keeps its readings for an hour looks like
one whose clock is an hour behind: nothing in its messages tells the two apart, which is why a person decides.

Looking costs READINGS_MAX readings every LOOK_EVERY_MS. Limits: DEVICES_MAX devices are watched, TOLD_MAX are told.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_agent.plausibility import CLOCK_SET_MS_MIN
from edge_agent.readings import Readings
from telemetry.columns import TIME_CORRECTED, TIME_FROM_GATEWAY, Series

log = logging.getLogger(__name__)

FIND_MS = 3_600_000
MESSAGES_MIN = 20
AGREE_MS = 10_000
LOOK_EVERY_MS = 100
READINGS_MAX = 300
DEVICES_MAX = 100_000
TOLD_MAX = 100


class SeriesId(Protocol):
    """As `edge_agent.decode` has it."""

    def __call__(self, series: Series, /) -> int: ...


@dataclass(slots=True)
class Watch:
    """Of a device since `begun_ms`: how many times were looked at, the least delay; and that of the span before."""

    begun_ms: int
    count: int = 0
    least_ms: float = 0.0
    former_ms: float | None = None


class Offsets:
    """offsets_s: device -> how far its clock is ahead. off_s_min: less is not worth a word; 0: do not look."""

    def __init__(self, offsets_s: Mapping[str, float], off_s_min: float, series_id: SeriesId) -> None:
        self._known_ms = {device: round(offset_s * 1000) for device, offset_s in offsets_s.items()}
        self._off_ms_min = off_s_min * 1000
        self._series_id = series_id
        self._offset_of: dict[int, int] = {}
        self._devices: list[str] = []  # by series id
        self._watches: dict[str, Watch] = {}
        self._looked_at_ms = 0
        self.found_ms: dict[str, int] = {}
        """Devices whose clock is off, and how far it is ahead; told once each."""

    def series_id(self, series: Series) -> int:
        """The id of a series, remembered with its device. Raises FieldlineError."""
        id_ = self._series_id(series)
        while len(self._devices) <= id_:
            self._devices.append("")
        self._devices[id_] = series.device
        if (offset := self._known_ms.get(series.device)) is not None:
            self._offset_of[id_] = offset
        return id_

    def apply(self, readings: Readings, received_at_ms: int) -> None:
        """Correct what is to be corrected, and have a look at the rest from time to time."""
        if self._offset_of and not self._offset_of.keys().isdisjoint(readings.series):
            self._correct(readings)
        if self._off_ms_min and abs(received_at_ms - self._looked_at_ms) >= LOOK_EVERY_MS:
            self._looked_at_ms = received_at_ms
            if received_at_ms >= CLOCK_SET_MS_MIN:
                self._look(readings, received_at_ms)

    def _correct(self, readings: Readings) -> None:
        for position, id_ in enumerate(readings.series):
            offset_ms = self._offset_of.get(id_)
            if offset_ms is not None and not readings.quality[position] & TIME_FROM_GATEWAY:
                readings.measured_at[position] -= offset_ms
                readings.quality[position] |= TIME_CORRECTED
                readings.offsets[position] = offset_ms

    def _look(self, readings: Readings, now_ms: int) -> None:
        newest: dict[str, float] = {}
        sample = slice(READINGS_MAX)
        columns = readings.series[sample], readings.measured_at[sample], readings.quality[sample]
        for id_, at_ms, quality in zip(*columns, strict=True):
            if id_ >= 0 and not quality & (TIME_FROM_GATEWAY | TIME_CORRECTED):
                device = self._devices[id_]
                if at_ms > newest.get(device, 0):
                    newest[device] = at_ms
        for device, at_ms in newest.items():
            self._take(device, now_ms - at_ms, now_ms)

    def _take(self, device: str, delay_ms: float, now_ms: int) -> None:
        watch = self._watches.get(device)
        if watch is None:
            if len(self._watches) >= DEVICES_MAX:
                return
            watch = self._watches[device] = Watch(now_ms)
        if not 0 <= now_ms - watch.begun_ms < FIND_MS:
            self._judge(device, watch)
            watch.begun_ms, watch.count = now_ms, 0
        watch.least_ms = min(watch.least_ms, delay_ms) if watch.count else delay_ms
        watch.count += 1

    def _judge(self, device: str, watch: Watch) -> None:
        former, watch.former_ms = watch.former_ms, None
        if watch.count < MESSAGES_MIN or abs(watch.least_ms) < self._off_ms_min:
            return
        watch.former_ms = watch.least_ms
        if former is None or abs(former - watch.least_ms) > AGREE_MS or device in self.found_ms:
            return
        if len(self.found_ms) < TOLD_MAX:
            self.found_ms[device] = ahead_ms = round(-watch.least_ms)
            log.warning("%s", sentence(device, ahead_ms))


def sentence(device: str, ahead_ms: int) -> str:
    """What was found, and what can be done."""
    ahead_s = round(ahead_ms / 1000)
    where = f"{ahead_s:,} s ahead" if ahead_s > 0 else f"{-ahead_s:,} s behind"
    keeps = "" if ahead_s > 0 else ", or it keeps its readings for that long"
    remedy = f'To correct its times: "{device}" = {ahead_s} in [time.offsets_s].'
    return f"The clock of device {device!r} is {where}{keeps}. {remedy}"
