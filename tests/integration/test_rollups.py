"""Rollups equal the same aggregate of the raw table at every moment, whatever happens in whatever order."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from analytics.migrate import migrate
from analytics.rollup import BUCKETS_MS, backfill, is_kept, roll_up
from ingest.clickhouse.client import connect
from tests.clickhouse import clickhouse

START_MS = 1_500_000_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("rollups") / "ch") as running:
        connection = connect(running.url, database="default")
        migrate(connection)
        yield connection
        connection.close()


class StoppedClient:
    """Passes statements on and then stops, as a process does that is killed."""

    def __init__(self, client, statements):
        self.client, self.left, self.query = client, statements, client.query

    def command(self, *args, **kwargs):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.client.command(*args, **kwargs)


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
    st.tuples(st.sampled_from("ab"), st.integers(0, 400), st.sampled_from(["1", "2", "-7", "nan"])),
    min_size=1,
    max_size=4,
)
STEP = st.one_of(
    st.tuples(st.just("declare"), ROWS),
    st.tuples(st.sampled_from(["write", "write", "settle", "delete"])),
    st.tuples(st.just("replay"), ROWS),
    st.tuples(st.sampled_from(["roll up", "backfill"]), st.integers(0, 5)),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=4, max_size=12))
def test_a_rollup_equals_the_raw_aggregate_at_every_moment(client, steps):
    store = Store(client)
    for name, *arguments in steps:
        if name in ("roll up", "backfill"):
            _stopped(client, name, *arguments)
        else:
            getattr(store, name)(*arguments)
        store.check()
    store.write()
    store.settle()
    _stopped(client, "backfill", 99)
    roll_up(client)
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
    store.declare([("a", 1, 5)])
    store.write()
    store.settle()
    assert roll_up(client) == 1
    assert roll_up(client) == 0
    client.command("TRUNCATE TABLE fieldline.readings")
    assert client.query("SELECT count, sum FROM fieldline.rollup_1h").result_rows == [(1, 5.0)]
