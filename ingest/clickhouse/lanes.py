"""Threads for the engine's blocking calls, in lanes, so that slow reads never hold up inserts or a KILL.

A request takes a worker of its lane and keeps it to its end: all its calls run in that one thread. When all
of a lane's workers are taken, the next request waits its turn.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Literal, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Lane = Literal["read", "write", "control"]


class Worker:
    """One thread."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class Lanes:
    """`sizes`: how many statements run at once, by lane."""

    def __init__(self, sizes: Mapping[Lane, int]) -> None:
        self._workers = [(lane, Worker(f"{lane}-{i}")) for lane, size in sizes.items() for i in range(size)]
        self._idle: dict[Lane, asyncio.LifoQueue[Worker]] = {lane: asyncio.LifoQueue() for lane in sizes}
        for lane, worker in self._workers:
            self._idle[lane].put_nowait(worker)

    @asynccontextmanager
    async def worker(self, lane: Lane) -> AsyncIterator[Worker]:
        """Wait for a worker and hold it."""
        worker = await self._idle[lane].get()
        try:
            yield worker
        finally:
            self._idle[lane].put_nowait(worker)

    def close(self) -> None:
        """Wait for the threads' ends; cancel their statements first."""
        for _, worker in self._workers:
            worker.close()
