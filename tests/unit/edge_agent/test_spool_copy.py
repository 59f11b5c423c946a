"""A spool read without SQLite: whole it gives what the spool gives, damaged it gives every record that is whole."""

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge_agent.spool import Spool
from edge_agent.spool_copy import UNREADABLE, SpoolCopy, _chunk
from edge_agent.sqlite_pages import PAGE_BYTES, Pages
from telemetry.columns import Columns, DeadLetter, Series
from telemetry.errors import FieldlineError
from telemetry.records import Loss
from tests.records import SERIES_MAX, Record, numbered, records
from tests.spool import ALL, BLOB, content, opened

Content = dict[int, Record | str]


@contextmanager
def copy_of(file: Path, gateway: str = "") -> Iterator[SpoolCopy]:
    with closing(SpoolCopy(file, gateway)) as copy:
        yield copy


def fill(spool: Spool, chance: random.Random) -> Content:
    """Large and small commits, dead letters over many pages, trims, and with `drop_oldest` losses: all it ever took."""
    for number in range(SERIES_MAX):
        spool.series_id(Series(f"d{number}", "m", ""))
    taken: Content = {}
    for number in range(chance.randint(60, 150)):
        first = spool.next_seq
        columns = numbered(first, chance.choice((1, 1, 3, 400)))
        if chance.random() < 0.2:
            columns = Columns()
            columns.add_dead(DeadLetter("topic", BLOB[: chance.randrange(len(BLOB))], "why"), first)
        spool.append(columns, [number + 1])
        taken.update(enumerate(records(columns), first))
        if chance.random() < 0.1 and (run := spool.read(spool.mark, 200, ALL)):
            spool.trim(run.last_seq)
    return taken


