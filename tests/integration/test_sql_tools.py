"""SQL tools that are not ours, with a login: each real client as an admin and as a reader of the embedded server."""

import asyncio
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import clickhouse_connect
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.external import ExternalData
from sqlalchemy.exc import DatabaseError

from analytics import account, dead_letters, export, migrate, queries, replay, rollup, sql
from analytics.alerts import commands as alerts
from analytics.alerts.conditions import Subject
from analytics.alerts.rules import AlertsConfig
from analytics.dead_letters import Filter
from analytics.export.dataset import Span
from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from ingest.clickhouse.request import Credentials
from ingest.clickhouse.users import Accounts, Users
from telemetry.errors import FieldlineError
from tests.brokers import HOST
from tests.clickhouse import ROOT, Server, clickhouse
from tests.commands import fieldline
from tests.npm import installed
from tests.pipeline import make_stack, until
from tests.users import PASSWORD, url, users_file

NODE_CLIENT = "@clickhouse/client@1.23.1"
DBMATE = "dbmate@2.36.0"  # with clickhouse-go 2.45, as Grafana's plugin has it
LIMITS = "seconds_max = 1\nmemory_bytes_max = 67108864\nresult_rows_max = 10000\nqueries_max = 1"
FOREVER = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) % 7 = 1"
EVERYBODY = pytest.mark.parametrize("user", ["root", "ann"])


