"""Users of the embedded ClickHouse: what a reader cannot do, and what tools and our own commands can."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics.migrate import run as migrate
from ingest.clickhouse.client import connect
from ingest.clickhouse.users import Accounts, Users, hashed, load
from telemetry.errors import ConfigError, FieldlineError
from tests.brokers import HOST, wait_until
from tests.clickhouse import Server, clickhouse
from tests.users import PASSWORD, url, users_file

ATTEMPTS = [
    "SELECT * FROM file('/etc/hostname', 'LineAsString')",
    "SELECT * FROM `file`('/etc/hostname', 'LineAsString')",
    "SELECT * FROM FiLe('/etc/hostname')",
    "SELECT file('/etc/hostname')",
    "SELECT length(file('/etc/hostname'))",
    "WITH x AS (SELECT file('/etc/hostname') AS a) SELECT a FROM x",
    "SELECT 1 WHERE 'a' = (SELECT file('/etc/hostname'))",
    "SELECT arrayMap(x -> file(x), ['/etc/hostname'])",
    "SELECT * APPLY(file) FROM (SELECT '/etc/hostname')",
    "SELECT 1 ORDER BY file('/etc/hostname')",
    "SELECT * FROM view(SELECT file('/etc/hostname'))",
    "SELECT * FROM '/etc/hostname'",
    "DESCRIBE TABLE file('/etc/hostname')",
    "EXISTS TABLE `/etc/hostname`",
    "SHOW TABLES WHERE file('/etc/hostname') != ''",
    "EXPLAIN SELECT file('/etc/hostname')",
    "EXPLAIN QUERY TREE SELECT * FROM file('/etc/hostname')",
    "SELECT * FROM (EXPLAIN SELECT * FROM file('/etc/hostname'))",
    "SELECT 1 IN (SELECT file('/etc/hostname'))",
    "SELECT sum(1) OVER (ORDER BY file('/etc/hostname'))",
    "SELECT 1 UNION ALL SELECT * FROM file('/etc/hostname')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM s3('http://127.0.0.1:1/a', 'CSV', 'a String')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e String')",
    "SELECT * FROM redis('127.0.0.1:1', 'a', 'a String')",
    "SELECT * FROM sqlite('/etc/hostname', 'a')",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
    "SELECT * FROM python('x')",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM merge('system', 'proc')",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT dictGet('x', 'a', 1)",
    "SELECT joinGet('x', 'a', 1)",
    "SELECT hasColumnInTable('127.0.0.1', 'a', 'b', 'c', 'd', 'e')",
    "SELECT aiGenerate('x')",
    "SELECT addressToLine(1)",
    "SELECT sleep(3)",
    "SELECT getServerSetting('max_server_memory_usage')",
    "SELECT getMacro('x')",
    "SELECT showCertificate()",
    "SELECT filesystemAvailable()",
    "SELECT generateSerialID('x')",
    "SELECT * FROM system.processes",
    "SELECT * FROM `system`.`processes`",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.users",
    "SELECT * FROM system.named_collections",
    "SELECT * FROM system.server_settings",
    "SELECT 1 IN system.processes",
    "SELECT p.* FROM system.one, system.processes AS p",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "SELECT 1 INTO OUTFILE '/nowhere'",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SET max_execution_time = 0",
    "SET readonly = 0",
    "USE system",
    "KILL QUERY WHERE 1",
    "KILL QUERY WHERE query_id = file('/etc/hostname')",
    "KILL MUTATION WHERE query_id = 'a'",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "CREATE DATABASE x",
    "CREATE FUNCTION f AS x -> x",
    "CREATE TEMPORARY TABLE x (a Int8)",
    "INSERT INTO fieldline.migrations SELECT 1",
    "INSERT INTO FUNCTION file('/nowhere') SELECT 1",
    "ALTER TABLE fieldline.readings DELETE WHERE 1",
    "DROP TABLE fieldline.readings",
    "TRUNCATE TABLE fieldline.readings",
    "OPTIMIZE TABLE fieldline.readings",
    "DELETE FROM fieldline.readings WHERE 1",
    "RENAME TABLE fieldline.readings TO fieldline.x",
    "DETACH TABLE fieldline.readings",
    "BACKUP TABLE fieldline.readings TO File('/nowhere')",
    "SYSTEM SHUTDOWN",
    "GRANT ALL ON *.* TO ann",
    "SELECT 1; DROP TABLE fieldline.readings",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("users")
    with clickhouse(folder / "data", "--users", str(users_file(folder))) as running:
        assert migrate(url(running.port, "worker")) == 0
        yield running


def ask(server: Server, user: str, text: str, query: str = "") -> tuple[int, str]:
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": PASSWORD}
    try:
        with urlopen(Request(f"{server.url}/?{query}", text.encode(), headers), timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


@pytest.mark.parametrize("text", ATTEMPTS)
def test_a_reader_cannot(server: Server, text: str) -> None:
    status, said = ask(server, "ann", text)
    assert status != 200, said
    ours = "Not enough privileges" in said or "Multi-statements" in said or "over HTTP" in said or "Temporary" in said
    assert ours or "READONLY" in said, said


@pytest.mark.parametrize("text", [a for a in ATTEMPTS[:21] if "FiLe" not in a])
def test_an_admin_can_what_a_reader_cannot(server: Server, text: str) -> None:
    status, said = ask(server, "root", text)
    assert "Not enough privileges" not in said
    assert "READONLY" not in said
    if "file('/etc/hostname')" not in text:  # the function file() is bound to the engine's own folder
        assert status == 200, said


BLANKS = st.sampled_from([" ", "\n", "\t", " /* file( */ ", " -- x\n", "/**/ "])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([a for a in ATTEMPTS[:60] if ";" not in a]), st.data())
def test_mangled_attempts_fail_as_well(server: Server, text: str, data: st.DataObject) -> None:
    outside = True
    mangled = []
    for letter in text:
        outside ^= letter in "'`"
        mangled.append(data.draw(BLANKS) if letter == " " and outside else letter)
    changed = "".join(mangled).replace(
        "file(", data.draw(st.sampled_from(["file(", "`file`(", '"file" (', "file/**/("]))
    )
    for word in ("SELECT", "FROM", "SHOW", "WHERE", "EXPLAIN"):
        changed = changed.replace(word, data.draw(st.sampled_from([word, word.lower(), word.title()])))
    status, said = ask(server, "ann", changed)
    assert status != 200, (changed, said)


@pytest.mark.parametrize("setting", ["readonly=0&max_execution_time=0", "max_memory_usage=0", "max_result_rows=0"])
def test_settings_in_the_url_lift_no_limit(server: Server, setting: str) -> None:
    text = "SELECT getSetting('readonly'), getSetting('max_execution_time'), getSetting('max_result_rows')"
    assert ask(server, "ann", text, setting) == (200, "1\t5\t10000\n")
    assert ask(server, "ann", "SELECT 1", "format_schema=x")[1].count("may not change the setting") == 1
    assert "TOO_MANY_ROWS" in ask(server, "ann", "SELECT number FROM numbers(100000)")[1]
    parts = ask(server, "ann", "('/etc/hostname')", "query=SELECT%20*%20FROM%20file")
    assert "Not enough privileges" in parts[1]
    assert "Not enough" in ask(server, "ann", "SELECT * FROM processes", "database=system")[1]
    assert "Not enough" in ask(server, "ann", "SELECT * FROM {t:Identifier}", "param_t=system.processes")[1]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT version(), timezone(), revision(), displayName()",
        "SELECT currentUser() AS user, timezone() AS timezone, version(), getSetting('readonly')",
        "SELECT name, value, readonly FROM system.settings LIMIT 5",
        "SELECT database, name, engine, create_table_query FROM system.tables WHERE database = 'fieldline'",
        "SELECT name, type FROM system.columns WHERE table = 'readings' ORDER BY position",
        "SELECT table_name FROM information_schema.tables LIMIT 2",
        "SHOW DATABASES",
        "SHOW TABLES FROM fieldline",
        "DESCRIBE TABLE fieldline.readings",
        "SHOW CREATE TABLE fieldline.readings",
        "EXPLAIN SELECT 1",
        "WITH t AS (SELECT 1 AS a) SELECT * FROM t JOIN t AS u USING (a)",
        "SELECT toStartOfInterval(now(), INTERVAL 1 MINUTE) AS t FROM numbers(9) GROUP BY t ORDER BY t WITH FILL",
        "SELECT quantileTDigestIf(0.5)(number, 1), count(DISTINCT number) FROM numbers(9)",
        "SELECT case number when 1 then 'a' else 'b' end, sum(number) OVER w FROM numbers(3) WINDOW w AS (ORDER BY 1)",
        "SELECT * FROM fieldline.readings LIMIT 10",
    ],
)
def test_what_tools_ask_works_for_a_reader(server: Server, text: str) -> None:
    status, said = ask(server, "ann", text)
    assert status == 200, said


def test_clickhouse_connect_as_a_reader(server: Server) -> None:
    with clickhouse_connect.get_client(
        host=HOST, port=server.port, username="ann", password=PASSWORD, database="fieldline"
    ) as client:
        assert client.query_arrow("SELECT toUInt8(1) AS a").column("a").to_pylist() == [1]
        assert client.query_df("SELECT number AS n FROM numbers(3)")["n"].tolist() == [0, 1, 2]
        with pytest.raises(ClickHouseError, match="privileges"):
            client.command("DROP TABLE readings")


def test_a_writer_writes_and_reads_no_files(server: Server) -> None:
    for text in (
        "CREATE TABLE fieldline.w (a UInt8) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO fieldline.w VALUES (7)",
    ):
        assert ask(server, "worker", text) == (200, "")
    insert = "INSERT INTO fieldline.w SELECT a FROM input('a UInt8') WHERE NOT throwIf(a = 9) FORMAT TSV\n8\n"
    assert ask(server, "worker", insert) == (200, "")
    assert ask(server, "worker", "SELECT sum(a) FROM fieldline.w") == (200, "15\n")
    for text in (
        "INSERT INTO fieldline.w SELECT file('/etc/hostname')",
        "INSERT INTO FUNCTION file('/tmp/x', 'CSV', 'a UInt8') VALUES (1)",
        "CREATE TABLE fieldline.f (a String) ENGINE = File(CSV, '/etc/hostname')",
        "CREATE TABLE fieldline.f (a String DEFAULT file('/etc/hostname')) ENGINE = Memory",
        "CREATE VIEW fieldline.v AS SELECT * FROM file('/etc/hostname')",
        "CREATE DATABASE d ENGINE = MySQL('127.0.0.1:1', 'a', 'b', 'c')",
        "KILL QUERY WHERE 1",
        "SYSTEM SHUTDOWN",
    ):
        status, said = ask(server, "worker", text)
        assert status == 403, said
        assert "Not enough privileges" in said


SLOW = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) % 7 = 1"


def test_a_reader_ends_its_own_query_and_no_other(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        of_root = pool.submit(ask, server, "root", f"/* root */ {SLOW}", "query_id=of-root")
        of_ann = pool.submit(ask, server, "ann", f"/* ann */ {SLOW}", "query_id=of-ann")
        count = "SELECT count() FROM system.processes WHERE Settings['log_comment'] LIKE 'of-%'"
        wait_until(lambda: ask(server, "root", count)[1] == "2\n", "both run")
        assert ask(server, "ann", "KILL QUERY WHERE query_id = 'of-root' SYNC") == (200, "")
        assert ask(server, "ann", "KILL QUERY WHERE query LIKE '%100000000000%' SYNC")[1].startswith("finished")
        assert "QUERY_WAS_CANCELLED" in of_ann.result()[1]
        assert ask(server, "root", count)[1] == "1\n", "root's still runs"
        assert ask(server, "worker", "KILL QUERY WHERE query_id = 'of-root' SYNC")[1].startswith("finished")
        assert "QUERY_WAS_CANCELLED" in of_root.result()[1]


def test_curl_and_a_wrong_password(server: Server) -> None:
    curl = shutil.which("curl")
    if curl is not None:
        command = [
            curl,
            "-s",
            "--noproxy",
            "*",
            "-u",
            f"ann:{PASSWORD}",
            "--data-binary",
            "SELECT 1 AS a FORMAT JSON",
            server.url,
        ]
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
        assert json.loads(done.stdout)["data"] == [{"a": 1}]
    for user in ("ann", "nobody"):
        with pytest.raises(FieldlineError, match=f"refused the login of user {user}"):
            connect(url(server.port, user, "wrong"))
    assert PASSWORD not in server.log.read_text()


def test_the_file_of_users(tmp_path: Path) -> None:
    path = users_file(tmp_path)
    assert Accounts(load(path)).users.users["ann"].role == "reader"
    assert PASSWORD not in path.read_text()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path)
    path.chmod(0o600)
    path.write_text('[users.a]\nrole = "reader"\npassword_hash = "plain"')
    with pytest.raises(ConfigError, match="fieldline clickhouse password"):
        load(path)
    os.truncate(path, 0)
    with pytest.raises(ConfigError, match="users"):
        load(path)
    assert isinstance(Users.model_validate({"users": {"a": {"role": "admin", "password_hash": hashed("x")}}}), Users)


def test_what_a_reader_wants_to_insert_is_kept_nowhere(server: Server) -> None:
    """Not even until the refusal: it would fill the disk."""
    seen: set[int] = set()

    def body() -> Iterator[bytes]:
        for _ in range(40):
            yield b"1\n" * 100_000
            seen.add(sum(file.stat().st_size for file in (server.path / "http_spill").iterdir()))

    headers = {"X-ClickHouse-User": "ann", "X-ClickHouse-Key": PASSWORD}
    connection = HTTPConnection(HOST, server.port, timeout=30)
    connection.request("POST", "/?query=INSERT%20INTO%20fieldline.w%20FORMAT%20TSV", body(), headers)
    response = connection.getresponse()
    assert response.status == 403
    assert b"may not INSERT" in response.read()
    assert seen == {0}
    connection.close()
