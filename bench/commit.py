"""Where a commit's time goes, by stages, one after another: decode, prepare, intent, rows, ledger.

In a worker they overlap: while the rows of a commit are inserted, the next is prepared and declared, the one before it
is settled.
"""

import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figure import Figure
from ingest.admit import Admission
from ingest.clickhouse.client import Client
from ingest.decode import decode
from ingest.insert import Insert, Inserter
from ingest.ledger import Ledger
from ingest.tables import INTENTS, LEDGER, READINGS
from ingest.writer import Writer
from telemetry.clock import SystemClock


class Clocked(Inserter):
    """An inserter that keeps how long its statements took, in ms, by table."""

    def __init__(self, client: Client, partition: int) -> None:
        super().__init__(client, f"{random.getrandbits(64):016x}", [partition], threading.Event())
        self.took_ms: dict[str, list[float]] = defaultdict(list)

    def send(self, encoded: Insert) -> None:
        with self.stage(encoded.target.name):
            super().send(encoded)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.took_ms[name].append(1000 * (time.perf_counter() - began))


def stages(client: Client, partition: int, messages: list[tuple[str, bytes]], at_once: int) -> list[Figure]:
    """Commit the messages, so many in each commit, as a worker of `partition`, which no other may own."""
    inserter = Clocked(client, partition)
    writer, admission = Writer(inserter, Ledger(inserter, SystemClock())), Admission()
    writer.ledger.own()
    for first in range(0, len(messages), at_once):
        with inserter.stage("decode"):
            decoded = [decode(payload, topic.rsplit("/", 1)[1]) for topic, payload in messages[first : first + at_once]]
        slices = [part for batch in decoded for part in admission.admit(batch)]
        with inserter.stage("prepare and intent"):
            commit = writer.prepare(slices)
        writer.write(commit)
        writer.ledger.settle(commit.intent, admission.after(commit.intent.ranges))
    took_ms = {name: statistics.median(times) for name, times in inserter.took_ms.items()}
    intent, rows, ledger = (took_ms[target.name] for target in (INTENTS, READINGS, LEDGER))
    parts = {
        "decode": took_ms["decode"],
        "prepare": took_ms["prepare and intent"] - intent,
        "intent": intent,
        "rows": rows,
        "ledger": ledger,
    }
    of = f"a commit of {commit.rows:,} rows"
    return [
        *(Figure(f"{of}: {name}", value, "ms") for name, value in parts.items()),
        Figure(f"{of}: share of intent and ledger", (intent + ledger) / sum(parts.values()), ""),
    ]
