"""The trunk without sockets: a broker that keeps nothing, and connections that lie like real ones.

A message takes a random time on each of its two ways, in order per connection. A broker that has acknowledged
a publication may be wiped before it passes it on. A connection may be cut, seen at once or late by either
side (half-open), and messages may be passed on twice or come again much later, as from an old recording.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from broker_bridge.mqtt.client import ConnectError, ConnectionLostError, Messages, Options
from tests.sim.loop import LIFE, NOBODY, Life, SimLoop

KEEPALIVE_S = 5.0


@dataclass
class Network:
    """The trunk's broker and what reaches it. `spoken`: called with every (topic, payload) that a life publishes."""

    loop: SimLoop
    chance: Random
    is_up: bool = True
    slow: float = 1.0
    repeats: float = 0.0
    old: float = 0.0
    connections: "list[SimConnection]" = field(default_factory=list)
    recording: list[tuple[str, bytes]] = field(default_factory=list)
    spoken: Callable[[str, bytes], None] = lambda _topic, _payload: None

    def delay_s(self) -> float:
        return self.slow * self.chance.choice((0.0, 0.001, 0.001, 0.01, 0.05))

    def wipe(self) -> None:
        """The broker dies: what it had not passed on is gone."""
        for connection in list(self.connections):
            connection.cut(self.chance.choice((0.0, 0.0, KEEPALIVE_S)))

    def route(self, topic: str, payload: bytes) -> None:
        """Pass a publication on to who has subscribed."""
        if "/batch/" in topic:
            if self.chance.random() < 0.2 and len(self.recording) < 200:
                self.recording.append((topic, payload))
            if self.recording and self.chance.random() < self.old:
                self._pass_on(*self.chance.choice(self.recording))
        for _ in range(2 if self.chance.random() < self.repeats else 1):
            self._pass_on(topic, payload)

    def _pass_on(self, topic: str, payload: bytes) -> None:
        for connection in self.connections:
            if any(_matches(filter_, topic) for filter_ in connection.filters):
                connection.bring(topic, payload)


def _matches(filter_: str, topic: str) -> bool:
    wanted, segments = filter_.split("/"), topic.split("/")
    return len(wanted) == len(segments) and all(w in ("+", s) for w, s in zip(wanted, segments, strict=True))


class SimConnection:
    """In place of broker_bridge.mqtt.client.Connection; `network` is the current simulation's."""

    network: Network

    def __init__(self, options: Options, on_messages: "Callable[[Messages, SimConnection], None]") -> None:
        self.options = options
        self.life: Life = LIFE.get()
        self.filters: list[str] = []
        self._on_messages = on_messages
        self._closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._dead = False  # for the broker; the client may not know yet
        self._up_s = self._down_s = 0.0  # nothing overtakes
        self._acks: list[asyncio.Future[None]] = []
        self._paused = False
        self._waiting: list[tuple[str, bytes]] = []

    @classmethod
    async def open(cls, options: Options, on_messages: Any) -> "SimConnection":
        network = cls.network
        await asyncio.sleep(network.delay_s())
        if not network.is_up:
            raise ConnectError("The broker refuses connections.")
        connection = cls(options, on_messages)
        for other in list(network.connections):
            if other.options.client_id == options.client_id:
                other.cut(0.0)
        network.connections.append(connection)
        return connection

    def cut(self, seen_after_s: float) -> None:
        """The broker forgets the connection; its client notices later."""
        self._dead = True
        self._waiting.clear()
        if self in self.network.connections:
            self.network.connections.remove(self)
        self._in_life(seen_after_s, self._lost)

    def _in_life(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Schedule for the client's process: not when it has ended, later when it is frozen."""
        token = LIFE.set(self.life)
        try:
            self.network.loop.call_later(seconds, call, *args)
        finally:
            LIFE.reset(token)

    def _lost(self) -> None:
        for ack in self._acks:
            if not ack.done():
                ack.set_exception(ConnectionLostError("cut"))
        if not self._closed.done():
            self._closed.set_result("The connection was cut.")

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> list[int]:
        await asyncio.sleep(self.network.delay_s())
        self._check_open()
        if self._dead:  # half-open: no answer comes
            raise ConnectionLostError(await self.closed)
        self.filters += filters
        return [qos] * len(filters)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self._check_open()
        self.network.spoken(topic, payload)
        acknowledged = asyncio.get_running_loop().create_future()
        self._acks = [ack for ack in self._acks if not ack.done()]
        self._acks.append(acknowledged)
        now_s = self.network.loop.time()
        self._up_s = max(self._up_s, now_s + self.network.delay_s())
        # Not in the client's life: what has left a process arrives even when it is killed now.
        _world(self.network.loop, self._up_s - now_s, self._arrived, topic, payload, acknowledged)
        if qos:
            await acknowledged

    def _arrived(self, topic: str, payload: bytes, acknowledged: "asyncio.Future[None]") -> None:
        if self._dead:
            return
        self._in_life(self.network.delay_s(), _resolve, acknowledged)
        # A broker that is wiped meanwhile has acknowledged, and never passes it on.
        _world(self.network.loop, self.network.delay_s(), self._routed, topic, payload)

    def _routed(self, topic: str, payload: bytes) -> None:
        if not self._dead or self.network.is_up:
            self.network.route(topic, payload)

    def bring(self, topic: str, payload: bytes) -> None:
        """To the client, unless it is cut meanwhile."""
        now_s = self.network.loop.time()
        self._down_s = max(self._down_s, now_s + self.network.delay_s())
        self._in_life(self._down_s - now_s, self._came, topic, payload)

    def _came(self, topic: str, payload: bytes) -> None:
        if self._dead or self._closed.done():
            return
        if self._paused:
            self._waiting.append((topic, payload))
        else:
            self._on_messages(Messages([topic], [payload], [0]), self)

    def ack(self, packet_ids: Sequence[int]) -> None:
        pass

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        while self._waiting and not self._paused:
            self._came(*self._waiting.pop(0))

    @property
    def closed(self) -> Any:
        return asyncio.shield(self._closed)

    async def close(self) -> None:
        if not self._closed.done():
            self._closed.set_result("We closed it.")
            self.cut(0.0)

    def _check_open(self) -> None:
        if self._closed.done():
            raise ConnectionLostError("closed")


def _world(loop: SimLoop, seconds: float, call: Callable[..., None], *args: Any) -> None:
    token = LIFE.set(NOBODY)
    try:
        loop.call_later(seconds, call, *args)
    finally:
        LIFE.reset(token)


def _resolve(acknowledged: "asyncio.Future[None]") -> None:
    if not acknowledged.done():
        acknowledged.set_result(None)
