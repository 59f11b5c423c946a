"""`latest` and `accounting` equal the rows that are there at every moment, whatever is kept of which parts."""

import contextlib
import threading

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from analytics import account, kept
from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from tests.clickhouse import StoppedClient, clickhouse

START_MS = 1_767_225_600_000
MONTHS_MS = (0, 40 * 86_400_000)
MARK = 65_540
"""Of every gateway: in the second chunk of seqs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("kept") / "ch") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    connection = connect(server.url, database="default")
    migrate(connection)
    yield connection
    connection.close()


class Store:
    """Readings as they come, and what happens to them."""

    def __init__(self, client):
        self.client, self.replays = client, 0
        for table in ("readings", "ledger", "kept_parts", "kept_newest", "kept_seqs"):
            client.command(f"TRUNCATE TABLE fieldline.{table}")
        self._insert("ledger (gateway, epoch, mark, version)", [f"('{gateway}', 'e', {MARK}, 1)" for gateway in "gh"])

    def insert(self, month, rows, replay=0):
        values = [
            f"('{device}', '{metric}', fromUnixTimestamp64Milli({START_MS + month + minute * 60_000}), {value[0]},"
            f" '{value[1]}', 'u{seq}', {{'site': '{seq}'}}, '{gateway}', 'e', {seq}, {replay})"
            for device, metric, minute, value, gateway, seq in rows
        ]
        self._insert(
            "readings (device, metric, measured_at, value, text, unit, tags, gateway, epoch, seq, replay)", values
        )

    def replay(self, month, rows):
        self.replays += 1
        self.insert(month, rows, self.replays)

    def repeat_replay(self):
        """As analytics/replay.py removes what an earlier replay has stored."""
        self._delete("replay > 0")

    def delete_by_hand(self, device):
        self._delete(f"device = '{device}'")

    def merge(self):
        self.client.command("OPTIMIZE TABLE fieldline.readings FINAL")

    def drop_month(self):
        self.client.command("ALTER TABLE fieldline.readings DROP PARTITION 202601")

    def attach_twice(self):
        """The parts of a month come once more, with the same UUIDs."""
        self.client.command("ALTER TABLE fieldline.readings ATTACH PARTITION 202602 FROM fieldline.readings")

    def keep(self, statements=99):
        with contextlib.suppress(KeyboardInterrupt):
            kept.keep(StoppedClient(self.client, statements), rows_min=1)

    def _insert(self, into, values):
        self.client.command(f"INSERT INTO fieldline.{into} SETTINGS async_insert = 0 VALUES {','.join(values)}")

    def _delete(self, condition):
        self.client.command(
            f"DELETE FROM fieldline.readings WHERE {condition}", settings={"lightweight_deletes_sync": 2}
        )

    def check(self):
        """Both views against the rows; a seq is in one reading of a series, so the newest is one row."""
        columns = "unit, toString(value), text, quality, tags, gateway"
        newest = self.client.query(
            f"SELECT device, metric, measured_at, {columns} FROM fieldline.readings "
            "ORDER BY measured_at DESC, seq DESC LIMIT 1 BY device, metric"
        ).result_rows
        latest = self.client.query(f"SELECT device, metric, measured_at, {columns} FROM fieldline.latest").result_rows
        assert sorted(latest, key=str) == sorted(newest, key=str)
        rows = self.client.query(
            f"SELECT gateway, uniqExactIf(seq, seq <= {MARK}), count() - uniqExact(seq), "
            f"uniqExactIf(seq, seq > {MARK}) FROM fieldline.readings WHERE replay = 0 GROUP BY gateway"
        ).result_rows
        books = dict.fromkeys("gh", (0, 0, 0)) | {row[0]: row[1:] for row in rows}
        assert {
            row.gateway: (row.stored, row.duplicates, row.uncommitted) for row in account.fetch(self.client)
        } == books


ROW = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from("mn"),
    st.integers(0, 3),
    st.sampled_from([(1, ""), (2.5, ""), ("nan", "on")]),
    st.sampled_from("gh"),
    st.sampled_from([1, 2, 65_535, 65_536, 65_540, 65_541, 200_000]),
)
ROWS = st.tuples(
    st.sampled_from(MONTHS_MS), st.lists(ROW, min_size=1, max_size=4, unique_by=lambda row: (row[:3], row[5]))
)
STEP = st.one_of(
    st.tuples(st.sampled_from(["insert", "insert", "replay"]), ROWS),
    st.tuples(st.just("keep"), st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 99]))),
    st.tuples(st.just("delete_by_hand"), st.tuples(st.sampled_from("ab"))),
    st.tuples(st.sampled_from(["merge", "repeat_replay", "drop_month", "attach_twice"]), st.just(())),
)


# No shrinking: each step asks a real engine, so it would take minutes, and the steps are few anyway.
@settings(
    max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ROWS, st.lists(STEP, min_size=4, max_size=8))
def test_the_views_equal_the_rows_at_every_moment(client, rows, steps):
    store = Store(client)
    store.insert(*rows)
    for name, arguments in steps:
        getattr(store, name)(*arguments)
        store.check()
    store.keep()
    store.check()


def test_what_is_kept_is_not_read_again(client):
    """Else nothing was gained, or tested: after a change of what is kept the views tell the changed story."""
    store = Store(client)
    store.insert(0, [("a", "m", 0, (1, ""), "g", 7)])
    assert kept.keep(client, rows_min=2) == 0
    assert kept.keep(client, rows_min=1) == 1
    assert kept.keep(client, rows_min=1) == 0
    store.check()
    for table in ("kept_newest", "kept_seqs"):
        client.command(f"TRUNCATE TABLE fieldline.{table}")
    assert client.query("SELECT * FROM fieldline.latest").result_rows == []
    assert [row.stored for row in account.fetch(client)] == [0, 0]


def test_parts_from_before_their_uuids_are_read(client):
    store = Store(client)
    client.command("ALTER TABLE fieldline.readings MODIFY SETTING assign_part_uuids = 0")
    store.insert(0, [("a", "m", 0, (1, ""), "g", 7)])
    client.command("ALTER TABLE fieldline.readings MODIFY SETTING assign_part_uuids = 1")
    assert kept.keep(client, rows_min=1) == 0
    store.merge()
    store.check()


class OlderClient:
    """As of a server whose queries may see two sets of parts."""

    def __init__(self, client):
        self.client = client

    def query(self, sql):
        return self.client.query(sql, settings={"enable_shared_storage_snapshot_in_query": 0})


def test_nothing_is_kept_where_a_query_may_see_two_sets_of_parts(client):
    Store(client).insert(0, [("a", "m", 0, (1, ""), "g", 7)])
    assert kept.keep(OlderClient(client), rows_min=1) == 0
    client.command("RENAME TABLE fieldline.readings TO fieldline.local")
    client.command("CREATE TABLE fieldline.readings AS fieldline.local ENGINE = Merge('fieldline', '^local$')")
    try:
        assert kept.keep(client, rows_min=1) == 0
    finally:
        client.command("DROP TABLE fieldline.readings SYNC")
        client.command("RENAME TABLE fieldline.local TO fieldline.readings")
    assert kept.keep(client, rows_min=1) == 1


@pytest.fixture
def deleted_at_once(monkeypatch):
    """What is kept of parts that are gone need not be many, nor wait."""
    monkeypatch.setattr(kept, "GONE_PARTS_MIN", 1)
    monkeypatch.setattr(kept, "GONE_S", -60)


def test_what_is_kept_of_parts_that_are_gone_is_deleted_later(client, monkeypatch):
    store = Store(client)
    for seq in (1, 2):
        store.insert(0, [("a", "m", seq, (1, ""), "g", seq)])
    store.keep()
    store.merge()
    counts = "SELECT count(), uniqExact(part) FROM fieldline.kept_"
    for gone_s, of_parts in ((3600, 3), (-60, 1)):
        monkeypatch.setattr(kept, "GONE_PARTS_MIN", 2)
        monkeypatch.setattr(kept, "GONE_S", gone_s)
        store.keep()
        store.check()
        for table in ("newest", "seqs"):
            assert client.query(f"{counts}{table}").result_rows == [(of_parts, of_parts)]


@pytest.mark.parametrize("statements", [1, 2, 3, 4])
@pytest.mark.usefixtures("deleted_at_once")
def test_parts_that_were_detached_may_come_back_while_that_is_deleted(client, statements):
    store = Store(client)
    store.insert(0, [("a", "m", 0, (1, ""), "g", 7)])
    store.keep()
    client.command("ALTER TABLE fieldline.readings DETACH PARTITION 202601")
    store.keep(statements)
    store.check()
    client.command("ALTER TABLE fieldline.readings ATTACH PARTITION 202601")
    store.check()
    store.keep()
    store.check()


def test_no_merge_comes_between_what_is_kept_and_what_is_read(server, client):
    """The engine waits wherever a query looks up which parts there are, while parts come, merge and are kept."""
    store, stop = Store(client), threading.Event()
    store.insert(0, [("a", "m", seq, (1, ""), "g", seq) for seq in (1, 2)])

    def write():
        own = connect(server.url, database="default")
        minute = 2
        while not stop.is_set():
            minute += 1
            own.command(
                "INSERT INTO fieldline.readings (device, metric, measured_at, gateway, epoch, seq) "
                f"SELECT 'a', 'm', fromUnixTimestamp64Milli({START_MS + minute * 60_000}), 'h', 'e', {minute}"
            )
            own.command("OPTIMIZE TABLE fieldline.readings FINAL")
            kept.keep(own, rows_min=1)
        own.close()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    try:
        slow = {"merge_tree_storage_snapshot_sleep_ms": 50}
        for _ in range(8):
            books = client.query("SELECT gateway, stored, duplicates FROM fieldline.accounting", settings=slow)
            assert ("g", 2, 0) in books.result_rows
            seen += client.query("SELECT measured_at FROM fieldline.latest", settings=slow).result_rows
    finally:
        stop.set()
        writer.join(60)
    assert len(seen) == 8
    assert seen == sorted(seen)
