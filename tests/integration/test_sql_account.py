"""`fieldline sql` and `fieldline account` against the real engine, with a real terminal and real pipes."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from analytics import account, sql
from analytics.account import Row
from analytics.kept import keep
from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from telemetry.errors import ConfigError, FieldlineError
from tests.clickhouse import ROOT, clickhouse

SQL = "import sys; from analytics.sql import run; sys.exit(run(*sys.argv[1:]))"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A server without the database."""
    with clickhouse(tmp_path_factory.mktemp("bare") / "ch") as running:
        yield running


@pytest.fixture
def server(bare):
    """A server with an empty database."""
    client = connect(bare.url, database="default")
    client.command("DROP DATABASE IF EXISTS fieldline SYNC")
    migrate(client)
    client.close()
    return bare


@pytest.fixture
def client(server):
    connection = connect(server.url)
    yield connection
    connection.close()


def in_pipe(server, query, fmt=None):
    """Exit status, stdout and stderr."""
    raw = io.BytesIO()
    out, err = io.TextIOWrapper(raw, "utf-8"), io.StringIO()
    status = sql.run(server.url, query, fmt, out=out, err=err)
    return status, raw.getvalue().decode(), err.getvalue()


def on_terminal(server, query, **options):
    """Exit status and what the terminal shows, without colours."""
    ours, theirs = os.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the kernel's word for: the other end is closed
            while data := os.read(ours, 65536):
                shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as out:
        status = sql.run(server.url, query, out=out, err=io.StringIO(), **options)
    reader.join(30)
    os.close(ours)
    text = b"".join(shown).decode().replace("\r\n", "\n")
    return status, re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_pipes_get_names_and_tabs(server):
    query = "SELECT number, 'a\tb' AS text, NULL AS nothing FROM numbers(2);"
    assert in_pipe(server, query) == (0, "number\ttext\tnothing\n0\ta\\tb\t\\N\n1\ta\\tb\t\\N\n", "")


def test_any_format_by_option_or_in_the_query(server):
    assert in_pipe(server, "SELECT 1 AS a", "JSONEachRow") == (0, '{"a":1}\n', "")
    assert in_pipe(server, "SELECT 1 AS a FORMAT CSVWithNames") == (0, '"a"\n1\n', "")
    status, shown = on_terminal(server, "SELECT number AS a FROM numbers(200000) FORMAT CSV")
    assert status == 0
    assert len(shown.splitlines()) == 200_000


def test_statements_without_a_result(server):
    for query in (
        "CREATE TABLE fieldline.t (a UInt8) ENGINE = Memory",
        "INSERT INTO t VALUES (1), (2)",
        "INSERT INTO t FORMAT CSV\n3\n4",
    ):
        assert in_pipe(server, query) == (0, "", "")
    assert in_pipe(server, "SELECT sum(a) AS s FROM t") == (0, "s\n10\n", "")
    status, shown = on_terminal(server, "DROP TABLE t")
    assert status == 0
    assert re.fullmatch(r"Done in \d+\.\d\d s\.\n", shown)


def test_a_terminal_gets_a_table(server):
    query = "SELECT 7 AS number, 'x[b]' AS text, CAST(NULL AS Nullable(Float64)) AS nothing, '€' AS sign"
    status, shown = on_terminal(server, query)
    assert status == 0
    assert "│      7 │ x[b] │    NULL │ €    │" in shown
    assert re.search(r"\n1 row in \d+\.\d\d s\.\n$", shown)