def limits(chance: random.Random) -> dict[str, object]:
    return {"when_full": "drop_oldest", "bytes_max": chance.choice((2, 64)) * 1024 * 1024}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_a_whole_spool_is_read_as_its_agent_reads_it(ended: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    with opened(tmp_path / "spool", **limits(chance)) as spool:
        fill(spool, chance)
        expected, epoch = content(spool), spool.epoch
        if ended == "killed":
            shutil.copytree(tmp_path / "spool", tmp_path / "killed")
    with copy_of(tmp_path / ("killed" if ended == "killed" else "spool") / "spool.db") as copy:
        assert (copy.gateway, copy.epoch) == ("g", epoch)
        assert content(copy) == expected
        assert content(copy, records_max=7) == expected
        assert content(copy, bytes_max=1000) == expected
        assert len(copy.journal) >= 60
        assert copy.journal == sorted(copy.journal)
        if expected:
            middle = sorted(expected)[len(expected) // 2]
            copy.trim(middle)
            assert content(copy) == {seq: record for seq, record in expected.items() if seq > middle}


@pytest.mark.parametrize("seed", range(30))
def test_every_record_whose_pages_are_whole_is_salvaged_and_the_rest_declared(seed: int, tmp_path: Path) -> None:
    chance = random.Random(1000 + seed)
    with opened(tmp_path, **limits(chance)) as spool:
        fill(spool, chance)
        before, epoch = content(spool), spool.epoch
    file = tmp_path / "spool.db"
    pages_of = pages_by_seq(file)
    damaged = damage(file, chance)
    try:
        with copy_of(file, gateway="g") as copy:
            after = content(copy)
            mark, series_lost = copy.mark, len(copy._series) < SERIES_MAX
            assert (copy.gateway, copy.epoch) == ("g", epoch)
    except FieldlineError:
        assert not any(pages.isdisjoint(damaged) for pages in pages_of.values())
        return
    whole = {seq for seq, pages in pages_of.items() if pages.isdisjoint(damaged) and seq > mark}
    assert whole <= {seq for seq, found in after.items() if not isinstance(found, str)}
    for seq, found in after.items():
        if isinstance(found, str):
            assert found == before.get(seq) or (found == UNREADABLE and seq not in whole)
        elif found != before.get(seq) and seq > mark:
            assert series_lost or seq not in before, "else nothing but the record itself"


def pages_by_seq(file: Path) -> dict[int, set[int]]:
    """The pages on which a record that waits depends, per seq."""
    found: dict[int, set[int]] = {}
    with copy_of(file) as copy:
        mark, epoch = copy.mark, copy.epoch
    with closing(Logged(file)) as pages:
        for number in range(1, len(pages) + 1):
            pages.used.clear()
            for rowid, row in pages.rows(number):
                chunk = _chunk(rowid, row)
                if chunk and chunk.stamp.epoch == epoch:
                    found.update((seq, {number, *pages.used}) for seq in range(max(rowid, mark + 1), chunk.last + 1))
                pages.used.clear()
    return found


class Logged(Pages):
    """Says which pages were looked at."""

    def __init__(self, file: Path) -> None:
        self.used = set[int]()
        super().__init__(file)

    def __getitem__(self, number: int) -> bytes:
        self.used.add(number)
        return super().__getitem__(number)


def damage(file: Path, chance: random.Random) -> set[int]:
    """Overwrite some places, as a worn card does; which pages."""
    count = file.stat().st_size // PAGE_BYTES
    damaged: set[int] = set()
    with file.open("r+b") as db:
        for _ in range(chance.choice((1, 3, 10))):
            first, length = chance.randint(1, count), chance.choice((1, 1, 16))
            if chance.random() < 0.3:
                first = chance.choice((1, 2, 3))
            for number in range(first, min(first + length, count + 1)):
                start = chance.choice((0, chance.randrange(PAGE_BYTES)))
                db.seek((number - 1) * PAGE_BYTES + start)
                noise = chance.randbytes(chance.randint(1, PAGE_BYTES - start))
                db.write(chance.choice((bytes(PAGE_BYTES - start), noise)))
                damaged.add(number)
    return damaged


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_log_gives_nothing_that_was_not_committed(seed: int, tmp_path: Path) -> None:
    chance = random.Random(2000 + seed)
    with opened(tmp_path / "spool") as spool:
        taken = fill(spool, chance)
        shutil.copytree(tmp_path / "spool", tmp_path / "killed")
    log = tmp_path / "killed" / "spool.db-wal"
    size = log.stat().st_size
    with log.open("r+b") as wal:
        if chance.random() < 0.5:
            wal.truncate(chance.randrange(size))
        else:
            wal.seek(chance.randrange(size))
            wal.write(chance.randbytes(chance.randint(1, 5000)))
    try:
        with copy_of(tmp_path / "killed" / "spool.db", gateway="g") as copy:
            found = content(copy)
            known = len(copy._series) == SERIES_MAX
    except FieldlineError:
        return  # all was in the log
    wrong = [seq for seq, record in found.items() if not isinstance(record, str) and record != taken[seq]]
    assert not (known and wrong)


def test_readings_of_a_series_that_is_lost_become_dead_letters(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in range(SERIES_MAX):
            spool.series_id(Series(f"d{number}", "m", ""))
        spool.append(numbered(1, 2 * SERIES_MAX))
        expected = content(spool)
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.execute("DELETE FROM series WHERE id = 1")
        db.commit()
    with copy_of(tmp_path / "spool.db") as copy:
        (run,) = [copy.read(0, ALL, ALL)]
    assert run is not None
    assert not isinstance(run, Loss)
    assert len(run.columns) == len(expected)
    lost = [letter for letter in run.columns.dead.values() if letter.source == "spool"]
    assert len(lost) == 2
    for letter in lost:
        assert letter.reason == "the spool was damaged: what series 1 was called could not be read any more"
        assert b'"ts": ' in letter.raw


@pytest.mark.parametrize("content_", [b"", b"SQLite format 3\0", bytes(100_000), random.Random(1).randbytes(100_000)])
def test_a_file_that_is_no_spool_is_a_sentence(content_: bytes, tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    file.write_bytes(content_)
    with pytest.raises(FieldlineError, match="is no spool, or nothing in it can be read"):
        SpoolCopy(file)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FieldlineError, match=r"cannot read .*none\.db: No such file or directory"):
        SpoolCopy(tmp_path / "none.db")


def test_a_gap_at_the_end_that_the_agent_still_knew_of_is_declared(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 10))
        known = {"gateway": "g", "epoch": spool.epoch, "mark": 0, "last_seq": 25}
    (tmp_path / "known.json").write_text(json.dumps(known))
    with copy_of(tmp_path / "spool.db") as copy:
        found = content(copy)
    assert list(found) == list(range(1, 26))
    assert set(map(found.get, range(11, 26))) == {UNREADABLE}


def test_a_gap_at_the_end_is_declared_if_the_journal_can_still_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in range(3):
            spool.append(numbered(spool.next_seq, 10), [number])
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.execute("DELETE FROM chunks WHERE first_seq > 10")
        db.commit()
    with copy_of(tmp_path / "spool.db") as copy:
        found = content(copy)
    assert list(found) == list(range(1, 31))
    assert set(map(found.get, range(11, 31))) == {UNREADABLE}


def test_what_nothing_can_be_read_of_is_declared_if_its_agent_still_knew_of_it(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(bytes(100_000))
    (tmp_path / "known.json").write_text('{"gateway": "g", "epoch": "00112233445566ff", "mark": 3, "last_seq": 8}')
    with copy_of(tmp_path / "spool.db") as copy:
        assert (copy.gateway, copy.epoch, copy.readable) == ("g", "00112233445566ff", 0)
        assert content(copy) == dict.fromkeys(range(4, 9), UNREADABLE)
