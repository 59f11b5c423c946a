"""`fieldline export` against the real engine: what other programs read of it equals the table, whatever went wrong."""

import datetime as dt
import fcntl
import math
import os
import resource
import signal
import subprocess
import threading

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from tests.clickhouse import clickhouse
from tests.commands import ROOT, command, fieldline, plain_environment
from tests.s3 import KEYS, store

ROWS = 40_000
DAYS = 5
COLUMNS = "device, metric, measured_at, value, text, unit, quality, gateway, epoch, seq, replay"
INSERT = """
INSERT INTO fieldline.readings
    (device, metric, measured_at, received_at, ingested_at, value, text, unit, quality, gateway, epoch, seq)
SELECT
    concat('pumpe ', toString(number % 7)),
    if(number % 5 = 0, 'état', 'pressure'),
    toDateTime64({begin:String}, 3, 'UTC')
        + toIntervalMillisecond(number * intDiv(86400000 * {days:UInt32}, {rows:UInt32})),
    now64(3), now64(3),
    if(number % 5 = 0, nan, number / 3),
    if(number % 5 = 0, 'läuft', ''),
    'bar', number % 2, 'g', 'e', {first:UInt64} + number
FROM numbers({rows:UInt32})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("export") / "ch") as running:
        yield running


@pytest.fixture
def client(server):
    connection = connect(server.url, database="default")
    connection.command("DROP DATABASE IF EXISTS fieldline SYNC")
    migrate(connection)
    fill(connection)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with store(tmp_path_factory.mktemp("store")) as address:
        yield address


def fill(client, rows=ROWS, begin="2026-01-01 00:00:00", days=DAYS, first=1):
    client.command(INSERT, parameters={"rows": rows, "begin": begin, "days": days, "first": first})


def export(server, destination, *options, **environment):
    return fieldline("export", destination, "--url", server.url, *options, **environment)


def in_table(client, table="readings", columns=COLUMNS, order="seq"):
    return client.query_arrow(
        f"SELECT {columns} FROM fieldline.{table} ORDER BY {order}",
        settings={"output_format_arrow_string_as_string": 1},
    )


def in_files(path, columns=COLUMNS, order=("seq",)):
    """As pyarrow reads them, which finds the partitions by itself."""
    table = ds.dataset(path, partitioning="hive").to_table(columns=columns.split(", "))
    return table.sort_by([(name, "ascending") for name in order])


def assert_same(files, table):
    """Every value of every row, NaN included."""
    assert files.num_rows == table.num_rows > 0
    for name in table.column_names:
        ours, theirs = files[name].combine_chunks(), table[name].combine_chunks()
        kind = pa.string() if pa.types.is_string(ours.type) or pa.types.is_dictionary(ours.type) else ours.type
        same = pc.equal(ours.cast(kind), theirs.cast(kind))
        if pa.types.is_floating(ours.type):
            same = pc.or_(same, pc.and_(pc.is_nan(ours), pc.is_nan(theirs)))
        assert pc.all(same).as_py(), name


def test_pyarrow_and_duckdb_read_what_is_in_the_table(server, client, tmp_path):
    done = export(server, tmp_path / "lake")
    assert done.status == 0, done.err
    assert f"{DAYS} files written ({ROWS:,} rows), 0 were up to date" in done.out
    assert_same(in_files(tmp_path / "lake" / "readings"), in_table(client))
    found = duckdb.sql(
        "SELECT date, device, count(*), sum(seq), min(measured_at), max(measured_at), sum(value) FILTER (text = '')"
        f" FROM read_parquet('{tmp_path}/lake/readings/*/*.parquet', hive_partitioning = true)"
        " GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    wanted = client.query(
        "SELECT toDate(measured_at) AS date, device, count(), sum(seq), min(measured_at), max(measured_at),"
        " sumIf(value, text = '') FROM fieldline.readings GROUP BY ALL ORDER BY ALL"
    ).result_rows
    assert [row[:4] for row in found] == [row[:4] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert [time.astimezone(dt.UTC) for time in ours[4:6]] == [time.replace(tzinfo=dt.UTC) for time in theirs[4:6]]
        assert math.isclose(ours[6], theirs[6])


def test_no_column_needs_an_unsigned_integer_and_times_are_utc(server, client, tmp_path):
    client.command("ALTER TABLE fieldline.readings ADD COLUMN place Map(LowCardinality(String), String)")
    assert export(server, tmp_path / "lake").status == 0
    schema = ds.dataset(tmp_path / "lake" / "readings", partitioning="hive").schema
    assert not [name for name in schema.names if pa.types.is_unsigned_integer(schema.field(name).type)]
    assert schema.field("measured_at").type == pa.timestamp("ms", "UTC")
    assert pa.types.is_map(schema.field("place").type)


def test_only_what_changed_is_written_again(server, client, tmp_path):
    export(server, tmp_path / "lake")
    files = {path: path.stat().st_ino for path in (tmp_path / "lake").rglob("*.parquet")}
    assert f"0 files written (0 rows), {DAYS} were up to date" in export(server, tmp_path / "lake").out
    fill(client, rows=10, begin="2026-01-03 12:00:00", days=0, first=ROWS + 1)
    assert f"1 file written (8,010 rows), {DAYS - 1} were up to date" in export(server, tmp_path / "lake").out
    changed = [path for path, inode in files.items() if path.stat().st_ino != inode]
    assert [path.parent.name for path in changed] == ["date=2026-01-03"]
    assert_same(in_files(tmp_path / "lake" / "readings"), in_table(client))


def test_what_retention_took_from_the_table_stays_in_the_files(server, client, tmp_path):
    export(server, tmp_path / "lake")
    client.command("DELETE FROM fieldline.readings WHERE measured_at < '2026-01-02 06:00:00'")
    done = export(server, tmp_path / "lake")
    assert done.status == 0
    assert "1 file kept that have more rows than the table, from 2026-01-02 on" in done.out
    assert in_files(tmp_path / "lake" / "readings").num_rows == ROWS
    assert "1 file written (6,000 rows)" in export(server, tmp_path / "lake", "--replace").out


def test_an_export_that_is_killed_is_resumed(server, client, tmp_path):
    fill(client, rows=60 * 100, begin="2026-02-01 00:00:00", days=60, first=ROWS + 1)
    lake = tmp_path / "lake"
    kills = 0
    while True:
        running = subprocess.Popen(
            command("export", lake, "--url", server.url), cwd=ROOT, env=plain_environment(), stdout=subprocess.DEVNULL
        )
        there = len(list(lake.rglob("*.parquet")))
        while running.poll() is None and len(list(lake.rglob("*.parquet"))) < there + 12:
            pass
        if running.poll() is not None:
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        kills += 1
        assert in_files(lake / "readings").num_rows > 0  # only whole files are seen
    assert running.returncode == 0
    assert kills >= 2
    assert_same(in_files(lake / "readings"), in_table(client))


def test_readings_that_arrive_meanwhile_are_in_it_or_it_says_so(server, client, tmp_path):
    stopping = threading.Event()

    def arrive():
        mine, first = connect(server.url), ROWS + 1
        while not stopping.is_set():
            fill(mine, rows=10, days=DAYS, first=first)
            first += 10
        mine.close()

    writer = threading.Thread(target=arrive)
    writer.start()
    try:
        done = export(server, tmp_path / "lake")
    finally:
        stopping.set()
        writer.join()
    assert (done.status == 1) == ("not up to date" in done.out)
    assert export(server, tmp_path / "lake").status == 0
    assert_same(in_files(tmp_path / "lake" / "readings"), in_table(client))


def test_a_file_may_hold_an_hour(server, client, tmp_path):
    done = export(server, tmp_path / "lake", "--partition", "hour", "--from", "2026-01-02", "--to", "2026-01-03")
    assert "24 files written (8,000 rows)" in done.out
    table = ds.dataset(tmp_path / "lake" / "readings", partitioning="hive").to_table()
    assert sorted(set(table["hour"].to_pylist())) == list(range(24))
    other = export(server, tmp_path / "lake")
    assert other.status == 1
    assert "is from an export with --partition hour" in other.err


@pytest.mark.parametrize("table", ["rollup_1m", "rollup_1h"])
def test_rollups_too(server, client, tmp_path, table):
    assert export(server, tmp_path / "lake", "--table", table).status == 0
    columns, order = "device, metric, bucket, count, min, max, sum, first, last", ("device", "metric", "bucket")
    assert_same(in_files(tmp_path / "lake" / table, columns, order), in_table(client, table, columns, ", ".join(order)))


def test_a_damaged_file_is_written_anew(server, client, tmp_path):
    export(server, tmp_path / "lake")
    place = tmp_path / "lake" / "readings" / "date=2026-01-02" / "readings.parquet"
    place.write_bytes(place.read_bytes()[:1000])
    assert "1 file written" in export(server, tmp_path / "lake").out
    assert_same(in_files(tmp_path / "lake" / "readings"), in_table(client))


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(server, client, tmp_path):
    limited = subprocess.run(
        command("export", tmp_path / "lake", "--url", server.url),
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert limited.returncode == 1
    assert "cannot write" in limited.stderr
    assert "File too large" in limited.stderr
    assert not [path for path in (tmp_path / "lake" / "readings").rglob("*") if path.is_file()]


def test_two_exports_into_one_directory_do_not_meet(server, client, tmp_path):
    (tmp_path / "lake").mkdir()
    with (tmp_path / "lake" / ".fieldline-export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = export(server, tmp_path / "lake")
    assert done.status == 1
    assert "another export writes into" in done.err


def test_an_s3_store_gets_the_same(server, client, bucket, tmp_path):
    done = export(server, f"{bucket}/plant", **KEYS)
    assert done.status == 0, done.err
    assert f"{DAYS} files written ({ROWS:,} rows)" in done.out
    fill(client, rows=10, begin="2026-01-03 12:00:00", days=0, first=ROWS + 1)
    assert f"1 file written (8,010 rows), {DAYS - 1} were up to date" in export(server, f"{bucket}/plant", **KEYS).out
    filesystem = pa.fs.S3FileSystem(
        access_key="S3RVER", secret_key="S3RVER", endpoint_override=bucket.removesuffix("/lake"), region="us-east-1"
    )
    files = ds.dataset("lake/plant/readings", filesystem=filesystem, partitioning="hive").to_table(
        columns=COLUMNS.split(", ")
    )
    assert_same(files.sort_by("seq"), in_table(client))
    assert "has an export with --partition date" in export(server, f"{bucket}/plant", "--partition", "hour", **KEYS).err


@pytest.mark.parametrize(
    ("destination", "environment", "sentence"),
    [
        ("gs://bucket", {}, "must be a directory, s3://BUCKET/PREFIX"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "a"}, "Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("/proc/nowhere", {}, "cannot write into /proc/nowhere"),
    ],
)
def test_a_wrong_destination_is_a_sentence(server, client, destination, environment, sentence):
    done = export(server, destination, **environment)
    assert done.status == 1
    assert sentence in done.err


def test_a_wrong_key_is_a_sentence_that_does_not_say_the_secret(server, client, bucket):
    done = export(server, f"{bucket}/denied", AWS_ACCESS_KEY_ID="NOBODY", AWS_SECRET_ACCESS_KEY="hush-hush")
    assert done.status == 1
    assert "S3" in done.err
    assert "hush-hush" not in done.err + done.out
    assert os.linesep not in done.err.strip()


def test_an_empty_span_is_said(server, client, tmp_path):
    done = export(server, tmp_path / "lake", "--from", "2030-01-01")
    assert (done.status, done.out) == (0, "There is nothing in readings from 2030-01-01.\n")