EXAMPLES: dict[str, Any] = {"String": "d", "Array(String)": ["d"], "Int64": 60_000}
"""Of each type a value for parameters that must be given."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tools")
    with clickhouse(folder / "data", "--users", str(users_file(folder, LIMITS))) as running:
        migrated = fieldline("analytics", "migrate", CLICKHOUSE_URL=url(running.port, "worker"))
        assert migrated.status == 0, migrated.err
        with clickhouse_connect.get_client(**login(running, "root")) as client:
            for table in ("connect", "node"):
                client.command(f"CREATE TABLE {table} (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
            client.insert("connect", [[1, "one"], [2, "two"]], column_names=["a", "b"])
        yield running


def login(server: Server, user: str) -> dict[str, Any]:
    return {"host": HOST, "port": server.port, "username": user, "password": PASSWORD, "database": "fieldline"}


@EVERYBODY
def test_clickhouse_connect(server: Server, user: str) -> None:
    with clickhouse_connect.get_client(**login(server, user)) as client:
        rows = client.query("SELECT a, b FROM connect WHERE a < {most:UInt32} ORDER BY a", parameters={"most": 9})
        assert rows.result_rows == [(1, "one"), (2, "two")]
        assert client.query_df("SELECT a FROM connect ORDER BY a")["a"].tolist() == [1, 2]
        assert client.query_arrow("SELECT a FROM connect ORDER BY a").column("a").to_pylist() == [1, 2]
        with client.query_row_block_stream("SELECT number FROM numbers(9000)") as blocks:
            assert sum(len(block) for block in blocks) == 9000
        inserts = (
            lambda: client.insert_df("connect", pd.DataFrame({"a": [0], "b": ["x"]})),
            lambda: client.insert_arrow("connect", pa.table({"a": pa.array([0], pa.uint32())})),
            lambda: client.command("ALTER TABLE connect DELETE WHERE a = 0 SETTINGS mutations_sync = 1"),
        )
        for insert in inserts:
            if user == "root":
                insert()
            else:
                with pytest.raises(ClickHouseError, match="Not enough privileges"):
                    insert()
        assert client.command("SELECT count() FROM connect") == 2


@EVERYBODY
def test_clickhouse_connect_with_asyncio(server: Server, user: str) -> None:
    async def main() -> None:
        client = await clickhouse_connect.get_async_client(**login(server, user))
        try:
            assert (await client.query("SELECT a FROM connect ORDER BY a")).result_rows == [(1,), (2,)]
            with pytest.raises(ClickHouseError, match="nope"):
                await client.query("SELECT nope")
            if user == "ann":
                with pytest.raises(ClickHouseError, match="Not enough privileges"):
                    await client.insert("connect", [[3, "three"]])
        finally:
            await client.close()

    asyncio.run(main())


@EVERYBODY
def test_sqlalchemy_reflects_and_selects(server: Server, user: str) -> None:
    engine = sa.create_engine(url(server.port, user).replace("http:", "clickhousedb:") + "/fieldline")
    try:
        inspector = sa.inspect(engine)
        assert "fieldline" in inspector.get_schema_names()
        assert {"readings", "connect"} <= set(inspector.get_table_names("fieldline"))
        assert {"device", "value"} <= {column["name"] for column in inspector.get_columns("readings", "fieldline")}
        table = sa.Table("connect", sa.MetaData(), schema="fieldline", autoload_with=engine)
        with engine.connect() as connection:
            found = connection.execute(sa.select(table.c.a, table.c.b).order_by(table.c.a.desc()).limit(1))
            assert list(found) == [(2, "two")]
            assert pd.read_sql(sa.text("SELECT count() AS n FROM connect"), connection)["n"].tolist() == [2]
            if user == "ann":
                with pytest.raises(DatabaseError, match="Not enough privileges"):
                    connection.execute(sa.text("DROP TABLE connect"))
    finally:
        engine.dispose()


def test_node(server: Server) -> None:
    node = shutil.which("node")
    assert node, "node is missing: tests/install-tools installs it with npm"
    for user in ("root", "ann"):
        command = [node, "tests/clickhouse_client.mjs", server.url, user, PASSWORD, str(installed(NODE_CLIENT))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["ping"]
        assert found["selected"] == [{"n": 5, "text": "it's\t{x}"}]
        assert int(found["inserted"]) == 3
        assert found["streamed"] == 9000
        assert found["error"].startswith("47: ")
        assert (found["insert"] == "") if user == "root" else ("Not enough privileges" in found["insert"])


@EVERYBODY
@pytest.mark.parametrize("compress", ["none", "lz4", "zstd"])
def test_go(server: Server, user: str, compress: str, tmp_path: Path) -> None:
    """dbmate is a program in Go: it connects by clickhouse-go, migrates, and asks what is there."""
    up, down = "CREATE TABLE pumps (a UInt32) ENGINE = Memory", "DROP TABLE pumps"
    (tmp_path / "1_pumps.sql").write_text(f"-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n")
    address = url(server.port, user).replace("http:", "clickhouse+http:") + f"/fieldline?compress={compress}"

    def dbmate(*command: str) -> str:
        options = ["--url", address, "-d", str(tmp_path), "--migrations-table", "dbmate", "--no-dump-schema"]
        run = [str(installed(DBMATE) / ".bin" / "dbmate"), *options, *command]
        return subprocess.run(run, capture_output=True, text=True, check=False, timeout=30, cwd=tmp_path).stderr

    assert dbmate("status") == ""
    if user == "ann":
        assert "HTTP 403" in dbmate("up")
        return
    assert dbmate("up") == ""
    assert dbmate("rollback") == ""
    refused = dbmate("--migrations-table", "connect", "status")  # no table of dbmate's: its query fails
    assert "ILLEGAL_FINAL" in refused


@EVERYBODY
def test_ibis(server: Server, user: str) -> None:
    client = ibis.clickhouse.connect(host=HOST, port=server.port, user=user, password=PASSWORD, database="fieldline")
    try:
        assert {"readings", "rollup_1m"} <= set(client.list_tables())
        table = client.table("connect")
        grouped = table.group_by(odd=table.a % 2).agg(n=ibis._.count(), most=ibis._.a.max())
        assert [row["most"] for row in grouped.order_by("odd").to_pyarrow().to_pylist()] == [2, 1]
        mine = ibis.memtable(pa.table({"a": [2, 3], "site": ["north", "south"]}))  # goes along as external data
        joined = table.join(mine, "a").select("b", "site")
        assert joined.to_pyarrow().to_pylist() == [{"b": "two", "site": "north"}]
    finally:
        client.disconnect()


@EVERYBODY
def test_external_data(server: Server, user: str) -> None:
    with clickhouse_connect.get_client(**login(server, user)) as client:
        mine = ExternalData(file_name="mine", fmt="CSV", structure="n UInt32, s String", data=b'1,"x"\r\n2,"\r\ny"')
        mine.add_file(file_name="more", fmt="TSV", types="UInt32", data=b"2\n")
        asked = "SELECT b, s FROM connect JOIN mine ON a = n WHERE n IN more"
        assert client.query(asked, external_data=mine).result_rows == [("two", "\r\ny")]
        with pytest.raises(ClickHouseError, match="UNKNOWN_TABLE"):
            client.query("SELECT * FROM mine")
    assert list((server.path / "http_spill").iterdir()) == []


ATTEMPTS_WITH_DATA = [
    {"structure": "a String DEFAULT file('/etc/hostname')", "fmt": "CSV"},
    {"structure": "a String MATERIALIZED file('/etc/hostname')", "fmt": "CSV"},
    {"structure": "a String", "fmt": "Values"},
    {"structure": "a String", "fmt": "Template"},
]


@pytest.mark.parametrize("given", ATTEMPTS_WITH_DATA)
def test_a_reader_cannot_with_external_data(server: Server, given: dict[str, Any]) -> None:
    with clickhouse_connect.get_client(**login(server, "ann")) as client:
        data = ExternalData(file_name="t", data=b"(file('/etc/hostname'))", **given)
        with pytest.raises(ClickHouseError, match="BAD_ARGUMENTS"):
            client.query("SELECT * FROM t", external_data=data)


def test_external_data_obeys_a_readers_limits(server: Server) -> None:
    """Eight bytes of a packed column become a megabyte of rows."""
    sink = pa.BufferOutputStream()
    column = pa.array(["x" * 1000] * 100_000).dictionary_encode()
    pq.write_table(pa.table({"a": column}), sink)
    data = ExternalData(file_name="t", fmt="Parquet", structure="a String", data=sink.getvalue().to_pybytes())
    with clickhouse_connect.get_client(**login(server, "ann")) as client:
        with pytest.raises(ClickHouseError, match="MEMORY_LIMIT_EXCEEDED"):
            client.query("SELECT count() FROM t", external_data=data)
        assert client.command("SELECT count() FROM connect") == 2


@EVERYBODY
def test_curl(server: Server, user: str) -> None:
    curl = shutil.which("curl")
    assert curl, "curl is missing"

    def run(text: str) -> str:
        command = [curl, "-s", "--noproxy", "*", "-u", f"{user}:{PASSWORD}", "--data-binary", text, server.url]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    assert json.loads(run("SELECT a FROM fieldline.connect ORDER BY a FORMAT JSON"))["data"] == [{"a": 1}, {"a": 2}]
    refused = run("CREATE OR REPLACE TABLE fieldline.curl (a Int8) ENGINE = Memory")
    assert (refused == "") if user == "root" else ("Not enough privileges" in refused)


SUPERSET = [
    "SELECT currentDatabase()",
    "SHOW DATABASES",
    "SHOW TABLES FROM `fieldline`",
    "SELECT name FROM system.tables WHERE database = 'fieldline' AND engine IN ('View', 'WindowView') ORDER BY name",
    "SELECT engine, engine_full, comment FROM system.tables WHERE database = 'fieldline' AND name = 'readings'",
    "DESCRIBE TABLE `fieldline`.`readings`",
    "EXISTS TABLE `fieldline`.`rollup_1m`",
    "SELECT name FROM system.functions UNION ALL SELECT name FROM system.table_functions LIMIT 10000",
    "SELECT DISTINCT `device` AS `column_values` FROM `fieldline`.`readings` LIMIT 10000",
    'SELECT "device" AS "device", COUNT(*) AS "count" FROM "fieldline"."readings" GROUP BY "device" LIMIT 10',
]
"""What Superset 6.1 sent as docs/superset.md tells; and for a chart over time:"""
SUPERSET_CHART = """
SELECT dateTrunc('{grain}', toDateTime("measured_at")) AS "measured_at", "device" AS "device", AVG(value) AS "m"
FROM "fieldline"."readings"
WHERE "measured_at" >= toDateTime('2026-11-01 00:00:00') AND "measured_at" < toDateTime('2026-11-03 00:00:00')
    AND "device" IN ('pump', 'it''s')
