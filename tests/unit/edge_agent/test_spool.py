"""The spool against a model in memory, and what it does when its files are damaged (test_spool_limits.py: when full).

The central promise is invariant 2: chunks and losses hold every seq from mark+1 to next_seq-1, without holes
or overlaps, with the right values, whatever happens between (test_spool_kill.py adds SIGKILL).
"""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent import chunk
from edge_agent.spool import Spool, open_spool
from telemetry.columns import DeadLetter, Series
from telemetry.errors import SpoolFullError
from telemetry.records import Loss, Records
from tests.records import NEW_YEAR_MS, Record, numbered, records
from tests.spool import ALL, BLOB, MIB, config, content, opened

SIZES = [0, 100, 2_000, len(BLOB) + 60, ALL]


class AgainstAModel(RuleBasedStateMachine):
    """`records` is every record of the epoch so far; what the spool evicted is known by asking it."""

    @initialize(when_full=st.sampled_from(["block", "drop_oldest"]))
    def begin(self, when_full: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.config = config(Path(self.folder.name), bytes_max=MIB, when_full=when_full)
        self.spool = open_spool(self.config, "g")
        self.epoch = self.spool.epoch
        self.records: list[Record] = []
        self.chunk_ends = [0]
        self.lost: set[int] = set()
        self.mark = 0
        self.taken = 0
        self.keys: set[int] = set()
        self.series: list[Series] = []
        self.series_saved = 0

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            self.folder.cleanup()

    @rule(count=st.integers(1, 30), large=st.booleans(), keys=st.integers(0, 3))
    def append(self, count: int, large: bool, keys: int) -> None:
        new = numbered(self.taken + 1, count)
        if large:
            new.add_dead(DeadLetter("t", BLOB, "large"), NEW_YEAR_MS)
            count += 1
        new_keys = [self.taken * 100 + i + 1 for i in range(keys)]
        before = self.spool.status()
        try:
            ends = self.spool.append(new, new_keys, NEW_YEAR_MS)
        except SpoolFullError:
            assert self.config.when_full == "block"
            assert self.spool.status() == before
            assert not any(map(self.spool.knows, new_keys))
            return
        assert ends == (len(self.records) + 1, len(self.records) + count)
        self.records += records(new)
        self.chunk_ends.append(len(self.records))
        self.taken += count
        self.keys.update(new_keys)
        self.series_saved = len(self.series)
        lost = {loss for loss, it in content(self.spool).items() if isinstance(it, str)}
        if lost - self.lost:
            assert self.config.when_full == "drop_oldest"
            assert lost == set(range(self.mark + 1, max(lost) + 1)), "the oldest go first"
            assert max(lost) in self.chunk_ends, "whole chunks"
        self.lost |= lost

    @rule()
    def fill(self) -> None:
        for _ in range(3):
            self.append(2, large=True, keys=1)

    @rule()
    def a_new_series(self) -> None:
        series = Series(f"d{len(self.series)}", "m", "é")
        assert self.spool.series_id(series) == len(self.series)
        self.series.append(series)

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        mark = data.draw(st.integers(0, len(self.records)))
        self.spool.trim(mark)
        self.mark = max(self.mark, mark)

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = open_spool(self.config, "g")
        del self.series[self.series_saved :]

    @rule()
    def renew_epoch(self) -> None:
        before = self.spool.status()
        self.spool.renew_epoch()
        assert self.spool.epoch != self.epoch
        self.epoch = self.spool.epoch
        del self.records[: self.mark]
        self.chunk_ends = [0] + [end - self.mark for end in self.chunk_ends if end > self.mark]
        self.lost = {seq - self.mark for seq in self.lost if seq > self.mark}
        self.mark = 0
        assert (self.spool.status().records, self.spool.status().lost) == (before.records, before.lost)

    @precondition(lambda self: self.records)
    @rule(data=st.data(), records_max=st.integers(1, 40), bytes_max=st.sampled_from(SIZES))
    def read(self, data: st.DataObject, records_max: int, bytes_max: int) -> None:
        after = data.draw(st.integers(self.mark, len(self.records)))
        run = self.spool.read(after, records_max, bytes_max)
        if after == len(self.records):
            assert run is None
            return
        assert run is not None
        assert run.first_seq == after + 1
        if isinstance(run, Loss):
            assert set(range(run.first_seq, run.last_seq + 1)) <= self.lost
            assert run.declared_at == NEW_YEAR_MS
            return
        assert records(run.columns) == self.records[after : run.last_seq]
        size = chunk.plain_bytes(run.columns)
        assert 1 <= len(run.columns) <= records_max
        assert size <= bytes_max or len(run.columns) == 1
        if len(run.columns) < records_max and run.last_seq < len(self.records) and run.last_seq + 1 not in self.lost:
            following = self.spool.read(run.last_seq, 1, 0)
            assert isinstance(following, Records)
            assert size + chunk.plain_bytes(following.columns) > bytes_max, "a run is as long as its limits let it be"

    @invariant()
    def every_seq_is_there_once_with_its_value(self) -> None:
        found = content(self.spool, 17)
        assert self.spool.next_seq == len(self.records) + 1
        for seq, it in found.items():
            if seq in self.lost:
                assert it == "evicted: the spool was full (drop_oldest)"
            else:
                assert it == self.records[seq - 1]

    @invariant()
    def it_says_what_it_holds(self) -> None:
        status = self.spool.status()
        lost = sum(seq > self.mark for seq in self.lost)
        assert (status.gateway, status.epoch, status.mark) == ("g", self.epoch, self.mark)
        assert (self.spool.epoch, self.spool.mark) == (self.epoch, self.mark)
        assert (status.last_seq, status.lost) == (len(self.records), lost)
        assert status.records == len(self.records) - self.mark - lost
        assert status.bytes <= self.config.bytes_max
        assert bool(status.oldest_at) == bool(status.records)

    @invariant()
    def it_knows_its_messages_and_series(self) -> None:
        assert all(map(self.spool.knows, self.keys))
        assert not self.spool.knows(99)
        assert [self.spool.series(id_) for id_ in range(len(self.series))] == self.series
        assert [self.spool.series_id(series) for series in self.series] == list(range(len(self.series)))


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


@pytest.mark.parametrize("damage", ["header", "all", "no database"])
def test_a_database_that_cannot_be_read_is_kept_and_a_new_epoch_begins(damage: str, tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 30), [1])
        epoch = spool.epoch
    file = tmp_path / "spool.db"
    good = file.read_bytes()
    bad = {"header": b"\xa5" * 100 + good[100:], "all": b"\xa5" * len(good), "no database": b"hello" * 30}[damage]
    file.write_bytes(bad)
    with opened(tmp_path) as spool:
        assert spool.epoch != epoch
        assert (spool.mark, spool.next_seq) == (0, 1)
        assert spool.knows(1) == (damage == "header"), "what the broker sends again is recognised, if it can be read"
        assert spool.append(numbered(1, 3)) == (1, 3)
        (kept,) = tmp_path.glob("corrupt-*")
        assert (kept / "spool.db").read_bytes() == bad
    with opened(tmp_path) as spool:
        assert spool.next_seq == 4


