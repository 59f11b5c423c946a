"""`fieldline dead-letters replay`: dead letters through the mapping of today, after it was mended.

The readings keep gateway, epoch and received_at of their letter, and its seq; one letter may give several. The column
`replay` tells them from what was stored as it came, and the accounting leaves them out: their record is the letter.

Exactly once. A replay has a number, its fence: only the latest may insert (ingest/insert.py). For a group of letters
it says in the table `replays` that it begins, removes what earlier replays of these letters have left, inserts, and
says that it is done. So a replay that was killed anywhere is made good by the next one, and a letter that is done is
not taken again, unless somebody asks for it (`again`, after a wrong mend).

Removing is `DELETE … WHERE replay < ours`: a replay that was held up until a later one had finished removes nothing
of what that one has stored.
"""

import secrets
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa

from analytics.dead_letters import REPLAYED, Filter, printable, tables
from ingest.clickhouse.client import Client
from ingest.decode import MEASURED_MS_MAX, MEASURED_MS_MIN
from ingest.insert import ContentError, FencedError, Inserter, first_line
from ingest.ledger import Ledger
from ingest.tables import REPLAYED as REPLAYED_READINGS
from ingest.tables import REPLAYS
from telemetry.clock import Clock, SystemClock
from telemetry.columns import US_PER_MS, Columns, DeadLetter, Series
from telemetry.delivery import Chunk
from telemetry.errors import FieldlineError

Decode = Callable[[Chunk], tuple[Columns, list[Series]]]

FENCE = 2**16
"""What stands for replays among the partitions of the table `workers`: one beyond the largest of the trunk's."""
GROUP_LETTERS_MAX = 2_000
"""Their ids are in the text of a query; ClickHouse takes 256 KiB of it."""
GROUP_BYTES_MAX = 16 * 1024 * 1024
REASONS_SHOWN_MAX = 5


class Letter(NamedTuple):
    """A dead letter of the gateway."""

    epoch: str
    seq: int
    received_at: int
    content: DeadLetter


class Decoded(NamedTuple):
    """A dead letter that is none any more. `series` belongs to `columns`."""

    letter: Letter
    columns: Columns
    series: list[Series]


@dataclass(slots=True)
class Outcome:
    """What became of the letters. refused: reason -> letters."""

    letters: int = 0
    readings: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def say(self, out: TextIO, *, dry: bool) -> None:
        """For people."""
        verb = "would give" if dry else "gave"
        print(f"{self.letters:,} dead letters {verb} {self.readings:,} readings.", file=out)
        if self.refused:
            print(f"{self.refused.total():,} still cannot become readings:", file=out)
        for reason, letters in self.refused.most_common(REASONS_SHOWN_MAX):
            print(f"  {letters:,}: {printable(reason)}", file=out)
        if len(self.refused) > REASONS_SHOWN_MAX:
            print(f"  and {len(self.refused) - REASONS_SHOWN_MAX:,} more reasons", file=out)


def run(
    url: str | None,
    decode: Decode,
    chosen: Filter,
    *,
    dry: bool = False,
    again: bool = False,
    out: TextIO | None = None,
) -> int:
    """Replay the chosen letters of one gateway; 1 if some still cannot be decoded. Raises FieldlineError."""
    out = out or sys.stdout
    with tables(url) as client:
        outcome = replay(client, decode, chosen, dry=dry, again=again)
    if outcome is None:
        print(f"There are no such dead letters of gateway {chosen.gateway} to replay.", file=out)
        return 0
    outcome.say(out, dry=dry)
    return 1 if outcome.refused else 0


class Step(NamedTuple):
    """How far a replay is: letters that were looked at, of how many, and what became readings since the last step."""

    letters: int
    total: int
    decoded: list[Decoded]


def _nobody(_: Step) -> None:
    """Nobody looks."""