GROUP BY "measured_at", "device" ORDER BY "m" DESC LIMIT 50
"""


def test_the_way_superset_asks(server: Server) -> None:
    with clickhouse_connect.get_client(**login(server, "ann")) as client:
        charts = [SUPERSET_CHART.format(grain=grain) for grain in ("MINUTE", "HOUR", "DAY", "WEEK", "MONTH")]
        for text in (*SUPERSET, *charts):
            client.query(text, settings={"wait_end_of_query": 1})
        series = "query_series(devices = ['d'], metrics = ['m'], begin = '2026-11-01', end = '2026-11-02', points = 50)"
        assert client.query(f"SELECT device, at, mean FROM {series} LIMIT 101").result_rows == []


def test_the_way_redash_asks(server: Server) -> None:
    """Login and database in the URL, the format in the statement's last line, all columns as the schema."""

    def asked(text: str) -> list[dict[str, Any]]:
        login = urlencode({"user": "ann", "password": PASSWORD, "database": "fieldline"})
        with urlopen(f"{server.url}/?{login}", f"{text}\nFORMAT JSON".encode(), timeout=30) as response:
            found: list[dict[str, Any]] = json.load(response)["data"]
            return found

    assert asked("SELECT 1 AS a") == [{"a": 1}]
    columns = asked("SELECT database, table, name FROM system.columns WHERE database NOT IN ('system')")
    assert {"database": "fieldline", "table": "readings", "name": "value"} in columns
    assert [row["b"] for row in asked("SELECT b FROM connect ORDER BY a")] == ["one", "two"]


