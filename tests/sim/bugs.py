"""Bugs to plant: each breaks an invariant, and the simulation must find it. `with bugs.PLANTED[name](): run(seed)`."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from broker_bridge.uplink import Uplink
from edge_agent.commit import Group, GroupCommit
from edge_agent.journal import Journal
from ingest.admit import Admission, Slice
from ingest.blocks import blocks
from ingest.decode import Batch
from ingest.dictionaries import Dictionaries, UndefinedSeriesError
from ingest.insert import Inserter
from ingest.ledger import Ledger
from ingest.worker import Pending, Worker
from ingest.writer import Writer, _scope
from telemetry.columns import Series
from telemetry.delivery import DURABLE, Delivery
from telemetry.ranges import SeqRanges
from tests.sim.network import SimConnection


@contextmanager
def ack_before_write() -> Iterator[None]:
    """Acknowledge a message when it was decoded."""
    deliver = GroupCommit.deliver

    async def early(self: GroupCommit, delivery: Delivery[Any]) -> None:
        await deliver(self, Delivery(delivery.payload, lambda _outcome: None))
        delivery.settle(DURABLE)

    with mock.patch.object(GroupCommit, "deliver", early):
        yield


@contextmanager
def acks_out_of_order() -> Iterator[None]:
    """Settle a group's deliveries from the last to the first."""
    commit = GroupCommit._commit

    async def reversing(self: GroupCommit, group: Group) -> None:
        await commit(self, group)
        group.settles.reverse()

    with mock.patch.object(GroupCommit, "_commit", reversing):
        yield


@contextmanager
def journal_after_the_records() -> Iterator[None]:
    """Keep the fingerprints in memory only."""
    with mock.patch.object(Journal, "write"):
        yield


@contextmanager
def trim_on_broker_ack() -> Iterator[None]:
    """Believe the broker: what it has acknowledged is confirmed."""
    stream = Uplink._stream

    async def believing(self: Uplink, connection: SimConnection, tasks: Any) -> None:
        publish = connection.publish

        async def publish_and_confirm(topic: str, payload: bytes, **more: Any) -> None:
            last = self._window.sent_seq
            await publish(topic, payload, **more)
            if last:
                self._window.confirmed.add(1, last)
                self.wake()

        with mock.patch.object(connection, "publish", publish_and_confirm):
            await stream(self, connection, tasks)

    with mock.patch.object(Uplink, "_stream", believing):
        yield


@contextmanager
def receipt_before_ledger() -> Iterator[None]:
    """Send the receipts while the commit is being written."""
    write = Worker._write

    async def early(self: Worker, pending: Pending) -> None:
        marks = self._admission.after(pending.slices)
        self._admission.commit(marks)
        for key in marks:
            await self._send_receipt(key)
        await write(self, pending)

    with mock.patch.object(Worker, "_write", early):
        yield


@contextmanager
def ledger_before_rows() -> Iterator[None]:
    """Write the ledger, then the rows."""

    def commit(self: Writer, slices: list[Slice], marks: dict[Any, SeqRanges]) -> None:
        intent = self.ledger.declare(*_scope(slices))
        self.ledger.settle(intent, marks)
        for block in blocks(slices, intent.created_ms):
            for letters in self._insert(block):
                self.inserter.insert(letters.target, letters.rows)

    with mock.patch.object(Writer, "commit", commit):
        yield


@contextmanager
def one_token_for_all() -> Iterator[None]:
    """Use a deduplication token for other content."""
    digest = mock.Mock(return_value=mock.Mock(hexdigest=lambda: "always"))
    with mock.patch.object(hashlib, "blake2b", digest):
        yield


@contextmanager
def no_token() -> Iterator[None]:
    """A new token for every attempt: an insert whose answer was lost is stored twice."""
    number = iter(range(10**9))
    command = Inserter.insert

    def insert(self: Inserter, target: Any, rows: Any) -> None:
        client = self.client

        def fresh(statement: str, data: bytes, settings: dict[str, Any]) -> None:
            client.command(statement, data=data, settings=settings | {"insert_deduplication_token": str(next(number))})

        self.client = mock.Mock(command=fresh, server_settings=client.server_settings)
        try:
            command(self, target, rows)
        finally:
            self.client = client

    with mock.patch.object(Inserter, "insert", insert):
        yield


@contextmanager
def no_fence() -> Iterator[None]:
    """Insert also after another worker has taken over."""
    with (
        mock.patch.object(Inserter, "_fence", return_value="1"),
        mock.patch.object(Ledger, "check"),
    ):
        yield


@contextmanager
def no_recovery() -> Iterator[None]:
    """Do not look up what a predecessor has left."""
    with mock.patch.object(Ledger, "_recover"):
        yield


@contextmanager
def whole_batches() -> Iterator[None]:
    """Admit a batch as a whole when any of its rows is new."""
    admit = Admission.admit

    def whole(self: Admission, batch: Batch) -> list[Slice]:
        return [Slice(batch, 0, batch.header.count)] if admit(self, batch) else []

    with mock.patch.object(Admission, "admit", whole):
        yield


@contextmanager
def forgotten_definitions() -> Iterator[None]:
    """Define a series once for ever, whoever has forgotten it."""
    rewind = Uplink._rewind

    def keeping(self: Uplink, confirmed: SeqRanges) -> None:
        dictionary = self._dictionary
        rewind(self, confirmed)
        self._dictionary = dictionary or self._dictionary

    with (
        mock.patch.object(Uplink, "_rewind", keeping),
        mock.patch.object(Uplink, "_define_again"),
    ):
        yield


@contextmanager
def guessed_names() -> Iterator[None]:
    """Admit a batch also when it mentions a series that nobody has defined."""
    names = Dictionaries.names

    def guessing(self: Dictionaries, key: Any, ids: list[int], defined: dict[int, Series]) -> list[Series]:
        try:
            return names(self, key, ids, defined)
        except UndefinedSeriesError:
            return [defined.get(id_, Series("d0", "m0", "")) for id_ in ids]

    with mock.patch.object(Dictionaries, "names", guessing):
        yield


Plant = Callable[[], AbstractContextManager[None]]

PLANTED: dict[str, Plant] = {
    plant.__name__: partial(plant)
    for plant in (
        ack_before_write,
        acks_out_of_order,
        journal_after_the_records,
        trim_on_broker_ack,
        receipt_before_ledger,
        ledger_before_rows,
        one_token_for_all,
        no_token,
        no_fence,
        no_recovery,
        whole_batches,
        forgotten_definitions,
        guessed_names,
    )
}
