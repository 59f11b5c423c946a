"""What this device does whatever it speaks: measure in time, keep in the ring, say what to send.

A message is one JSON object: what `config.read` says, and `n`, the record's number (a repetition has the same one),
`ts`, when it was measured, if anybody knows, and `dropped`, how many readings the full ring refused before it.

Without a clock: until it is set (`ntptime.settime()`) a record has the uptime, and nothing is sent for CLOCK_WAIT_MS.
Once it is set, what this boot measured before gets its date; what an earlier boot could not date goes without `ts`.
"""

import asyncio
import json
import os
import struct
import time

import config
from ring import Ring

UNIX_S = 946_684_800 if time.gmtime(0)[0] == 2000 else 0  # most boards count from 2000
SET_AFTER_MS = 1_704_067_200_000  # 2024-01-01: a clock before that was never set


def random_u32():
    return struct.unpack("<I", os.urandom(4))[0]


def date_ms():
    """Milliseconds since 1970 UTC, 0 if the clock is not set. Whole seconds where time.time_ns has no more."""
    now_ms = time.time_ns() // 1_000_000 + UNIX_S * 1000
    return now_ms if now_ms > SET_AFTER_MS else 0


class Device:
    def __init__(self):
        self.ring = Ring(config.RING, random_u32())
        self.boot = random_u32() | 1
        self.began_ms = 0  # when this boot began, in milliseconds since 1970 UTC; 0: unknown
        self.measured = self.dropped = self.up_ms = 0
        self._ticks = time.ticks_ms()

    def uptime_ms(self):
        """Ticks end at 2**30 ms, twelve days; this does not, as it is asked more often."""
        now = time.ticks_ms()
        self.up_ms += time.ticks_diff(now, self._ticks)
        self._ticks = now
        return self.up_ms

    async def measure(self):
        """Measure in time, for ever or COUNT times."""
        due_ms = self.uptime_ms()
        while not config.COUNT or self.measured < config.COUNT:
            self._keep(config.read(self.ring.last + 1))
            self.measured += 1
            due_ms += config.EVERY_MS
            if due_ms <= self.uptime_ms():  # late by a whole period: do not catch up
                due_ms = self.uptime_ms() + config.EVERY_MS
            await asyncio.sleep_ms(due_ms - self.uptime_ms())

    def _keep(self, values):
        now_ms = date_ms()
        boot, at_ms = (0, now_ms) if now_ms else (self.boot, self.uptime_ms())
        if self.dropped:
            values["dropped"] = self.dropped
        try:
            number = self.ring.put(boot, at_ms, json.dumps(values).encode())
        except OSError as error:
            print("the ring:", error)
            number = 0
        if number:
            print("kept", number)
        else:
            print("dropped a reading")
        self.dropped = 0 if number else self.dropped + 1

    async def until_dated(self):
        """Wait for the clock, but no longer than CLOCK_WAIT_MS."""
        while not date_ms() and self.uptime_ms() < config.CLOCK_WAIT_MS:
            await asyncio.sleep_ms(100)
        if date_ms():
            self.began_ms = date_ms() - self.uptime_ms()

    def message(self, number):
        """The message of a record: the same bytes whenever this boot is asked. None: the record is damaged."""
        record = self.ring.get(number)
        if record is None:
            return None
        _, boot, at_ms, payload = record
        if boot:
            at_ms = self.began_ms + at_ms if boot == self.boot and self.began_ms else 0
        head = '{"ts": %d, "n": %d, ' % (at_ms, number) if at_ms else '{"n": %d, ' % number
        return head.encode() + payload[1:]


def retry_ms(failures):
    """The pause after so many failures in a row: doubled each time, and a random half of it left out."""
    ms = min(config.RETRY_MS_MAX, config.RETRY_MS_MIN << min(failures - 1, 16))
    return ms // 2 + random_u32() % (ms // 2 + 1)
