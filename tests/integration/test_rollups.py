"""Rollups equal the same aggregate of the raw table at every moment, whatever happens in whatever order."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from analytics.migrate import migrate
from analytics.rollup import BUCKETS_MS, backfill, is_kept, roll_up
from ingest.clickhouse.client import connect
from tests.clickhouse import StoppedClient, clickhouse
from tests.commands import fieldline

START_MS = 1_500_000_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("rollups") / "ch") as running:
        connection = connect(running.url, database="default")
        migrate(connection)
        yield connection
        connection.close()


class Store:
    """Commits as ingest makes them; intents and their rows can come apart."""

    def __init__(self, client):
        self.client, self.number, self.seq = client, 0, 0
        self.open, self.replays = [], 0
        for table in ("readings", "intents", "rollup_state", *(f"{name}_buckets" for name in BUCKETS_MS)):
            client.command(f"TRUNCATE TABLE fieldline.{table}")

    def declare(self, rows):
        """The intent; its rows come later, or never. Stamps do not ascend: they are two workers' clocks."""
        self.number += 1
        stamp = START_MS + (self.number if self.number % 2 else 1_000_000 - self.number)
        self.open.append((self.number, stamp, rows))
        self._intent(self.number, stamp, 0)

    def write(self):
        """The rows of what is declared; each intent's once."""
        for at, (number, stamp, rows) in enumerate(self.open):
            if rows:
                self._rows(rows, stamp, 0)
                self.open[at] = (number, stamp, [])

    def settle(self):
        """What is written is settled; of what is not, a recovery finds nothing."""
        for number, stamp, _ in self.open:
            self._intent(number, stamp, 1)
        self.open = []

    def commit(self, rows):
        """A whole commit, and what was open before it."""
        self.declare(rows)
        self.write()
        self.settle()

    def replay(self, rows):
        self.replays += 1
        self._rows(rows, START_MS, self.replays)

    def delete(self):
        self.client.command("DELETE FROM fieldline.readings WHERE replay > 0", settings={"lightweight_deletes_sync": 2})

    def _intent(self, number, stamp, done):
        self.client.command(
            "INSERT INTO fieldline.intents (worker, number, done, created_at) SETTINGS async_insert = 0 "
            f"VALUES ('w', {number}, {done}, fromUnixTimestamp64Milli({stamp}))"
        )

    def _rows(self, rows, stamp, replay):
        values = []
        for device, minute, value in rows:
            self.seq += 1
            at = START_MS + minute * 20_000
            values.append(
                f"('{device}', 'm', fromUnixTimestamp64Milli({at}), fromUnixTimestamp64Milli({stamp}),"
                f" {value}, {self.seq}, {replay})"
            )
        self.client.command(
            "INSERT INTO fieldline.readings (device, metric, measured_at, ingested_at, value, seq, replay)"
            f" SETTINGS async_insert = 0 VALUES {','.join(values)}"
        )

    def check(self):
        for name, bucket_ms in BUCKETS_MS.items():
            # Whole numbers, so that their sums do not depend on the order.
            raw = self.client.query(
                f"SELECT device, toStartOfInterval(measured_at, INTERVAL {bucket_ms} MILLISECOND) AS b, count(),"
                " min(value), max(value), sum(value), argMin(value, (measured_at, seq)),"
                " argMax(value, (measured_at, seq)) FROM fieldline.readings"
                " WHERE NOT isNaN(value) GROUP BY device, b ORDER BY device, b"
            ).result_rows
            rolled = self.client.query(
                f"SELECT device, bucket, count, min, max, sum, first, last FROM fieldline.{name}"
                " ORDER BY device, bucket"
            ).result_rows
            assert rolled == raw


ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 2, 200]), st.sampled_from(["1", "2", "-7", "nan"])),
    min_size=1,
    max_size=4,
)
STEP = st.one_of(
    st.tuples(st.sampled_from(["declare", "commit", "commit", "replay"]), ROWS),
    st.tuples(st.sampled_from(["write", "settle", "delete"])),
    st.tuples(st.just("roll up"), st.integers(0, 4)),
    st.tuples(st.just("backfill"), st.integers(0, 5)),
)


# No shrinking: each step asks a real engine, so it would take minutes, and the steps are few anyway.
@settings(
    max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, min_size=4, max_size=10))
def test_a_rollup_equals_the_raw_aggregate_at_every_moment(client, steps):
    store = Store(client)
    _stopped(client, "backfill")
    assert is_kept(client)
    for name, *arguments in steps:
        if name in ("roll up", "backfill"):
            _stopped(client, name, *arguments)
        else:
            getattr(store, name)(*arguments)
        store.check()
    store.write()
    store.settle()
    roll_up(client)
    store.check()


@pytest.mark.parametrize("statements", range(5))
def test_a_run_that_is_killed_at_any_statement_changes_nothing_that_is_read(client, statements):
    store = Store(client)
    backfill(client, Console(quiet=True))
    store.commit([("a", 0, 1), ("b", 200, 2)])
    roll_up(client)
    store.commit([("a", 1, 4), ("b", 0, 8)])
    _stopped(client, "roll up", statements)
    store.check()
    roll_up(client)
    store.check()


def test_replayed_readings_count_for_as_long_as_they_are_there(client):
    store = Store(client)
    store.commit([("a", 0, 1)])
    backfill(client, Console(quiet=True))
    store.replay([("a", 1, 7), ("b", 2, 7)])
    store.check()
    roll_up(client)
    store.check()
    store.delete()
    store.check()


def test_a_killed_backfill_goes_on_and_counts_only_when_it_is_whole(client):
    store = Store(client)
    store.commit([("a", 0, 1)])
    _stopped(client, "backfill", 3)  # two rollups of the month, and the month
    assert not is_kept(client)
    store.commit([("a", 1, 2)])
    store.check()
    _stopped(client, "backfill")
    assert is_kept(client)
    store.check()


def _stopped(client, name, statements=99):
    stopping = StoppedClient(client, statements)
    try:
        if name == "backfill" or not is_kept(client):
            backfill(stopping, Console(quiet=True))
        else:
            roll_up(stopping)
    except KeyboardInterrupt:
        pass


def test_what_is_rolled_up_is_read_from_the_buckets(client):
    """The numbers that a reader sees are not always the raw table's own: else nothing was gained, or tested."""
    store = Store(client)
    backfill(client, Console(quiet=True))
    store.commit([("a", 1, 5)])
    assert roll_up(client) == 1
    assert roll_up(client) == 0
    client.command("TRUNCATE TABLE fieldline.readings")
    assert client.query("SELECT count, sum FROM fieldline.rollup_1h").result_rows == [(1, 5.0)]


def test_the_commands_say_what_they_did_and_what_is_missing(tmp_path):
    with clickhouse(tmp_path / "ch") as running:
        for words in (("rollup",), ("backfill",)):
            refused = fieldline("analytics", *words, "--url", running.url)
            assert refused.status == 1
            assert "Run `fieldline analytics migrate`." in refused.err
        connection = connect(running.url, database="default")
        migrate(connection)
        connection.close()
        assert fieldline("analytics", "backfill", "--url", running.url).status == 0
        done = fieldline("analytics", "rollup", "--url", running.url)
        assert (done.status, done.out) == (0, "The rollups have taken in 0 commits.\n")
