"""The spool when it or the disk is full, when it is not alone, and the bounds of its journal and its series."""

import random
import sqlite3
import subprocess
import sys
from array import array
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent import journal
from edge_agent.journal import JOURNAL_KEYS_MAX, Journal
from edge_agent.spool import open_spool
from edge_agent.spool_file import FORMATS, SCHEMA, read_status
from telemetry.columns import Series
from telemetry.errors import FieldlineError, SpoolFullError
from telemetry.records import Loss, Records
from tests.records import numbered
from tests.spool import ALL, BLOB, MIB, config, content, opened

ROOT = Path(__file__).parents[3]
STATUS = "import sys, pathlib; from edge_agent import spool_file as f; print(f.read_status(pathlib.Path(sys.argv[1])))"


def test_a_full_spool_takes_nothing_until_a_receipt_frees_it(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=MIB) as spool:
        taken = 0
        with suppress(SpoolFullError):
            while taken < 100:
                spool.append(numbered(7 * taken + 7, 1, 70_000, BLOB), [taken + 1])
                taken += 1
        assert 5 < taken < 100
        before = content(spool)
        with pytest.raises(SpoolFullError, match=r"The spool is full .* Check the uplink, or raise spool\.bytes_max"):
            spool.append(numbered(1000, 5, 70_000, BLOB), [4711])
        assert content(spool) == before
        assert not spool.knows(4711)
        spool.trim(3)
        assert spool.append(numbered(700, 1, 70_000, BLOB)) == (taken + 1, taken + 1)


def test_a_nearly_full_disk_takes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, free_bytes_min=2**60) as spool:
        with pytest.raises(SpoolFullError, match=r"The disk is nearly full .* Free some space on the gateway"):
            spool.append(numbered(1, 3))
        assert spool.next_seq == 1
    with opened(tmp_path) as spool:
        assert spool.append(numbered(1, 3)) == (1, 3)


def test_evictions_are_declared_once_as_one_growing_loss(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=MIB, when_full="drop_oldest") as spool:
        for number in range(7, 7 * 40, 7):
            spool.append(numbered(number, 1, 70_000, BLOB), now_ms=number)
        loss = spool.read(0, ALL, ALL)
        assert isinstance(loss, Loss)
        assert loss.first_seq == 1
        assert loss.reason == "evicted: the spool was full (drop_oldest)"
        run = spool.read(loss.last_seq, ALL, ALL)
        assert isinstance(run, Records)
        assert run.last_seq == 39
        assert spool.read(3, 1, 1) == Loss(4, loss.last_seq, loss.reason, loss.declared_at)
        assert spool.status().lost == loss.last_seq


def test_the_journal_is_bounded_and_survives_reopening(tmp_path: Path) -> None:
    each, commits = 5000, 8
    every_key = range(1, each * commits + 1)
    with opened(tmp_path) as spool:
        for commit in range(commits):
            spool.append(numbered(1, 1), every_key[commit * each : (commit + 1) * each])
        known = [key for key in every_key if spool.knows(key)]
        assert known == list(every_key)[-len(known) :], "the last ones"
        assert JOURNAL_KEYS_MAX <= len(known) < JOURNAL_KEYS_MAX + each
    with opened(tmp_path) as spool:
        assert [key for key in every_key if spool.knows(key)] == known


def test_a_key_that_came_again_is_known_as_long_as_its_last_commit(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 1), [2**64 - 1, 1])
        spool.append(numbered(1, 1), [2**64 - 1])
        spool.append(numbered(1, 1), range(10, 10 + JOURNAL_KEYS_MAX - 1))
        assert spool.knows(2**64 - 1)
        assert not spool.knows(1)
        spool.append(numbered(1, 1), [2])
        assert not spool.knows(2**64 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(st.integers(1, 30), max_size=4), st.booleans()), max_size=20))
def test_the_journal_answers_alike_however_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, commits: list[tuple[list[int], bool]]
) -> None:
    """The table that answers is made, kept and dropped; a journal of eight keys that is always asked is the measure."""
    monkeypatch.setattr(journal, "JOURNAL_KEYS_MAX", 8)
    with closing(sqlite3.connect(":memory:")) as one, closing(sqlite3.connect(":memory:")) as other:
        for db in (one, other):
            db.executescript(SCHEMA)
        monkeypatch.setattr(journal, "UNASKED_MAX", 2)
        asked, always = Journal(one), Journal(other)
        for last_seq, (keys, is_asked) in enumerate(commits, 1):
            for each in (asked, always):
                each.write(keys, "e", last_seq)
                each.remember(keys)
            expected = [key for key in range(31) if key in always]
            assert expected == sorted({key for row in kept(other) for key in row})
            if is_asked:
                assert [key for key in range(31) if key in asked] == expected
        assert [key for key in range(31) if key in asked] == [key for key in range(31) if key in always]


