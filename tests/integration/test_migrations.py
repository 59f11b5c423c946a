"""Migrations on the real engine: killed anywhere, run twice, changed, too new; and the schema's promises."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from analytics import reference
from analytics.migrate import NEEDED, load, migrate, run
from ingest.clickhouse.client import INSERT_SETTINGS, ClickHouseError, connect, known
from telemetry.errors import FieldlineError
from tests.clickhouse import ROOT, StoppedClient, clickhouse

NAMES = [migration.name for migration in load()]
TABLES = {"readings", "dead_letters", "replays", "losses", "ledger", "intents", "workers", "gateways"}
TABLES |= {"alert_rules", "alert_events", "alert_notifications"}
VIEWS = {"latest", "rollup_1m", "rollup_1h", "accounting", "alerts"}
TABLES |= {"rollup_state", "rollup_1m_buckets", "rollup_1h_buckets"}
VIEWS |= {"rollup_fresh", "rollup_1m_touched", "rollup_1h_touched"}
TABLES |= {"kept_parts", "kept_newest", "kept_seqs"}
VIEWS |= {"kept_there"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("migrations") / "ch") as running:
        yield running


@pytest.fixture
def client(server):
    """Connected to a server that has no database fieldline."""
    connection = connect(server.url, database="default")
    connection.command("DROP DATABASE IF EXISTS fieldline SYNC")
    yield connection
    connection.close()


def objects(client):
    rows = client.query("SELECT name FROM system.tables WHERE database = 'fieldline'").result_rows
    return {name for (name,) in rows}


def test_a_new_database_gets_everything_and_the_second_run_nothing(server, client, capsys):
    assert migrate(client) == NAMES
    assert objects(client) == TABLES | VIEWS | {"schema_migrations"}
    assert migrate(client) == []
    assert run(server.url) == 0
    assert "up to date" in capsys.readouterr().out


def test_every_table_and_column_says_what_it_is(client):
    migrate(client)
    silent = client.query(
        "SELECT table, name FROM system.columns WHERE database = 'fieldline' AND comment = ''"
        " UNION ALL SELECT name, '' FROM system.tables WHERE database = 'fieldline' AND comment = ''"
    )
    assert silent.result_rows == []


def definitions(client):
    """Every table and view as the server would make it again."""
    rows = client.query("SELECT name, create_table_query FROM system.tables WHERE database = 'fieldline'").result_rows
    return dict(rows)


def test_a_run_that_was_killed_anywhere_is_completed_by_the_next(client):
    """Killed after each statement in turn: the next run begins with what is left, and does anew what no record has."""
    migrate(client)
    straight = definitions(client)
    client.command("DROP DATABASE fieldline SYNC")
    for statements in range(2):
        with pytest.raises(KeyboardInterrupt):
            migrate(StoppedClient(client, statements))
    *others, last = load()
    for migration in others:
        for statements in range(len(migration.statements) + 2):  # none, …, all, all and the record
            with pytest.raises(KeyboardInterrupt):
                migrate(StoppedClient(client, 2 + statements))
    for statements in range(len(last.statements) + 1):
        with pytest.raises(KeyboardInterrupt):
            migrate(StoppedClient(client, 2 + statements))
    assert NAMES[-1] not in {
        name for (name,) in client.query("SELECT name FROM fieldline.schema_migrations").result_rows
    }
    assert migrate(client) == NAMES[-1:]
    assert migrate(client) == []
    assert definitions(client) == straight
    assert objects(client) == TABLES | VIEWS | {"schema_migrations"}


def test_the_page_lists_every_table_and_view(client):
    migrate(client)
    said = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    up_to_date = said.endswith(reference.text(client.query(reference.QUERY).result_rows))
    assert up_to_date, "run: python -m analytics.reference docs/schema.md"


def test_two_processes_at_once(server, client):
    command = [
        sys.executable,
        "-c",
        "import sys; from analytics.migrate import run; run(sys.argv[1])",
        server.url,
    ]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert migrate(client) == []
    recorded = client.query("SELECT name FROM fieldline.schema_migrations FINAL ORDER BY name").result_rows
    assert [name for (name,) in recorded] == NAMES


def test_a_changed_file_is_refused(client):
    migrate(client)
    changed = [replace(load()[0], checksum="0" * 64), *load()[1:]]
    with pytest.raises(FieldlineError, match="0001_tables was changed after it had been applied"):
        migrate(client, changed)


def test_a_newer_database_is_refused(client):
    migrate(client)
    with pytest.raises(FieldlineError, match=f"newer Fieldline \\({NAMES[-1]} is unknown here\\)"):
        migrate(client, load()[:-1])


def test_a_new_migration_is_added(client):
    migrate(client, load()[:-1])
    assert migrate(client) == NAMES[-1:]


def test_a_failing_statement_names_itself_and_can_be_repaired(client):
    broken = replace(load()[0], name="0009_broken", statements=("SELECT 1", "CREATE TABEL oops"))
    with pytest.raises(FieldlineError, match="refused statement 2 of migration 0009_broken: Syntax error"):
        migrate(client, [*load(), broken])
    assert migrate(client) == []


def test_a_server_without_a_feature_is_refused(client, monkeypatch):
    needed = (
        ("setting", "system.settings", {"async_insert": "21.11", "warp": "99.1"}),
        ("function", "system.functions", {"fly": "98.2"}),
    )
    monkeypatch.setattr("analytics.migrate.NEEDED", needed)
    lacks = r"it lacks the setting warp \(there since 99\.1\), the function fly \(there since 98\.2\)\. Upgrade"
    with pytest.raises(FieldlineError, match=lacks):
        migrate(client)
    assert objects(client) == set()


def test_what_is_said_to_be_needed_is_what_the_migrations_call(client):
    """The engine knows since when it has each function; an older one must be told before a statement fails."""
    text = "".join(statement for migration in load() for statement in migration.statements)
    called = set(re.findall(r"\b(\w+)\(", text))
    called |= {f"toInterval{unit.capitalize()}" for unit in re.findall(r"INTERVAL \d+ (\w+)", text)}
    ((*_, needed),) = [row for row in NEEDED if row[0] == "function"]
    query = "SELECT name, introduced_in FROM system.functions WHERE name IN {names:Array(String)}"
    rows = client.query(query, parameters={"names": sorted(called | needed.keys())}).result_rows
    since = {name: text for name, text in rows if text}
    version = lambda text: tuple(map(int, text.split(".")[:2]))  # noqa: E731 - a name for one expression
    assert {name: version(since[name]) for name in needed} == {name: version(text) for name, text in needed.items()}
    newest = max(version(text) for text in needed.values())
    younger = {name: text for name, text in since.items() if version(text) > newest}
    assert not younger, f"a migration calls {younger}: say so in NEEDED in analytics/migrate.py"


class OlderClient:
    """A client of a server that lacks what commands other than ingest need: the fault is in here."""

    def __init__(self, client):
        self.client = client
        self.query = client.query
        self.close = client.close
        self.server_version = "22.8.1.1"
        self.server_settings = dict(client.server_settings)
        del self.server_settings["lightweight_deletes_sync"]

    def command(self, statement, **options):
        if "VIEW fieldline.query_" in statement:
            raise ClickHouseError("Code: 62. DB::Exception: Syntax error")
        return self.client.command(statement, **options)


def test_what_only_some_commands_need_does_not_keep_ingest_from_an_older_server(client, monkeypatch, capsys):
    monkeypatch.setattr("analytics.migrate.connect", lambda *_, **__: OlderClient(client))
    assert run() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[: len(NAMES)] == [f"applied {name}" for name in NAMES]
    views, deletes = said[len(NAMES) :]
    assert views.startswith(
        "ClickHouse 22.8.1.1 has no parameterized views (there since 23.1): there are no views query_"
    )
    assert "lacks the setting lightweight_deletes_sync (there since 24.4): `fieldline analytics backfill`" in deletes


def arrow(columns):
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def reading_columns(rows, seed=0):
    chance = np.random.default_rng(seed)
    pick = lambda names: pa.DictionaryArray.from_arrays(  # noqa: E731 - a name for one expression
        pa.array(chance.integers(0, len(names), rows), pa.int32()), pa.array(names)
    )
    at = pa.array(1_500_000_000_000 + chance.integers(0, 3 * 3_600_000, rows), pa.timestamp("ms", "UTC"))
    value = np.round(chance.normal(50, 9, rows), 2)
    value[::10] = np.nan
    return {
        "device": pick(["a", "b", "c"]),
        "metric": pick(["x", "y"]),
        "measured_at": at,
        "value": pa.array(value),
        "text": pa.array(["on" if n % 10 == 0 else "" for n in range(rows)]),
        "unit": pick(["m"]),
        "gateway": pick(["g"]),
        "epoch": pick(["e"]),
        "seq": pa.array(np.arange(1, rows + 1), pa.uint64()),
    }


def insert(client, columns, token):
    settings = known(client, {**INSERT_SETTINGS, "insert_deduplication_token": token})
    body = arrow(columns)
    client.raw_insert("fieldline.readings", list(columns), memoryview(body), settings, fmt="ArrowStream")


def test_a_repeated_insert_leaves_nothing_and_a_full_block_is_one_part(client):
    migrate(client)
    columns = {name: column for name, column in reading_columns(500_000).items() if name != "text"}
    client.command("SYSTEM STOP MERGES fieldline.readings")
    for token in ("t1", "t1", "t2"):
        insert(client, columns, token)
    parts = client.query(
        "SELECT count(), sum(rows) FROM system.parts WHERE database = 'fieldline' AND table = 'readings'"
    )
    assert parts.result_rows == [(2, 1_000_000)]


def test_the_views_equal_the_same_computed_elsewhere(client):
    migrate(client)
    columns = reading_columns(3000)
    insert(client, columns, "views")
    rows = list(
        zip(
            columns["device"].to_pylist(),
            columns["metric"].to_pylist(),
            columns["measured_at"].cast(pa.int64()).to_pylist(),
            columns["seq"].to_pylist(),
            columns["value"].to_pylist(),
            columns["text"].to_pylist(),
            strict=True,
        )
    )
    newest: dict = {}
    for device, metric, at, seq, value, text in rows:
        newest[device, metric] = max(newest.get((device, metric), ()), (at, seq, str(value), text))
    found = client.query(
        "SELECT device, metric, toUnixTimestamp64Milli(measured_at), value, text, unit FROM fieldline.latest"
    ).result_rows
    assert {(d, m): (at, str(value), text) for d, m, at, value, text, _ in found} == {
        key: (at, value, text) for key, (at, _, value, text) in newest.items()
    }
    for view, bucket_ms in (("rollup_1m", 60_000), ("rollup_1h", 3_600_000)):
        buckets: dict = {}
        for device, metric, at, seq, value, text in rows:
            if not text:
                buckets.setdefault((device, metric, at // bucket_ms * bucket_ms), []).append((at, seq, value))
        expected = {}
        for key, members in buckets.items():
            values = [value for _, _, value in members]
            first, last = min(members)[2], max(members)[2]
            expected[key] = (len(values), min(values), max(values), first, last, sum(values))
        found = client.query(
            "SELECT device, metric, toUnixTimestamp64Milli(bucket), count, min, max, first, last, sum"
            f" FROM fieldline.{view}"
        ).result_rows
        assert {row[:3]: row[3:8] for row in found} == {key: value[:5] for key, value in expected.items()}
        assert {row[:3]: row[8] for row in found} == pytest.approx({k: v[5] for k, v in expected.items()})


def test_times_beyond_the_plain_datetime_keep_their_bucket(client):
    migrate(client)
    client.command(
        "INSERT INTO fieldline.readings (device, metric, measured_at, value) SETTINGS async_insert = 0 VALUES"
        " ('d', 'm', '1960-05-05 05:05:05', 1), ('d', 'm', '2200-05-05 05:05:05', 2)"
    )
    found = client.query("SELECT toString(bucket), sum FROM fieldline.rollup_1h ORDER BY bucket").result_rows
    assert found == [("1960-05-05 05:00:00.000", 1.0), ("2200-05-05 05:00:00.000", 2.0)]
    assert client.query("SELECT value FROM fieldline.latest").result_rows == [(2.0,)]


def test_open_intents_outlive_the_ttl_and_settled_ones_do_not(client):
    migrate(client)
    # So that a test may say when they were written; the rule is the schema's.
    client.command("ALTER TABLE fieldline.intents MODIFY COLUMN written_at DateTime64(3, 'UTC') DEFAULT now64(3)")
    client.command(
        "INSERT INTO fieldline.intents (worker, number, done, created_at, written_at) SETTINGS async_insert = 0 VALUES"
        " ('w', 1, 0, '2020-01-01 00:00:00', '2020-01-01 00:00:00'),"
        " ('w', 2, 1, '2020-01-01 00:00:00', '2020-01-01 00:00:00'),"
        " ('w', 3, 1, '2020-01-01 00:00:00', now64(3))"  # settled by a recovery, long after it was made
    )
    client.command("OPTIMIZE TABLE fieldline.intents FINAL")
    assert client.query("SELECT number FROM fieldline.intents ORDER BY number").result_rows == [(1,), (3,)]


def test_what_was_answered_survives_a_kill(server, client):
    migrate(client)
    columns = {name: column for name, column in reading_columns(1000).items() if name != "text"}
    insert(client, columns, "kept")
    server.kill()
    server.restart()
    insert(client, columns, "kept")
    assert client.query("SELECT count() FROM fieldline.readings").result_rows == [(1000,)]
