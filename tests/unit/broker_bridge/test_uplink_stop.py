"""An uplink that is cancelled at the very moment its connection is lost must end, not reconnect for ever."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker_bridge import uplink as module
from broker_bridge.contract import Status
from broker_bridge.mqtt.client import Options
from broker_bridge.uplink import Limits, Uplink
from telemetry.clock import SystemClock
from telemetry.columns import Series


class LosableConnection:
    """A connection that takes everything and is lost when told."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.subscribed = asyncio.Event()

    async def subscribe(self, _filters: object) -> None:
        self.subscribed.set()

    async def publish(self, *_: object, **__: object) -> None:
        pass

    async def close(self) -> None:
        pass


class EmptySpool:
    epoch, mark, next_seq = "e", 0, 1

    def read(self, *_: object) -> None: ...
    def series(self, _id: int) -> Series:
        raise AssertionError

    def trim(self, _mark: int) -> None: ...
    def renew_epoch(self) -> None: ...


def test_a_stop_together_with_a_lost_connection_ends_the_uplink(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        connection = LosableConnection()

        class Opener:
            @staticmethod
            async def open(_options: object, _on_messages: object) -> LosableConnection:
                return connection

        monkeypatch.setattr(module, "Connection", Opener)
        with ThreadPoolExecutor(1) as thread:
            uplink = Uplink(
                source=EmptySpool(),
                gateway="g",
                partitions=1,
                options=Options("127.0.0.1", 1, "c"),
                limits=Limits(10, 1000, 0.1, 4, 1.0, 1.0),
                clock=SystemClock(),
                thread=thread,
                status=lambda: Status("e", "0", 0, 0, 0, 0, 0, 0),
            )
            task = asyncio.create_task(uplink.run())
            await connection.subscribed.wait()
            await asyncio.sleep(0.05)  # until the session's tasks run
            connection.closed.set_result("the broker has gone")
            await asyncio.sleep(0)  # the watch has raised; its group is about to cancel the others
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, "the uplink goes on although it was cancelled"
            assert task.cancelled()

    asyncio.run(main())