def kept(db: sqlite3.Connection) -> list["array[int]"]:
    return [array("Q", keys) for (keys,) in db.execute("SELECT keys FROM journal")]


def test_a_series_is_dense_limited_and_durable_with_its_commit(tmp_path: Path) -> None:
    known = [Series("d", f"m{i}", "u") for i in range(3)]
    with closing(open_spool(config(tmp_path), "g", series_max=3)) as spool:
        assert [spool.series_id(series) for series in (*known, *known)] == [0, 1, 2, 0, 1, 2]
        with pytest.raises(FieldlineError, match=r"already has 3 series: raise collect\.series_max, or look for"):
            spool.series_id(Series("d", "m3", "u"))
        spool.append(numbered(1, 1))
    with closing(open_spool(config(tmp_path), "g", series_max=4)) as spool:
        assert [spool.series(id_) for id_ in range(3)] == known
        assert spool.series_id(Series("d", "m3", "u")) == 3
    with opened(tmp_path) as spool:
        assert spool.series_id(Series("d", "m4", "u")) == 3, "one that no record was committed with is no more"


def test_a_spool_has_one_owner(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        with pytest.raises(FieldlineError, match="another agent is already running on the spool in"):
            open_spool(config(tmp_path), "g")
        spool.append(numbered(1, 3))
    with opened(tmp_path) as spool:
        assert spool.next_seq == 4


def test_another_gateway_s_spool_is_refused_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 3))
        epoch = spool.epoch
    with pytest.raises(FieldlineError, match=r"belongs to gateway 'g', the config says 'h'\. Give the agent another"):
        open_spool(config(tmp_path), "h")
    with opened(tmp_path) as spool:
        assert (spool.epoch, spool.next_seq) == (epoch, 4)


def test_a_directory_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FieldlineError, match=r"cannot use spool\.path .*file/spool: Not a directory"):
        open_spool(config(tmp_path / "file" / "spool"), "g")


def test_another_process_sees_the_status_while_it_is_open(tmp_path: Path) -> None:
    def told() -> str:
        return subprocess.run(
            [sys.executable, "-c", STATUS, tmp_path], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()

    with opened(tmp_path) as spool:
        spool.append(numbered(1, 30))
        spool.trim(4)
        assert told() == str(spool.status())
        spool.append(numbered(31, 30))
        last = str(spool.status())
        assert told() == last
    assert str(read_status(tmp_path)) == last


def test_there_is_no_status_where_there_is_no_spool(tmp_path: Path) -> None:
    with pytest.raises(FieldlineError, match=r"there is no spool in .*: the agent has not run yet with this config"):
        read_status(tmp_path)
    (tmp_path / "spool.db").write_bytes(b"no database" * 100)
    with pytest.raises(FieldlineError, match="cannot read the spool in"):
        read_status(tmp_path)


def test_a_commit_that_can_never_fit_evicts_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=MIB, when_full="drop_oldest") as spool:
        spool.append(numbered(1, 10))
        with pytest.raises(SpoolFullError):
            spool.append(numbered(14, 1, 2 * MIB, random.Random(2).randbytes(2 * MIB)))
        assert spool.status().lost == 0
        assert spool.status().records == 10


def test_a_spool_of_the_first_format_is_taken_over_and_one_of_the_future_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 200))
        spool._db.execute("ALTER TABLE series DROP COLUMN tags")
        spool._db.execute("PRAGMA user_version = 1")
    with opened(tmp_path) as spool:
        assert spool._db.execute("PRAGMA user_version").fetchone() == (FORMATS[-1],)
        assert list(content(spool)) == list(range(1, 201))
        spool._db.execute(f"PRAGMA user_version = {FORMATS[-1] + 1}")
    with pytest.raises(FieldlineError, match="has format 5, this version of Fieldline reads 1 to 4"), opened(tmp_path):
        pass