def damage_chunk(path: Path, first_seq: int, body: bytes) -> None:
    """Change a chunk's body behind the spool's back."""
    with closing(sqlite3.connect(path / "spool.db", timeout=5)) as db, db:
        assert db.execute("UPDATE chunks SET body = ? WHERE first_seq = ?", (body, first_seq)).rowcount == 1


def body_of(path: Path, first_seq: int) -> bytes:
    with closing(sqlite3.connect(path / "spool.db", timeout=5)) as db:
        (body,) = db.execute("SELECT body FROM chunks WHERE first_seq = ?", (first_seq,)).fetchone()
        assert isinstance(body, bytes)
        return body


def three_chunks(spool: Spool) -> list[Record]:
    """Chunks 1-10, 11-20 and 21-30; what they hold."""
    made = [numbered(first, 10) for first in (1, 11, 21)]
    for part in made:
        spool.append(part)
    return [record for part in made for record in records(part)]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.booleans())
def test_a_damaged_chunk_becomes_a_loss_and_its_neighbours_stay(data: st.DataObject, reopened: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with opened(path) as spool:
            good = three_chunks(spool)
            body = bytearray(body_of(path, 11))
            if data.draw(st.booleans(), "cut"):
                del body[data.draw(st.integers(0, len(body) - 1)) :]
            else:
                for position in data.draw(st.sets(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
                    body[position] ^= data.draw(st.integers(1, 255))
            damage_chunk(path, 11, bytes(body))
            if not reopened:
                check_only_the_middle_is_lost(spool, good, bytes(body))
        with opened(path) as spool:
            check_only_the_middle_is_lost(spool, good, bytes(body))


def check_only_the_middle_is_lost(spool: Spool, good: list[Record], body: bytes) -> None:
    found = content(spool)
    assert [found[seq] for seq in range(1, 11)] == good[:10]
    assert [found[seq] for seq in range(21, 31)] == good[20:]
    (reason,) = {found[seq] for seq in range(11, 21)}
    assert isinstance(reason, str)
    name = f"damaged-{spool.epoch}-11-20.chunk"
    assert reason == f"damaged in the spool (checksum); its bytes are kept at the gateway in {name}"
    (kept,) = Path(spool._config.path).glob("damaged-*")
    assert (kept.name, kept.read_bytes()) == (name, body)
    assert (spool.status().lost, spool.status().records) == (10, 20)


def test_damage_behind_the_mark_is_lost_from_the_mark_on(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        good = three_chunks(spool)
        spool.trim(4)
        damage_chunk(tmp_path, 1, b"")
        found = content(spool)
        assert "damaged" in str(found[5])
        assert {found[seq] for seq in range(5, 11)} == {found[5]}
        assert [found[seq] for seq in range(11, 31)] == good[10:]
        assert spool.status().lost == 6


def test_a_trim_finds_its_chunks_by_the_index_however_long_the_backlog_is(tmp_path: Path) -> None:
    statements: list[str] = []
    with opened(tmp_path) as spool:
        for first in range(1, 41, 10):
            spool.append(numbered(first, 10))
        spool._db.set_trace_callback(statements.append)
        spool.trim(20)
        spool._db.set_trace_callback(None)
        (delete,) = (statement for statement in statements if statement.startswith("DELETE FROM chunks"))
        plan = [row[3] for row in spool._db.execute(f"EXPLAIN QUERY PLAN {delete}")]
        assert plan == ["SEARCH chunks USING INTEGER PRIMARY KEY (rowid<?)"]
        assert list(content(spool)) == list(range(21, 41))


def test_damage_found_in_the_middle_of_a_chunk_is_lost_from_there_on(tmp_path: Path) -> None:
    """The first half of the chunk was read, and sent, before it was damaged: a loss follows what was asked for."""
    with opened(tmp_path) as spool:
        three_chunks(spool)
        assert isinstance(spool.read(0, 4, ALL), Records)
        damage_chunk(tmp_path, 1, b"")
        found = spool.read(4, ALL, ALL)
        assert isinstance(found, Loss)
        assert (found.first_seq, found.last_seq) == (5, 10)


@pytest.mark.parametrize("damaged", [1, 11, 21])
def test_a_new_epoch_keeps_losses_and_finds_damage_later(damaged: int, tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        good = three_chunks(spool)
        spool.trim(4)
        damage_chunk(tmp_path, damaged, b"junk")
        spool.renew_epoch()
        assert (spool.mark, spool.next_seq) == (0, 27)
        found = content(spool)
        lost = {seq for seq, it in found.items() if isinstance(it, str)}
        assert lost == {seq - 4 for seq in range(max(damaged, 5), damaged + 10)}
        assert all(found[seq] == good[seq + 3] for seq in found if seq not in lost)
        epoch = spool.epoch
    with opened(tmp_path) as spool:
        assert spool.epoch == epoch
        assert content(spool) == found