def replay(
    client: Client,
    decode: Decode,
    chosen: Filter,
    *,
    dry: bool = False,
    again: bool = False,
    seen: Callable[[Step], None] = _nobody,
) -> Outcome | None:
    """The same, with a client; None if there are no such letters. Raises FieldlineError and ClickHouseError.

    `seen` is called after each group of letters. What it raises ends the replay, as a kill would: it can be repeated.
    """
    groups = list(_groups(client, chosen, again=again))
    if not groups:
        return None
    outcome = Outcome()
    storing = None if dry else Replay.begin(client, chosen.gateway)
    total, looked = sum(map(len, groups)), 0
    for group in groups:
        letters = _fetch(client, chosen.gateway, group)
        decoded = [found for letter in letters if (found := _decode(letter, decode, outcome)) is not None]
        if storing is not None:
            storing.store(letters, decoded, outcome)
        else:
            outcome.letters += len(decoded)
            outcome.readings += sum(len(found.columns) for found in decoded)
        looked += len(group)
        seen(Step(looked, total, decoded))
    return outcome


def _groups(client: Client, chosen: Filter, *, again: bool) -> Iterator[list[tuple[str, int]]]:
    """The (epoch, seq) of the chosen letters, in groups that fit in memory."""
    done = "" if again else f"AND (gateway, epoch, seq) NOT IN ({REPLAYED})"
    found = client.query(
        "SELECT epoch, seq, length(raw) FROM fieldline.dead_letters "
        f"WHERE {chosen.condition} AND epoch != '' {done} ORDER BY epoch, seq",
        parameters=chosen.parameters,
    )
    group: list[tuple[str, int]] = []
    size = 0
    for epoch, seq, length in found.result_rows:
        if group and (len(group) == GROUP_LETTERS_MAX or size + length > GROUP_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append((epoch, seq))
        size += length
    if group:
        yield group


def _fetch(client: Client, gateway: str, group: list[tuple[str, int]]) -> list[Letter]:
    rows = client.query(
        "SELECT epoch, seq, toUnixTimestamp64Milli(received_at), source, hex(raw), reason FROM fieldline.dead_letters "
        "WHERE gateway = %(gateway)s AND (epoch, seq) IN %(group)s ORDER BY epoch, seq",
        parameters={"gateway": gateway, "group": group},
    ).result_rows
    return [
        Letter(epoch, seq, received_at, DeadLetter(source, bytes.fromhex(raw), reason))
        for epoch, seq, received_at, source, raw, reason in rows
    ]


def _decode(letter: Letter, decode: Decode, outcome: Outcome) -> Decoded | None:
    """The letter's readings, or None; then the outcome has the reason."""
    source, raw, reason = letter.content
    if not letter.content.is_whole:
        outcome.refused["only the beginning of the payload was kept"] += 1
        return None
    if reason.startswith("ClickHouse: "):  # a reading that was decoded, not what came from the device
        outcome.refused[reason] += 1
        return None
    columns, series = decode(Chunk(letter.received_at, [source], [raw], [0]))
    if columns.dead:
        outcome.refused[columns.dead[0].reason] += 1
        return None
    if not all(MEASURED_MS_MIN <= at < MEASURED_MS_MAX for at in columns.measured_at):
        outcome.refused["its time is not between the years 2000 and 2100"] += 1
        return None
    return Decoded(letter, columns, series)


@dataclass(slots=True)
class Replay:
    """One replay: its number, and the stamp of its rows, which no two inserts share."""

    inserter: Inserter
    gateway: str
    number: int
    stamp_ms: int
    clock: Clock

    @classmethod
    def begin(cls, client: Client, gateway: str) -> "Replay":
        """Become the latest replay. Raises FencedError when another one began at this moment."""
        inserter = Inserter(client, f"replay-{secrets.token_hex(8)}", [FENCE], threading.Event())
        clock = SystemClock()
        ledger = Ledger(inserter, clock)
        ledger.own()
        return cls(inserter, gateway, ledger.fence, 0, clock)

    def store(self, letters: list[Letter], decoded: list[Decoded], outcome: Outcome) -> None:
        """Bring the readings into the table, and nothing else of these letters. Raises FencedError."""
        try:
            self._say(letters, done=0)
            self._remove(letters, below=self.number)
            self._insert(decoded, outcome)
        except FencedError:
            raise FieldlineError(
                "another replay has begun; this one ends. Run it again when that one is done"
            ) from None

    def _insert(self, decoded: list[Decoded], outcome: Outcome) -> None:
        """Insert; letters whose readings ClickHouse refuses are found by halving."""
        if not decoded:
            return
        self.stamp_ms = max(self.stamp_ms + 1, self.clock.now_ms())
        try:
            for rows in self._blocks(decoded):
                self.inserter.insert(REPLAYED_READINGS, rows)
        except ContentError as error:
            self._remove([found.letter for found in decoded], below=self.number + 1)
            if len(decoded) == 1:
                outcome.refused[f"ClickHouse: {first_line(error)}"] += 1
                return
            half = len(decoded) // 2
            self._insert(decoded[:half], outcome)
            self._insert(decoded[half:], outcome)
            return
        self._say([found.letter for found in decoded], [len(found.columns) for found in decoded], done=1)
        outcome.letters += len(decoded)
        outcome.readings += sum(len(found.columns) for found in decoded)

    def _blocks(self, decoded: list[Decoded]) -> Iterator[pa.Table]:
        """The readings, a table for each month."""
        rows = [
            {
                **found.series[found.columns.series[at]]._asdict(),
                "measured_at": found.columns.measured_at[at],
                "received_at": found.letter.received_at,
                "ingested_at": self.stamp_ms,
                "value": found.columns.value[at],
                "text": found.columns.texts.get(at, ""),
                "quality": found.columns.quality[at],
                "measured_us": found.columns.fine.get(at, 0) % US_PER_MS,
                "clock_offset_ms": found.columns.fine.get(at, 0) // US_PER_MS,
                "gateway": self.gateway,
                "epoch": found.letter.epoch,
                "seq": found.letter.seq,
                "replay": self.number,
            }
            for found in decoded
            for at in range(len(found.columns))
        ]
        if not rows:
            return
        table = pa.Table.from_pylist(rows, REPLAYED_READINGS.schema)
        months = np.array([row["measured_at"] for row in rows], "datetime64[ms]").astype("datetime64[M]")
        for month in np.unique(months):
            yield table.filter(pa.array(months == month))

    def _say(self, letters: list[Letter], readings: list[int] | None = None, *, done: int) -> None:
        counts = readings or [0] * len(letters)
        rows: list[dict[str, Any]] = [
            {
                "gateway": self.gateway,
                "epoch": letter.epoch,
                "seq": letter.seq,
                "replay": self.number,
                "done": done,
                "readings": count,
                "replayed_at": self.stamp_ms if done else self.clock.now_ms(),
            }
            for letter, count in zip(letters, counts, strict=True)
        ]
        self.inserter.insert(REPLAYS, pa.Table.from_pylist(rows, REPLAYS.schema))

    def _remove(self, letters: list[Letter], below: int) -> None:
        """What replays with a number below this have stored of the letters."""
        client = self.inserter.client
        group = [(letter.epoch, letter.seq) for letter in letters]
        parameters = {"gateway": self.gateway, "below": below, "group": group}
        condition = "replay BETWEEN 1 AND %(below)s - 1 AND gateway = %(gateway)s AND (epoch, seq) IN %(group)s"
        there = client.query(f"SELECT 1 FROM fieldline.readings WHERE {condition} LIMIT 1", parameters=parameters)
        if there.result_rows:
            client.command(
                f"DELETE FROM fieldline.readings WHERE {condition}",
                parameters=parameters,
                settings={"lightweight_deletes_sync": 2, "mutations_sync": 2},
            )