# --- limits of a reader


def test_a_readers_time_and_memory_end(server: Server) -> None:
    with clickhouse_connect.get_client(**login(server, "ann")) as client:
        with pytest.raises(ClickHouseError, match="TIMEOUT_EXCEEDED"):
            client.command(FOREVER)
        with pytest.raises(ClickHouseError, match="MEMORY_LIMIT_EXCEEDED"):
            client.command("SELECT length(groupArray(toString(number))) FROM numbers(3000000)")
        assert client.command("SELECT count() FROM connect") == 2


def test_a_readers_queries_wait_for_each_other_and_hold_up_nobody(server: Server) -> None:
    def run() -> None:
        with (
            clickhouse_connect.get_client(**login(server, "ann"), autogenerate_session_id=False) as client,
            pytest.raises(ClickHouseError, match="TIMEOUT_EXCEEDED"),
        ):
            client.command(FOREVER)

    running = []
    with ThreadPoolExecutor(3) as pool, clickhouse_connect.get_client(**login(server, "root")) as root:
        both = [pool.submit(run) for _ in range(2)]
        while not all(done.done() for done in both):
            running.append(root.command("SELECT count() FROM system.processes WHERE query LIKE '%100000000000%7 = 1'"))
        for done in both:
            done.result()
    assert max(running) == 1


# --- our own commands


def test_every_named_query_as_a_reader(server: Server) -> None:
    """The dashboard's, Grafana's and the command line's, with a login that may only read."""
    with clickhouse_connect.get_client(**login(server, "ann")) as client:
        for name in queries.every():
            given = {p.name: EXAMPLES[p.type] for p in queries.load(name).parameters if p.default is None}
            queries.ask(client, name, **given)
        assert client.query("SELECT count() FROM fieldline.query_gateways").result_rows


def test_commands_as_a_reader_and_with_a_wrong_password(server: Server) -> None:
    reader = {"CLICKHOUSE_URL": url(server.port, "ann")}
    asked = fieldline("sql", "SELECT a FROM fieldline.connect ORDER BY a", **reader)
    assert (asked.status, asked.out.split()) == (0, ["a", "1", "2"]), asked
    account = fieldline("account", **reader)
    assert account.status == 0, account
    refused = fieldline("sql", "DROP TABLE fieldline.connect", **reader)
    assert refused.status == 1
    assert "Not enough privileges" in refused.err
    for user, command in (("ann", "account"), ("worker", "analytics migrate")):
        wrong = fieldline(*command.split(), CLICKHOUSE_URL=url(server.port, user, "wr0ng"))
        assert wrong.status == 1
        assert f"refused the login of user {user}" in wrong.err
        assert "wr0ng" not in wrong.err


def write_letter(server: Server) -> None:
    with clickhouse_connect.get_client(**login(server, "root")) as client:
        client.command(
            "INSERT INTO dead_letters SELECT 'g', 'e', 1, now64(3), now64(3), 'plant/p', 'no mapping', '{\"a\": 1}'"
        )