def test_a_long_result_is_cut_on_a_terminal_and_what_is_inserted_is_not(server):
    status, shown = on_terminal(server, "SELECT number FROM numbers(3000000000)", rows_max=5)
    assert status == 0
    assert [int(n) for n in re.findall(r"│ +(\d+) │", shown)] == [0, 1, 2, 3, 4]
    assert "The first 5 rows; for all of them" in shown
    on_terminal(server, "CREATE TABLE fieldline.t ENGINE = Memory AS SELECT number FROM numbers(200000)", rows_max=5)
    on_terminal(server, "INSERT INTO t SELECT number FROM numbers(200000)", rows_max=5)
    assert in_pipe(server, "SELECT count() AS n FROM t")[1] == "n\n400000\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT foo", "Unknown expression identifier `foo`"),
        ("SELEC 1", "Syntax error"),
        ("SELECT throwIf(number = 3, 'boom') FROM numbers(10)", "boom"),
        (" ; ", "There is no statement"),
    ],
)
def test_an_error_is_one_paragraph(server, query, said):
    status, out, err = in_pipe(server, query)
    assert (status, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert "DB::" not in err


def test_an_error_after_half_of_the_result(server):
    query = "SELECT throwIf(number = 9000000, 'boom') FROM numbers(10000000) SETTINGS max_threads = 1"
    status, out, err = in_pipe(server, query)
    assert status == 1
    assert "boom" in err
    assert "exception" not in out


def test_the_query_from_stdin(server, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1 AS a\n"))
    assert in_pipe(server, "-") == (0, "a\n1\n", "")


def test_a_reader_that_goes_away_is_no_error(server):
    command = [sys.executable, "-c", SQL, server.url, "SELECT number FROM numbers(20000000)"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"number\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_no_server_no_login_no_database_no_tls(bare, tmp_path, capsys):
    port = bare.port
    for url, said in (
        ("http://127.0.0.1:1", "No ClickHouse listens at http://127.0.0.1:1. Start"),
        (f"http://127.0.0.1:{port}/nowhere", "has no database nowhere. Correct the end of the URL"),
        (f"https://127.0.0.1:{port}", "TLS to ClickHouse at"),
        ("http://no.such.host.invalid", "The host no.such.host.invalid of the ClickHouse URL is unknown"),
    ):
        assert sql.run(url, "SELECT 1") == 1
        assert said in capsys.readouterr().err
    with pytest.raises(ConfigError):
        connect("nonsense")


def test_a_password(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("p@ss/wörd")
    with clickhouse(tmp_path / "ch", "--user", "ann", "--password-file", str(secret)) as server:
        at = f"127.0.0.1:{server.port}"
        connect(f"http://ann:p%40ss%2Fw%C3%B6rd@{at}", database="default").close()
        with pytest.raises(FieldlineError, match="refused the login of user ann") as refused:
            connect(f"http://ann:wrong@{at}", database="default")
        assert "wrong" not in str(refused.value)
        with pytest.raises(FieldlineError, match="refused the login of user default"):
            connect(f"http://{at}", database="default")


class Books:
    """Writes rows by hand, for one gateway and epoch at a time."""

    def __init__(self, client):
        self.client = client
        self.version = 0

    def _insert(self, text):
        head, values = text.split(" ~ ")
        self.client.command(f"INSERT INTO fieldline.{head} SETTINGS async_insert = 0 {values}")

    def stored(self, gateway, epoch, first, last):
        self._insert(
            "readings (device, metric, measured_at, gateway, epoch, seq) ~"
            f" SELECT 'd', 'm', toDateTime64(1500000000, 3), '{gateway}', '{epoch}', number"
            f" FROM numbers({first}, {last - first + 1})"
        )

    def dead(self, gateway, epoch, seq):
        self._insert(f"dead_letters (gateway, epoch, seq) ~ VALUES ('{gateway}', '{epoch}', {seq})")

    def lost(self, gateway, epoch, first, last):
        self._insert(f"losses (gateway, epoch, first_seq, last_seq) ~ VALUES ('{gateway}', '{epoch}', {first}, {last})")

    def ledger(self, gateway, epoch, mark, ahead=()):
        self.version += 1
        self._insert(
            "ledger (gateway, epoch, mark, ahead, version) ~"
            f" VALUES ('{gateway}', '{epoch}', {mark}, {list(ahead)}, {self.version})"
        )


@pytest.fixture
def books(client):
    return Books(client)


def expect(client, gateway, **numbers):
    """The row of the only epoch of this gateway, with zeros where nothing is named."""
    names = ("committed", "stored", "dead_lettered", "losses", "duplicates", "missing", "uncommitted")
    for _ in range(2):  # from the rows, and from what is kept of their parts
        found = [row for row in account.fetch(client) if row.gateway == gateway]
        assert found == [Row(gateway, "e", *(numbers.get(name, 0) for name in names))]
        keep(client, rows_min=1)
    return found[0]


def test_accounting_healthy(client, books):
    books.stored("g", "e", 1, 99)
    books.dead("g", "e", 100)
    books.ledger("g", "e", 50)
    books.ledger("g", "e", 100)
    assert expect(client, "g", committed=100, stored=99, dead_lettered=1).identity_holds


def test_accounting_missing_at_the_end_and_in_the_middle(client, books):
    books.stored("g", "e", 1, 9)
    books.stored("g", "e", 11, 99)
    books.ledger("g", "e", 100)
    assert not expect(client, "g", committed=100, stored=98, missing=2).identity_holds


def test_accounting_double(client, books):
    books.stored("g", "e", 1, 100)
    books.stored("g", "e", 7, 8)
    books.ledger("g", "e", 100)
    assert not expect(client, "g", committed=100, stored=100, duplicates=2).identity_holds


def test_accounting_one_double_and_one_missing_do_not_cancel_out(client, books):
    books.stored("g", "e", 1, 99)
    books.dead("g", "e", 7)
    books.ledger("g", "e", 100)
    row = expect(client, "g", committed=100, stored=98, dead_lettered=1, duplicates=1, missing=1)
    assert not row.identity_holds


def test_accounting_ahead_of_the_mark(client, books):
    books.stored("g", "e", 1, 10)
    books.stored("g", "e", 21, 35)
    books.stored("g", "e", 51, 55)
    books.ledger("g", "e", 10, [(21, 30), (51, 55)])
    assert expect(client, "g", committed=25, stored=25, uncommitted=5).identity_holds


def test_accounting_losses(client, books):
    books.stored("g", "e", 1, 10)
    books.lost("g", "e", 11, 90)
    books.stored("g", "e", 91, 100)
    books.lost("g", "e", 101, 110)
    books.ledger("g", "e", 100)
    assert expect(client, "g", committed=100, stored=20, losses=80, uncommitted=10).identity_holds


def test_accounting_losses_that_overlap_each_other_and_rows(client, books):
    books.lost("g", "e", 1, 10)
    books.lost("g", "e", 5, 15)
    books.lost("g", "e", 6, 7)
    books.stored("g", "e", 14, 20)
    books.ledger("g", "e", 20)
    assert not expect(client, "g", committed=20, stored=7, losses=13, duplicates=10).identity_holds


def test_accounting_across_the_chunks_of_the_view(client, books):
    books.stored("g", "e", 1, 200_000)
    books.lost("g", "e", 200_001, 270_000)
    books.ledger("g", "e", 131_071, [(131_072, 131_073), (196_608, 265_000)])
    numbers = {"committed": 131_073 + 68_393, "stored": 131_073 + 3_393, "losses": 65_000}
    uncommitted = (196_607 - 131_073) + 5_000
    assert expect(client, "g", **numbers, uncommitted=uncommitted).identity_holds


def test_accounting_rows_without_a_ledger_and_a_ledger_without_rows(client, books):
    books.stored("rows", "e", 1, 10)
    books.lost("rows", "e", 11, 12)
    books.ledger("ledger", "e", 10)
    assert expect(client, "rows", uncommitted=12).identity_holds
    assert not expect(client, "ledger", committed=10, missing=10).identity_holds


def test_accounting_tells_epochs_apart_and_leaves_refused_batches_out(client, books):
    for epoch, last in (("e1", 10), ("e2", 20)):
        books.stored("g", epoch, 1, last)
        books.ledger("g", epoch, last)
    books.dead("g", "", 0)
    books.dead("", "", 0)
    rows = account.fetch(client)
    assert [(row.gateway, row.epoch, row.committed, row.missing) for row in rows] == [
        ("g", "e1", 10, 0),
        ("g", "e2", 20, 0),
    ]


def test_accounting_never_sees_the_ledger_before_its_rows(server, client):
    stop = threading.Event()

    def write():
        own = connect(server.url)
        books, last = Books(own), 0
        while not stop.is_set():
            books.stored("g", "e", last + 1, last + 20)
            last += 20
            books.ledger("g", "e", last)
        own.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        broken = [row for _ in range(60) for row in account.fetch(client) if not row.identity_holds]
    finally:
        stop.set()
        writer.join(30)
    assert broken == []


def test_account_says_what_is_wrong_by_its_exit_status(server, client, books, capsys):
    assert account.run(server.url) == 0
    assert "No gateway has sent anything yet." in capsys.readouterr().out
    books.stored("g", "e", 1, 1999)
    books.ledger("g", "e", 1999)
    books.stored("h", "e", 1, 5)
    assert account.run(server.url) == 0
    shown = capsys.readouterr().out
    assert "1,999" in shown
    assert "Every committed record is accounted for, once" in shown
    assert "5 more are stored but not committed yet" in shown
    books.ledger("h", "e", 7)
    assert account.run(server.url) == 1
    assert "The accounting is broken for h/e: 2 missing, 0 duplicates." in capsys.readouterr().out


def test_account_says_how_many_readings_were_left_out(server, client, books, capsys):
    books.stored("g", "e", 1, 3)
    books.ledger("g", "e", 3)
    for reported_at, count in ((1, 5), (2, 1234)):
        row = f"('g', {reported_at}, {count})"
        client.command(f"INSERT INTO fieldline.gateways (gateway, reported_at, thinned) VALUES {row}")
    try:
        assert account.run(server.url) == 0
        assert "Gateways have left out 1,234 readings on purpose" in capsys.readouterr().out
        assert account.run(server.url, "json") == 0
        assert json.loads(capsys.readouterr().out)["thinned"] == 1234
    finally:
        client.command("TRUNCATE TABLE fieldline.gateways")


def test_account_as_json(server, books, capsys):
    books.stored("g", "e", 1, 10)
    books.ledger("g", "e", 11)
    assert account.run(server.url, "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["gateway"] == "g"
    assert document["rows"][0]["identity_holds"] is False
    assert document["total"]["missing"] == 1
    assert document["identity_holds"] is False


def test_account_before_there_is_a_database(bare, capsys):
    client = connect(bare.url, database="default")
    client.command("DROP DATABASE IF EXISTS fieldline SYNC")
    client.close()
    assert account.run(bare.url) == 1
    assert "Run `fieldline analytics migrate`" in capsys.readouterr().err
    assert sql.run(bare.url, "SELECT 1") == 1
    assert "has no database fieldline yet. Run `fieldline analytics migrate`" in capsys.readouterr().err
