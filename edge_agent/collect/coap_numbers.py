"""The numbers of the gateway's OSCORE answers, its Sender Sequence Number (RFC 8613 7.2): none is given twice, ever.

All devices share them; a key sees some, ascending. They are reserved in blocks: the file has the first number
that no agent has reserved, and is durable before one of a new block is given. What of a block was not used when the
agent ended is never used.

The file lies in the spool's directory and is no part of the spool: that is moved aside when it is damaged. Whoever
deletes the directory, or restores an old copy of it, takes the numbers along. So an agent begins no lower than
a number by the wall clock, PER_S for every second since SINCE_S: with a clock that is right, and fewer answers than
that on average, they go on rising even then. A clock that is wrong costs at most half of all numbers.
"""

import os
from pathlib import Path

from telemetry.errors import ConfigError, FieldlineError

FILE = "oscore-numbers"
BLOCK = 65_536
NUMBER_MAX = 2**40 - 1
SINCE_S = 1_767_225_600
"""2026-01-01 UTC."""
PER_S = 256


class Numbers:
    """The numbers of an agent, which owns the directory. Raises ConfigError when the file cannot be read."""

    def __init__(self, directory: Path, now_ms: int) -> None:
        self._file = directory / FILE
        by_clock = (now_ms // 1000 - SINCE_S) * PER_S
        self._next = self._end = max(self._reserved(), min(by_clock, NUMBER_MAX // 2), 0)

    def _reserved(self) -> int:
        try:
            return int(self._file.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read {self._file}, without which OSCORE nonces could repeat: {error}. Give the devices new "
                "master secrets and remove it."
            ) from error

    def next(self) -> int:
        """A number that was never given. Raises OSError, FieldlineError."""
        if self._next == self._end:
            if self._end + BLOCK > NUMBER_MAX:
                raise FieldlineError(f"the OSCORE numbers are used up: give the devices new keys, remove {self._file}")
            self._reserve(self._end + BLOCK)
            self._end += BLOCK
        self._next += 1
        return self._next - 1

    def _reserve(self, end: int) -> None:
        new = self._file.with_suffix(".new")
        with new.open("w") as file:
            file.write(str(end))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)
        directory = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
