"""Bugs to plant: each breaks an invariant, and the simulation must find it. `with bugs.PLANTED[name](): run(seed)`.

The drill must find them, too, in real processes (tests/broken.py), and those that the simulation cannot have:
its disk loses what was not synced, and damages nothing, and its gateways have no rules.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from broker_bridge.mqtt.client import Connection
from broker_bridge.uplink import Uplink
from edge_agent import quarantine
from edge_agent.commit import Group, GroupCommit
from edge_agent.journal import Journal
from edge_agent.processing import Processing
from edge_agent.spool import Spool
from ingest.admit import Admission, Slice
from ingest.blocks import Block
from ingest.decode import Batch
from ingest.dictionaries import Dictionaries, UndefinedSeriesError
from ingest.insert import Insert, Inserter
from ingest.ledger import Intent, Ledger
from ingest.tables import LOSSES
from ingest.worker import Worker
from ingest.writer import Prepared, Writer
from telemetry.columns import Series
from telemetry.delivery import DURABLE, Delivery
from telemetry.errors import FieldlineError
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
    """Settle a group's deliveries from the last to the first, and write PUBACKs the same way."""
    commit, ack = GroupCommit._commit, Connection.ack

    async def reversing(self: GroupCommit, group: Group) -> None:
        await commit(self, group)
        group.settles.reverse()

    def reversed_ack(self: Connection, packet_ids: Sequence[int]) -> None:
        ack(self, packet_ids[::-1])

    with mock.patch.object(GroupCommit, "_commit", reversing), mock.patch.object(Connection, "ack", reversed_ack):
        yield


@contextmanager
def journal_after_the_records() -> Iterator[None]:
    """Keep the fingerprints in memory only."""
    with mock.patch.object(Journal, "write"):
        yield


@contextmanager
def seqs_with_holes() -> Iterator[None]:
    """Leave a seq out behind every commit."""
    append = Spool.append

    def leaving_one_out(self: Spool, *args: Any) -> tuple[int, int]:
        seqs = append(self, *args)
        self.next_seq += 1
        return seqs

    with mock.patch.object(Spool, "append", leaving_one_out):
        yield


@contextmanager
def silent_losses() -> Iterator[None]:
    """Close the books over what was lost: its seqs are stated as committed, and no loss is declared."""
    with mock.patch.object(Writer, "_insert", _without_losses(Writer._insert)):
        yield


@contextmanager
def windows_in_memory() -> Iterator[None]:
    """Commit readings that are in a window without it."""
    with mock.patch.object(Processing, "take_windows", return_value={}):
        yield


@contextmanager
def thinned_uncounted() -> Iterator[None]:
    """Commit messages without the number of their readings that were left out."""
    commit = GroupCommit._commit

    async def uncounted(self: GroupCommit, group: Group) -> None:
        group.thinned = 0
        await commit(self, group)

    with mock.patch.object(GroupCommit, "_commit", uncounted):
        yield


@contextmanager
def damage_is_fatal() -> Iterator[None]:
    """Do not set a damaged spool aside: the agent ends, and cannot start again."""
    refusal = FieldlineError("the spool is damaged")
    with mock.patch.object(quarantine, "move_aside", side_effect=refusal):
        yield


def _without_losses(insert: Any) -> Any:
    def some(self: Writer, block: Block, encoded: Insert) -> Iterator[Any]:
        return iter(()) if block.target is LOSSES else insert(self, block, encoded)

    return some


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
    """Send the receipts while the rows are being written.

    Once they are in the tables it is not to be seen any more: a successor finds them by the intent.
    """
    insert_rows = Worker._insert_rows

    async def early(self: Worker, commit: Prepared) -> Intent:
        marks = self._admission.after(commit.intent.ranges)
        self._admission.commit(marks)
        for key in marks:
            await self._send_receipt(key)
        return await insert_rows(self, commit)

    with mock.patch.object(Worker, "_insert_rows", early):
        yield


@contextmanager
def ledger_before_rows() -> Iterator[None]:
    """Write the ledger, then the rows."""

    insert_rows = Worker._insert_rows

    async def late(self: Worker, commit: Prepared) -> Intent:
        await self._confirm(commit.intent)
        return await insert_rows(self, commit)

    with mock.patch.object(Worker, "_insert_rows", late):
        yield


@contextmanager
def rows_before_intent() -> Iterator[None]:
    """Declare an intent when its rows are written."""
    declare = Ledger.declare
    write = Writer.write

    def late(self: Writer, commit: Prepared) -> None:
        write(self, commit)
        declare(self.ledger, commit.intent)

    with mock.patch.object(Ledger, "declare"), mock.patch.object(Writer, "write", late):
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
    send = Inserter.send

    def fresh_send(self: Inserter, encoded: Insert) -> None:
        client = self.client

        def fresh(settings: dict[str, Any], **more: Any) -> None:
            client.raw_insert(settings=settings | {"insert_deduplication_token": str(next(number))}, **more)

        self.client = mock.Mock(raw_insert=fresh, server_settings=client.server_settings)
        try:
            send(self, encoded)
        finally:
            self.client = client

    with mock.patch.object(Inserter, "send", fresh_send):
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
        seqs_with_holes,
        silent_losses,
        trim_on_broker_ack,
        receipt_before_ledger,
        ledger_before_rows,
        rows_before_intent,
        one_token_for_all,
        no_token,
        no_fence,
        no_recovery,
        whole_batches,
        forgotten_definitions,
        guessed_names,
    )
}
ONLY_REAL: dict[str, Plant] = {
    plant.__name__: plant for plant in (damage_is_fatal, windows_in_memory, thinned_uncounted)
}
