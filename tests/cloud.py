"""The trunk's cloud end for tests of the uplink: no ledger, no tables, it says exactly what the test tells it to.

    async with Cloud.connected(port, "g") as cloud:
        await cloud.until(lambda: cloud.batches, "a batch")
        await cloud.receipt(10)

`undefined` are the dictionaries of batches that mention a series which `dictionaries` do not have (any more).
`promised` is what its receipts ever said, by epoch: the uplink may free nothing else.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from broker_bridge import contract
from broker_bridge.contract import Hello, Receipt, Status
from broker_bridge.mqtt.client import Connection, Messages, Options
from ingest.decode import Batch, decode
from ingest.dictionaries import Dictionaries, UndefinedSeriesError
from telemetry.ranges import SeqRanges
from tests.brokers import HOST, eventually

PARTITIONS = 16


@dataclass
class Cloud:
    """Collects what a gateway sends, in order."""

    gateway: str
    hellos: list[str] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    dictionaries: Dictionaries = field(default_factory=Dictionaries)
    undefined: list[str] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    promised: dict[str, SeqRanges] = field(default_factory=lambda: defaultdict(SeqRanges))
    connection: Connection | None = None

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int, gateway: str) -> AsyncIterator[Self]:
        cloud = cls(gateway)
        await cloud.connect(port)
        try:
            yield cloud
        finally:
            await cloud.disconnect()

    async def connect(self, port: int) -> None:
        """Again, if the broker was away."""
        await self.disconnect()
        self.connection = await Connection.open(Options(HOST, port, f"cloud-{self.gateway}"), self._on_messages)
        await self.connection.subscribe([contract.up_filter(self.partition)])

    async def disconnect(self) -> None:
        if self.connection is not None:
            await self.connection.close()

    @property
    def partition(self) -> int:
        return contract.partition_of(self.gateway, PARTITIONS)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first_seq, last_seq) of the batches."""
        return [(batch.header.first_seq, batch.header.last_seq) for batch in self.batches]

    def _on_messages(self, messages: Messages, connection: Connection) -> None:
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            partition, kind, gateway = contract.split_up_topic(topic)
            assert (partition, gateway) == (self.partition, self.gateway)
            if kind == "hello":
                self.hellos.append(Hello.decode(payload).epoch)
            elif kind == "status":
                self.statuses.append(Status.decode(payload))
            else:
                self._take(payload)
        connection.ack(messages.packet_ids)

    def _take(self, payload: bytes) -> None:
        try:
            self.batches.append(decode(payload, self.gateway, self.dictionaries))
        except UndefinedSeriesError as error:
            self.undefined.append(error.dictionary)

    async def until(self, condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
        await eventually(lambda: bool(condition()), what, deadline_s)

    async def until_spans(self, *spans: tuple[int, int]) -> None:
        """These batches have come, and no others."""
        await self.until(lambda: len(self.spans) >= len(spans), f"the batches {spans}")
        assert self.spans == list(spans)

    async def receipt(
        self,
        mark: int,
        *ahead: tuple[int, int],
        epoch: str | None = None,
        worker: str = "w1",
        refused: str = "",
        undefined: str = "",
    ) -> None:
        """Say this of an epoch, by default of the one that the gateway said hello with last."""
        receipt = Receipt(epoch if epoch is not None else self.hellos[-1], mark, ahead, worker, refused, undefined)
        for first, last in receipt.ranges():
            self.promised[receipt.epoch].add(first, last)
        await self.say(contract.receipt_topic(self.gateway), receipt.encode())

    async def greeted(self, mark: int, *ahead: tuple[int, int]) -> None:
        """Wait for a hello and answer it."""
        await self.until(lambda: self.hellos, "a hello")
        await self.receipt(mark, *ahead)

    async def worker_started(self, worker: str) -> None:
        await self.say(contract.worker_topic(self.partition), worker.encode())

    async def say(self, topic: str, payload: bytes) -> None:
        assert self.connection is not None
        await self.connection.publish(topic, payload, qos=1)
