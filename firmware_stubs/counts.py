"""What a fleet knows of its own messages: sent, acknowledged, refused; as a report and a journal.

A message counts as acknowledged only when its device was told so: PUBACK over MQTT, 2.04 over CoAP (4.00
for a broken one: the gateway has kept it as a dead letter).
"""

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from firmware_stubs.message import Message


@dataclass(slots=True)
class Counts:
    """Since the start. `refused`: answered 4.00, part of `poison_acked`. `rejected`: too long for CoAP (4.13),
    taken by nobody. `reposted`: CoAP messages posted anew because their exchange got no answer at all; only
    these may have been stored twice. `unacked`: given up at the end.
    """

    messages_sent: int = 0
    messages_acked: int = 0
    readings_acked: int = 0
    poison_acked: int = 0
    refused: int = 0
    rejected: int = 0
    reposted: int = 0
    unacked: int = 0


@dataclass(slots=True)
class Book:
    """Counts that several threads write into, with an optional journal of every acknowledged message."""

    journal_path: Path | None = None
    counts: Counts = field(default_factory=Counts)
    last_refusal: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _journal: IO[str] | None = None

    def open(self) -> None:
        """Begin the journal, if there is to be one."""
        if self.journal_path is not None:
            self._journal = self.journal_path.open("w")

    def sent(self) -> None:
        with self._lock:
            self.counts.messages_sent += 1

    def reposted(self) -> None:
        with self._lock:
            self.counts.reposted += 1

    def rejected(self) -> None:
        with self._lock:
            self.counts.rejected += 1

    def unacked(self, count: int) -> None:
        with self._lock:
            self.counts.unacked += count

    def acked(self, message: Message, via: str) -> None:
        """The device was told that its message is safe."""
        with self._lock:
            self.counts.messages_acked += 1
            self.counts.readings_acked += message.readings
            self.counts.poison_acked += message.poison
            if self._journal is not None:
                self._journal.write(_journal_line(message, via))

    def refused(self, message: Message, why: str) -> None:
        """CoAP 4.00. The gateway has it as a dead letter, so it is acknowledged all the same."""
        with self._lock:
            self.counts.refused += 1
            self.counts.messages_acked += 1
            self.counts.poison_acked += 1
            self.last_refusal = why
            if self._journal is not None:
                self._journal.write(_journal_line(message._replace(poison=True), "coap"))

    def write_report(self, path: Path) -> None:
        """The counts as JSON; readers never see half a file."""
        with self._lock:
            text = json.dumps(asdict(self.counts))
            if self._journal is not None:
                self._journal.flush()
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.replace(path)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


def _journal_line(message: Message, via: str) -> str:
    if message.poison:
        return json.dumps({"device": message.device, "poison": True, "via": via}) + "\n"
    values = json.loads(message.payload)
    ts = values.pop("ts")
    return json.dumps({"device": message.device, "ts": ts, "values": values, "via": via}) + "\n"