def our_commands(folder: Path) -> dict[str, tuple[str, Callable[[str], int]]]:
    """Of docs/sql.md: which role each needs, and how it is run with a URL."""
    gateway = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "mappings": [{"topic": "plant/{device}"}]})
    decode, letters, out = Decoder.alone(gateway), Filter("g"), io.StringIO()
    rules = {"rules": [{"name": "hot", "kind": "threshold", "metric": "a", "above": 1e9}]}
    return {
        "account": ("reader", lambda url: account.run(url, out=out)),
        "sql": ("reader", lambda url: sql.run(url, "SELECT 1", "csv")),
        "export": ("reader", lambda url: export.run(url, str(folder), export.DATASETS["readings"], Span(), out=out)),
        "dead-letters list": ("reader", lambda url: dead_letters.list_(url, letters, out=out)),
        "dead-letters replay --dry-run": ("reader", lambda url: replay.run(url, decode, letters, dry=True, out=out)),
        "alerts list": ("reader", lambda url: alerts.list_(url, "table", every=True, out=out)),
        "alerts check": ("reader", lambda url: alerts.check(AlertsConfig(**rules, clickhouse_url=url), out=out)),
        "alerts mute": ("writer", lambda url: alerts.mute(url, "hot", Subject(), 0, out=out)),
        "analytics migrate": ("writer", lambda url: migrate.run(url, out=out)),
        "analytics rollup": ("writer", lambda url: rollup.run(url, out=out)),
        "analytics backfill": ("writer", lambda url: rollup.run_backfill(url, out=out)),
        "dead-letters replay": ("writer", lambda url: replay.run(url, decode, letters, again=True, out=out)),
    }


def test_every_command_with_the_role_that_it_needs(server: Server, tmp_path: Path) -> None:
    """Twice, because a second replay ends what the first may have running, and removes what it has stored."""
    write_letter(server)
    for _ in range(2):
        for command, (_role, run) in our_commands(tmp_path / "lake").items():
            assert run(url(server.port, "worker")) == 0, command
    for command, (role, run) in our_commands(tmp_path / "lake").items():
        if role == "reader":
            assert run(url(server.port, "ann")) == 0, command
            continue
        with pytest.raises(FieldlineError, match=r"Not enough privileges|does not take this from user ann"):
            run(url(server.port, "ann"))


def test_a_message_of_a_device_reaches_a_reader(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrations and ingest run as the writer; the fixture has migrated."""
    stack = make_stack(tmp_path)
    stack.ingest_config.write_text(stack.ingest_config.read_text().partition("\n")[2])
    monkeypatch.setenv("CLICKHOUSE_URL", url(server.port, "worker"))
    publish = shutil.which("mosquitto_pub")
    assert publish, "install mosquitto-clients (tests/install-tools)"
    message = ["-q", "1", "-t", "devices/pump-7/telemetry", "-m", '{"flow": 2.5}']

    def stored() -> bool:
        query = "SELECT device, metric, value FROM fieldline.readings WHERE metric = 'flow'"
        return fieldline("sql", query, CLICKHOUSE_URL=url(server.port, "ann")).out.endswith("pump-7\tflow\t2.5\n")

    async def main() -> None:
        async with stack.running(("device-broker", "trunk-broker", "ingest", "edge")):
            command = [publish, "-h", HOST, "-p", str(stack.ports.mqtt), *message]
            await asyncio.to_thread(subprocess.run, command, check=True, timeout=20)
            await until(stored, "the reader finds the reading", 30)
            assert "%40" not in stack.programs["ingest"].tail()

    asyncio.run(main())
    account = fieldline("account", CLICKHOUSE_URL=url(server.port, "ann"))
    assert account.status == 0, account


def test_a_hash_from_the_command_line_lets_in() -> None:
    printed = fieldline("clickhouse", "password", stdin="s3cret\n")
    assert printed.status == 0, printed.err
    assert "s3cret" not in printed.out
    users = Users.model_validate({"users": {"eve": {"role": "reader", "password_hash": printed.out.strip()}}})
    accounts = Accounts(users)
    assert accounts.verify(Credentials("eve", "s3cret")) == "reader"
    assert accounts.verify(Credentials("eve", "s3cret\n")) is None
