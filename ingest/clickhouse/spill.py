"""Where an INSERT's data waits until all of it has arrived: in memory while it is short, else in a file on disk.

Memory is a slot: an anonymous file (memfd_create) that is mapped here and that the engine reads by its path. A slot
is used again and keeps its pages, because to take fresh ones from the kernel costs more than the data's way through
the socket. Slots are as large as powers of two.

Limits: all slots together, idle ones included, MEMORY_BYTES_MAX; what finds no room there goes to disk.
"""

import asyncio
import mmap
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MEMORY_BYTES_MAX = 128 * 1024**2
_SLOT_BYTES_MIN = 64 * 1024


class Slot:
    """One file in memory. `path` is what this process can open it by."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._file = os.memfd_create("fieldline-insert")
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self.path = Path(f"/proc/self/fd/{self._file}")

    def cut(self, length: int) -> memoryview:
        """Make the file this long; the memory behind it, to be written."""
        os.ftruncate(self._file, length)
        return memoryview(self._memory)[:length]

    def close(self) -> None:
        os.close(self._file)  # the mapping goes with the last view of it


class Spill:
    """A private directory of files that live as long as their request, and the slots. Used from one thread."""

    def __init__(self, path: Path, memory_bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self.path = path
        self._memory_left = memory_bytes_max
        self._idle: dict[int, list[Slot]] = defaultdict(list)

    def open(self) -> None:
        """Make the directory; remove what a killed server left in it."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        for left in self.path.iterdir():
            left.unlink()

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """A new file, removed at the end."""
        path = self.path / f"{uuid.uuid4().hex}.data"
        try:
            with path.open("xb", buffering=0) as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def slot(self, length: int) -> Iterator[Slot | None]:
        """A slot for so many bytes; None when there is no room for it now."""
        size = max(_SLOT_BYTES_MIN, 1 << (length - 1).bit_length())
        slot = self._idle[size].pop() if self._idle[size] else self._new(size)
        try:
            yield slot
        except asyncio.CancelledError:
            raise  # the engine's thread may still read from it: nobody gets this one again
        except BaseException:
            self._take_back(slot)
            raise
        else:
            self._take_back(slot)

    def _take_back(self, slot: Slot | None) -> None:
        if slot is not None:
            self._idle[slot.size].append(slot)

    def _new(self, size: int) -> Slot | None:
        for slots in self._idle.values():
            while slots and self._memory_left < size:
                slot = slots.pop()
                slot.close()
                self._memory_left += slot.size
        if self._memory_left < size:
            return None
        self._memory_left -= size
        return Slot(size)
