"""An uplink reconnects after every loss, and ends when it is cancelled, also at the moment of a loss."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from broker_bridge import uplink as module
from broker_bridge.contract import Status
from broker_bridge.mqtt.client import ConnectionLostError, Options
from broker_bridge.uplink import Limits, Uplink
from telemetry.clock import SystemClock
from telemetry.columns import Series


class LosableConnection:
    """A connection that takes everything and is lost when told."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.subscribed = asyncio.Event()
        self.trouble: Exception | None = None

    async def subscribe(self, _filters: object) -> None:
        self.subscribed.set()

    async def publish(self, *_: object, **__: object) -> None:
        if self.trouble is not None:
            raise self.trouble

    async def close(self) -> None:
        pass


class EmptySpool:
    epoch, mark, next_seq = "e", 0, 1

    def read(self, *_: object) -> None: ...
    def series(self, _id: int) -> Series:
        raise AssertionError

    def trim(self, _mark: int) -> None: ...
    def renew_epoch(self) -> None: ...


def make_uplink(thread: ThreadPoolExecutor) -> Uplink:
    return Uplink(
        source=EmptySpool(),
        gateway="g",
        partitions=1,
        options=Options("127.0.0.1", 1, "c"),
        limits=Limits(10, 1000, 0.1, 4, 1.0, 0.1),
        clock=SystemClock(),
        thread=thread,
        status=lambda: Status("e", "0", 0, 0, 0, 0, 0, 0),
    )


@contextlib.contextmanager
def connecting(*connections: LosableConnection) -> Iterator[None]:
    """The uplink opens these, one after another."""
    ready = iter(connections)

    async def open_(_options: object, _on_messages: object) -> LosableConnection:
        return next(ready)

    with mock.patch.object(module, "Connection", mock.Mock(open=open_)):
        yield


def test_a_stop_together_with_a_lost_connection_ends_the_uplink() -> None:
    async def main() -> None:
        connection = LosableConnection()
        with ThreadPoolExecutor(1) as thread, connecting(connection):
            task = asyncio.create_task(make_uplink(thread).run())
            await connection.subscribed.wait()
            await asyncio.sleep(0.05)  # until the session's tasks run
            connection.closed.set_result("the broker has gone")
            await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, "the uplink goes on although it was cancelled"
            assert task.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("loss", ["closed", "publish"])
def test_after_a_loss_the_uplink_connects_again(loss: str) -> None:
    """Whichever of its tasks notices first: the waiting for the end, or a publication."""

    async def main() -> None:
        first, second = LosableConnection(), LosableConnection()
        with ThreadPoolExecutor(1) as thread, connecting(first, second):
            if loss == "publish":
                first.trouble = ConnectionLostError("the broker has gone")
            task = asyncio.create_task(make_uplink(thread).run())
            await first.subscribed.wait()
            if loss == "closed":
                await asyncio.sleep(0.05)  # until the session's tasks run
                first.closed.set_result("the broker has gone")
            async with asyncio.timeout(5):
                await second.subscribed.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(main())
