"""When an insert has become part of a table of the embedded ClickHouse: the kernel tells, nothing is asked.

ClickHouse writes a part into a directory tmp_insert_… and renames it to <partition>_<block>_<block>_0 as the insert
is committed; merged parts end with another level. Linux reports the rename (inotify(7)).
"""

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import AsyncIterator

from ingest.clickhouse.client import Client

IN_MOVED_TO = 0x80
_HEAD = struct.Struct("iIII")


class Inserted:
    """`at_s`: perf_counter of the first insert since `wait` returned; 0: there was none."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._event = asyncio.Event()

    async def wait(self, seconds_max: float) -> float:
        """Wait for an insert; returns when there was one (perf_counter), or 0 after seconds_max without any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await self._event.wait()
        self._event.clear()
        at_s, self.at_s = self.at_s, 0.0
        return at_s

    def note(self) -> None:
        self.at_s = self.at_s or time.perf_counter()
        self._event.set()


@contextlib.asynccontextmanager
async def inserted(client: Client, table: str) -> AsyncIterator[Inserted]:
    """Watch a table of the database fieldline; its ClickHouse must run on this machine."""
    query = f"SELECT data_paths[1] FROM system.tables WHERE database = 'fieldline' AND name = '{table}'"
    ((path,),) = (await asyncio.to_thread(client.query, query)).result_rows
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    found = Inserted()

    def read() -> None:
        if any(name.endswith("_0") for name in _names(os.read(watch, 1 << 16))):
            found.note()

    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(path), IN_MOVED_TO) < 0:
        raise OSError(ctypes.get_errno(), f"cannot watch {path}")
    asyncio.get_running_loop().add_reader(watch, read)
    try:
        yield found
    finally:
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)


def _names(events: bytes) -> list[str]:
    names, at = [], 0
    while at < len(events):
        *_, length = _HEAD.unpack_from(events, at)
        at += _HEAD.size
        names.append(events[at : at + length].rstrip(b"\0").decode())
        at += length
    return names
