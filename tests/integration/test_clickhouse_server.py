"""The embedded ClickHouse as clients meet it: a real process, clickhouse-connect and raw HTTP."""

import fcntl
import gzip
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.clickhouse.frames import FrameCompressor, FrameDecoder, Room
from proof.ports import free_port
from tests.brokers import HOST, wait_until
from tests.clickhouse import ROOT, Server, clickhouse

SLOW = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) % 7 = 1"
READINGS = (
    "(device LowCardinality(String), measured_at DateTime64(3, 'UTC'), value Float64, seq UInt64, extra UInt8"
    " DEFAULT 9) ENGINE = MergeTree ORDER BY (device, measured_at) PARTITION BY toYYYYMM(measured_at)"
    " SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1"
)
COLUMNS = "(device, measured_at, value, seq)"
STRUCTURE = "device LowCardinality(String), measured_at DateTime64(3, \\'UTC\\'), value Float64, seq UInt64"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with clickhouse(tmp_path_factory.mktemp("clickhouse") / "data") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with clickhouse_connect.get_client(host=HOST, port=server.port, compress=False) as connected:
        yield connected


class Answer:
    """One HTTP exchange; `status` 0 when the server closed before an answer."""

    def __init__(
        self,
        server: Server,
        body: bytes = b"",
        method: str = "POST",
        headers: Any = None,
        path: str = "/",
        **url: Any,
    ) -> None:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
        try:
            connection.request(method, f"{path}?{urlencode(url)}" if url else path, body, headers or {})
            response = connection.getresponse()
            self.status = response.status
            self.headers = response.headers
            self.body = response.read()
        finally:
            connection.close()

    @property
    def code(self) -> str | None:
        return self.headers["X-ClickHouse-Exception-Code"]


def ask(server: Server, body: str, **url: Any) -> str:
    answer = Answer(server, body.encode(), **url)
    assert answer.status == 200, answer.body
    return answer.body.decode()


def arrow(rows: int, device: str = "d1", first: int = 0) -> bytes:
    table = pa.table(
        {
            "device": pa.array([device] * rows).dictionary_encode(),
            "measured_at": pa.array([1_700_000_000_000 + i for i in range(rows)], pa.int64()),
            "value": pa.array([float(i) for i in range(rows)]),
            "seq": pa.array(range(first, first + rows), pa.uint64()),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


# --- clickhouse-connect


def test_queries_parameters_and_frames(client: Any) -> None:
    assert client.query("SELECT number, 'x' FROM numbers(2)").result_rows == [(0, "x"), (1, "x")]
    tricky = "a'b\\c\td\ne{f}"
    found = client.query("SELECT {n:UInt8} + 1, {s:String}", parameters={"n": 4, "s": tricky})
    assert found.result_rows == [(5, tricky)]
    assert client.query("SELECT {s:String}", parameters={"s": "x" * 20_000}).result_rows == [("x" * 20_000,)]
    assert client.query_arrow("SELECT toUInt8(1) AS a").column("a").to_pylist() == [1]
    assert client.query("SELECT 1 AS a WHERE 0").result_rows == []
    assert client.query("SELECT number AS n FROM numbers(9) LIMIT 0").column_names == ("n",)
    pytest.importorskip("pandas")
    assert client.query_df("SELECT number AS n FROM numbers(3)")["n"].tolist() == [0, 1, 2]


def test_inserts_of_every_kind(client: Any) -> None:
    client.command("CREATE TABLE kinds (a UInt64, b String DEFAULT 'none') ENGINE = MergeTree ORDER BY a")
    assert client.insert("kinds", [[1, "row"]], column_names=["a", "b"]).written_rows == 1
    client.insert_arrow("kinds", pa.table({"a": pa.array([2], pa.uint64())}))
    client.raw_insert("kinds", ["a"], b'{"a": 3}\n{"a": 4, "c": 5}\n', fmt="JSONEachRow")
    client.raw_insert("kinds", ["a", "b"], iter([b"5,f", b"ive\n"]), fmt="CSV")
    client.raw_insert("kinds", ["a"], gzip.compress(b"6\n"), fmt="TSV", compression="gzip")
    client.command("INSERT INTO kinds VALUES (7, concat('se', 'ven')), ({x:UInt8}, 'p')", parameters={"x": 8})
    rows = client.query("SELECT * FROM kinds ORDER BY a").result_rows
    none = "none"
    assert rows == [
        (1, "row"), (2, none), (3, none), (4, none), (5, "five"), (6, none), (7, "seven"), (8, "p"),
    ]  # fmt: skip


@pytest.mark.parametrize("compress", ["zstd", "lz4", "gzip"])
def test_compression_both_ways(server: Server, compress: str) -> None:
    with clickhouse_connect.get_client(host=HOST, port=server.port, compress=compress) as client:
        rows = client.query("SELECT number, toString(number) FROM numbers(200000)").result_columns
        assert rows[0][-1] == 199_999
        client.command("CREATE OR REPLACE TABLE packed (a UInt64) ENGINE = MergeTree ORDER BY a")
        client.insert("packed", [[i] for i in range(100_000)], column_names=["a"])
        assert client.command("SELECT sum(a) FROM packed") == sum(range(100_000))
        with client.query_row_block_stream("SELECT number FROM numbers(300000)") as stream:
            assert sum(len(block) for block in stream) == 300_000


def test_raw_stream_and_a_stream_that_fails_late(client: Any) -> None:
    with client.raw_stream("SELECT number FROM numbers(200000)", fmt="TSV") as stream:
        assert stream.read().count(b"\n") == 200_000
    failing = "SELECT throwIf(number = 900000), randomPrintableASCII(9) FROM numbers(1000000)"
    with pytest.raises(ClickHouseError, match="FUNCTION_THROW_IF"):
        client.query(failing)
    with pytest.raises(ClickHouseError, match="Code: 395"), client.query_row_block_stream(failing) as blocks:
        for _ in blocks:
            pass


def test_one_query_id_can_be_used_again_at_once(client: Any) -> None:
    for _ in range(100):
        assert client.command("SELECT 1", settings={"query_id": "again"}) == 1


def test_a_session_keeps_its_settings(client: Any, server: Server) -> None:
    client.command("SET max_threads = 1")
    assert client.command("SELECT getSetting('max_threads')") == 1
    ask(server, "SET max_block_size = 7")
    assert ask(server, "SELECT getSetting('max_block_size')") != "7\n"
    client.command("CREATE DATABASE IF NOT EXISTS other")
    client.command("USE other")
    assert client.command("SELECT currentDatabase()") == "other"


# --- the HTTP interface itself


def test_health_and_unknown_paths(server: Server) -> None:
    for path in ("/", "/ping"):
        assert Answer(server, method="GET", path=path).body == b"Ok.\n"
    assert Answer(server, method="GET", path="/nope").status == 404


def test_headers_formats_and_settings(server: Server) -> None:
    answer = Answer(server, b"SELECT 1 AS a", default_format="JSON", query_id="my id")
    assert json.loads(answer.body)["data"] == [{"a": 1}]
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert answer.headers["X-ClickHouse-Query-Id"] == "my id"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    assert Answer(server, b"SELECT 1", headers={"X-ClickHouse-Format": "CSVWithNames"}).body == b'"1"\n1\n'
    assert ask(server, "SELECT getSetting('max_threads')", max_threads=3) == "3\n"
    assert ask(server, "SELECT getSetting('max_threads') SETTINGS max_threads = 5", max_threads=3) == "5\n"
    assert ask(server, " FROM numbers(2)", query="SELECT number") == "0\n1\n"
    assert ask(server, "SELECT currentDatabase()", database="system") == "system\n"
    assert Answer(server, method="GET", query="SELECT 2 SETTINGS max_threads = 1").body == b"2\n"
    assert ask(server, "SELECT version() != '', revision(), timezone() != ''") == "1\t0\t1\n"
    totals = "SELECT number % 2 AS k, count() FROM numbers(4) GROUP BY k WITH TOTALS ORDER BY k"
    assert ask(server, totals) == "0\t2\n1\t2\n\n0\t4\n"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("SELECT nope", 404, "47"),
        ("SELECT * FROM nope", 404, "60"),
        ("SELEC", 400, "62"),
        ("", 400, "62"),
        ("SELECT 1; SELECT 2", 400, "62"),
        ("SELECT throwIf(1)", 500, "395"),
        ("SELECT 1 INTO OUTFILE '/nowhere'", 500, "344"),
        ("CREATE TEMPORARY TABLE t (a Int8)", 501, "48"),
        ("INSERT INTO nope FORMAT CSV\n1", 404, "60"),
        ('INSERT INTO FUNCTION null(\'a UInt8\') FORMAT JSONEachRow\n{"a": "x"}', 400, None),
    ],
)
def test_errors_have_the_engines_code_and_text(server: Server, query: str, status: int, code: str | None) -> None:
    answer = Answer(server, query.encode())
    assert answer.status == status, answer.body
    assert code is None or answer.code == code
    text = answer.body.decode()
    assert text.startswith(f"Code: {answer.code}. DB::Exception: ")
    assert "Traceback" not in text
    assert "http_spill" not in text


def test_errors_of_the_request(server: Server) -> None:
    assert Answer(server, b"SELECT 1", nope="1").code == "115"
    assert Answer(server, b"SELECT 1", database="nope").code == "81"
    assert Answer(server, b"SELECT {a:UInt8}").code == "456"
    assert Answer(server, method="GET", query="CREATE TABLE t (a Int8) ENGINE = Memory").code == "164"
    assert Answer(server, b"no gzip", headers={"Content-Encoding": "gzip"}).code == "354"
    assert Answer(server, b"SELECT 1", headers={"Origin": "https://evil.example"}).status == 403
    binary = Answer(server, b"INSERT INTO FUNCTION null('a UInt8') FORMAT JSONEachRow\n\xff\xfe\x00")
    assert binary.status != 200
    assert binary.body.startswith(b"Code: ")


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress), ("lz4", lz4.frame.compress)]
)
def test_bodies_in_content_codings(server: Server, coding: str, pack: Any) -> None:
    ask(server, f"CREATE TABLE coded_{coding} (a UInt64) ENGINE = MergeTree ORDER BY a")
    rows = "".join(f"{i}\n" for i in range(50_000))
    packed = pack(f"INSERT INTO coded_{coding} FORMAT TSV\n{rows}".encode())
    assert Answer(server, packed, headers={"Content-Encoding": coding}).status == 200
    assert ask(server, f"SELECT count(), sum(a) FROM coded_{coding}") == f"50000\t{sum(range(50_000))}\n"
    asked = Answer(server, b"SELECT 1 FORMAT JSON", headers={"Accept-Encoding": coding}, enable_http_compression=1)
    assert asked.headers["Content-Encoding"] == coding


# --- frames: compress=1 and decompress=1


def plain(frames: bytes) -> bytes:
    decoder = FrameDecoder(Room())
    found = b"".join(decoder.feed(frames))
    decoder.end()
    return found


def test_the_engines_own_frames_are_read(server: Server) -> None:
    """A column's file in a part is the same frames; the engine has written these."""
    columns = "a UInt64 CODEC(LZ4), b UInt64 CODEC(ZSTD(1)), c UInt64 CODEC(NONE)"
    wide = "ENGINE = MergeTree ORDER BY tuple() SETTINGS min_bytes_for_wide_part = 0"
    ask(server, f"CREATE TABLE frames ({columns}) {wide}")
    ask(server, "INSERT INTO frames SELECT number, number, number FROM numbers(300000)")
    written = struct.pack("<300000Q", *range(300_000))
    part = Path(ask(server, "SELECT path FROM system.parts WHERE table = 'frames' AND active").rstrip("\n"))
    for name, method in (("a", 0x82), ("b", 0x90), ("c", 0x02)):
        packed = (part / f"{name}.bin").read_bytes()
        assert packed[16] == method
        assert plain(packed) == written


def test_frames_both_ways(server: Server) -> None:
    ask(server, "CREATE TABLE framed (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    rows = "".join(f"{i}\tx\n" for i in range(400_000)).encode()
    query = "INSERT INTO framed FORMAT TSV"
    assert Answer(server, FrameCompressor().compress(rows), query=query, decompress=1).status == 200
    whole = FrameCompressor().compress(f"{query}\n400000\ty\n".encode())
    assert Answer(server, gzip.compress(whole), headers={"Content-Encoding": "gzip"}, decompress=1).status == 200
    asked = {"compress": 1, "enable_http_compression": 1, "headers": {"Accept-Encoding": "gzip"}}
    streamed = Answer(server, b"SELECT * FROM framed ORDER BY a FORMAT TSV", **asked)
    assert "Content-Encoding" not in streamed.headers
    assert plain(streamed.body) == rows + b"400000\ty\n"
    assert json.loads(plain(Answer(server, b"SELECT 1 AS a FORMAT JSON", **asked).body))["data"] == [{"a": 1}]
    assert Answer(server, b"SELECT 1 WHERE 0 FORMAT TSV", **asked).body == b""


def test_errors_come_in_frames_too_and_a_broken_frame_inserts_nothing(server: Server) -> None:
    refused = Answer(server, b"SELECT nope", compress=1)
    assert (refused.status, refused.code) == (404, "47")
    assert plain(refused.body).startswith(b"Code: 47. DB::Exception: ")
    assert plain(refused.body) in refused.body
    with pytest.raises(http.client.IncompleteRead) as cut:
        Answer(server, b"SELECT throwIf(number = 900000), number FROM numbers(1000000) FORMAT TSV", compress=1)
    assert b"__exception__" in plain(cut.value.partial)
    ask(server, "CREATE TABLE unharmed (a UInt64) ENGINE = MergeTree ORDER BY a")
    packed = FrameCompressor().compress(b"1\n" * 100_000)
    for body, code in ((packed + packed[:-1] + b"x", "40"), (packed + packed[:-1], "33"), (b"1\n" * 99, "271")):
        refused = Answer(server, body, query="INSERT INTO unharmed FORMAT TSV", decompress=1)
        assert (refused.status, refused.code) == (500, code), refused.body
    assert ask(server, "SELECT count() FROM unharmed") == "0\n"


def test_a_head_without_end_is_refused(server: Server) -> None:
    with socket.create_connection((HOST, server.port), timeout=30) as raw:
        raw.sendall(b"GET /?query=")
        refused = b""
        try:
            for _ in range(64):
                raw.sendall(b"x" * 65_536)
            refused = raw.recv(100)
        except ConnectionError:
            return
    assert b"400" in refused


# --- inserts with ClickHouse's semantics


def test_materialized_views_fire(server: Server) -> None:
    ask(server, "CREATE TABLE source (a UInt64) ENGINE = MergeTree ORDER BY a")
    ask(server, "CREATE TABLE target (a UInt64) ENGINE = MergeTree ORDER BY a")
    ask(server, "CREATE MATERIALIZED VIEW mv TO target AS SELECT a * 2 AS a FROM source")
    ask(server, "1\n2\n", query="INSERT INTO source FORMAT TSV")
    ask(server, "INSERT INTO source VALUES (3)")
    assert ask(server, "SELECT a FROM target ORDER BY a") == "2\n4\n6\n"


def test_one_block_is_one_part_and_tokens_deduplicate(server: Server) -> None:
    ask(server, f"CREATE TABLE blocks {READINGS}")
    body = arrow(100_000)
    for token in ("t1", "t1", "t2"):
        query = f"INSERT INTO blocks {COLUMNS} FORMAT ArrowStream"
        assert Answer(server, body, query=query, insert_deduplication_token=token).status == 200
    assert ask(server, "SELECT count(), any(extra) FROM blocks") == "200000\t9\n"
    assert ask(server, "SELECT rows FROM system.parts WHERE table = 'blocks'") == "100000\n100000\n"


def test_input_with_a_fence(server: Server) -> None:
    ask(server, f"CREATE TABLE fenced {READINGS}")
    ask(
        server,
        "CREATE TABLE fences (partition UInt32, fence UInt64, worker String) ENGINE = MergeTree ORDER BY fence",
    )
    ask(server, "INSERT INTO fences VALUES (0, 1, 'old')")

    def insert(worker: str, token: str) -> Answer:
        query = (
            f"INSERT INTO fenced {COLUMNS} SETTINGS insert_deduplication_token = '{token}', async_insert = 0"
            f" SELECT device, measured_at, value, seq FROM input('{STRUCTURE}') WHERE NOT throwIf("
            f"(SELECT argMax(worker, fence) FROM fences WHERE partition = 0) != '{worker}', 'fenced')"
            " FORMAT ArrowStream"
        )
        return Answer(server, arrow(100_000), query=query)

    assert insert("old", "a").status == 200
    assert insert("old", "a").status == 200
    ask(server, "INSERT INTO fences VALUES (0, 2, 'new')")
    refused = insert("old", "b")
    assert refused.code == "395"
    assert b"fenced" in refused.body
    assert insert("new", "b").status == 200
    assert ask(server, "SELECT count() FROM fenced") == "200000\n"
    assert ask(server, "SELECT rows FROM system.parts WHERE table = 'fenced'") == "100000\n100000\n"


@pytest.mark.parametrize("size", [50_000_000, 150_000_000], ids=["in memory", "on disk"])
def test_a_large_body_and_nothing_left_behind(server: Server, size: int) -> None:
    ask(server, "CREATE OR REPLACE TABLE large (s String) ENGINE = MergeTree ORDER BY tuple()")
    count = size // 1000
    rows = b"".join(b"%0999d\n" % i for i in range(count))
    assert Answer(server, rows, query="INSERT INTO large FORMAT LineAsString").status == 200
    assert ask(server, "SELECT count(), sum(toUInt64(s)) FROM large") == f"{count}\t{sum(range(count))}\n"
    assert list((server.path / "http_spill").iterdir()) == []


@pytest.mark.parametrize("coded", [False, True])
def test_a_body_whose_length_is_not_known_in_advance(server: Server, coded: bool) -> None:
    ask(server, "CREATE OR REPLACE TABLE pieces (a UInt64) ENGINE = MergeTree ORDER BY a")
    rows = "".join(f"{i}\n" for i in range(200_000)).encode()
    sent = gzip.compress(rows) if coded else rows
    pieces: Any = (sent[at : at + 50_000] for at in range(0, len(sent), 50_000))
    headers = {"Content-Encoding": "gzip"} if coded else {}
    assert Answer(server, pieces, query="INSERT INTO pieces FORMAT TSV", headers=headers).status == 200
    assert ask(server, "SELECT count(), sum(a) FROM pieces") == f"200000\t{sum(range(200_000))}\n"


@pytest.mark.parametrize("blanks", ["\n", " ;\r\n", "\t \n"])
@pytest.mark.parametrize("size", [1, 2, 3, 70_000, 300_000])
def test_a_statement_before_its_data_in_one_body(server: Server, size: int, blanks: str) -> None:
    ask(server, "CREATE OR REPLACE TABLE behind (s String) ENGINE = MergeTree ORDER BY tuple()")
    body = f"/* FORMAT */ INSERT INTO behind FORMAT RawBLOB{blanks}".encode() + b"\n" * size
    with socket.create_connection((HOST, server.port), timeout=30) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, 600, 60):
            raw.sendall(body[at : at + 60])
        raw.sendall(body[600:])
        assert b" 200 " in raw.recv(100)
    assert ask(server, "SELECT length(s), replaceAll(s, '\\n', '') FROM behind") == f"{size}\t\n"


def test_inserts_at_the_same_time_keep_their_data_apart(server: Server) -> None:
    ask(server, "CREATE OR REPLACE TABLE apart (s String) ENGINE = MergeTree ORDER BY tuple()")
    lengths = (900_000, 1_000, 700_000, 70_000, 1_000_000, 10)
    letters = "ABCDEFGH"

    def insert(letter: str) -> list[int]:
        query = "INSERT INTO apart FORMAT RawBLOB"
        return [Answer(server, letter.encode() * length, query=query).status for length in lengths]

    with ThreadPoolExecutor(len(letters)) as threads:
        assert set(chain(*threads.map(insert, letters))) == {200}
    mixed = ask(server, "SELECT count() FROM apart WHERE replaceAll(s, substring(s, 1, 1), '') != ''")
    found = ask(
        server, "SELECT substring(s, 1, 1) AS letter, sum(length(s)) FROM apart GROUP BY letter ORDER BY letter"
    )
    assert mixed == "0\n"
    assert found == "".join(f"{letter}\t{sum(lengths)}\n" for letter in letters)


def test_a_client_that_leaves_in_mid_body_inserts_nothing(server: Server) -> None:
    ask(server, "CREATE TABLE cut (a UInt64) ENGINE = MergeTree ORDER BY a")
    head = b"POST /?query=INSERT+INTO+cut+FORMAT+TSV HTTP/1.1\r\nHost: a\r\nContent-Length: 300000000\r\n\r\n"
    spill = server.path / "http_spill"
    with socket.create_connection((HOST, server.port), timeout=30) as raw:
        raw.sendall(head + b"1\n" * 1_000_000)
        wait_until(lambda: any(file.stat().st_size for file in spill.iterdir()), "the data arrives")
    wait_until(lambda: not list(spill.iterdir()), "the data is forgotten")
    assert ask(server, "SELECT count() FROM cut") == "0\n"


def test_a_client_that_leaves_while_its_data_is_in_memory_inserts_nothing(server: Server) -> None:
    """Nor do its rows turn up in the insert that gets its memory next."""
    ask(server, "CREATE TABLE left (a UInt64) ENGINE = MergeTree ORDER BY a")
    head = b"POST /?query=INSERT+INTO+left+FORMAT+TSV HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    for _ in range(5):
        with socket.create_connection((HOST, server.port), timeout=30) as raw:
            raw.sendall(head + b"Content-Length: 1500000\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 100"), "the server asks for the body"
            raw.sendall(b"1\n" * 700_000)
            wait_until(lambda: unread(raw) == 0, "the data has arrived")
        assert Answer(server, b"2\n" * 600_000, query="INSERT INTO left FORMAT TSV").status == 200
    assert ask(server, "SELECT a, count() FROM left GROUP BY a") == "2\t3000000\n"


def unread(raw: socket.socket) -> int:
    """Bytes that the other end's kernel has not taken yet."""
    return int.from_bytes(fcntl.ioctl(raw, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


# --- concurrency and cancellation


def running(server: Server, tag: str) -> bool:
    of_tag = f"query LIKE '%/* {tag} */%' AND query NOT LIKE '%processes%'"
    return ask(server, f"SELECT count() FROM system.processes WHERE {of_tag}") != "0\n"


class Slow:
    """A query that takes minutes, in a thread."""

    def __init__(self, server: Server, tag: str, **url: Any) -> None:
        self.answers: list[Answer] = []

        def work() -> None:
            self.answers.append(Answer(server, f"/* {tag} */ {SLOW}".encode(), **url))

        self._thread = threading.Thread(target=work)
        self._thread.start()
        wait_until(lambda: running(server, tag), "the slow query runs")

    def answer(self) -> Answer:
        self._thread.join(30)
        return self.answers[0]


def test_inserts_go_on_beside_a_slow_query_and_kill_ends_it(server: Server) -> None:
    ask(server, "CREATE TABLE beside (a UInt64) ENGINE = MergeTree ORDER BY a")
    slow = Slow(server, "tag-a", query_id="slow-a")
    for number in range(5):
        ask(server, f"INSERT INTO beside VALUES ({number})")
    assert ask(server, "SELECT count() FROM beside") == "5\n"
    assert Answer(server, b"SELECT 1", query_id="slow-a").code == "216"
    assert ask(server, "KILL QUERY WHERE query_id = 'slow-a' SYNC").startswith("finished")
    assert slow.answer().code == "394"
    tagged = Slow(server, "tag-b")
    ask(server, "KILL QUERY WHERE query LIKE '%/* tag-b */%' AND query NOT LIKE 'KILL%'")
    assert tagged.answer().code == "394"


def test_a_query_whose_client_is_gone_is_cancelled(server: Server) -> None:
    with socket.create_connection((HOST, server.port), timeout=30) as raw:
        query = f"/* tag-c */ {SLOW}".encode()
        raw.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(query) + query)
        wait_until(lambda: running(server, "tag-c"), "the slow query runs")
    wait_until(lambda: not running(server, "tag-c"), "the slow query is cancelled")


# --- life and death of the process


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    options = ("--user", "writer", "--password-file", str(secret))
    with clickhouse(tmp_path / "data", *options) as server:
        assert Answer(server, method="GET", path="/ping").status == 200
        for wrong in ({}, {"user": "writer", "password": "no"}, {"user": "other", "password": "s3cret"}):
            answer = Answer(server, b"SELECT 1", **wrong)
            assert (answer.status, answer.code) == (403, "516")
        assert ask(server, "SELECT 1", user="writer", password="s3cret") == "1\n"
        url = {"host": HOST, "port": server.port, "username": "writer"}
        with clickhouse_connect.get_client(**url, password="s3cret") as client:
            assert client.command("SELECT 1") == 1
        with pytest.raises(ClickHouseError, match="516"):
            clickhouse_connect.get_client(**url, password="wrong")


def refused(*arguments: str) -> str:
    command = [sys.executable, "-m", "ingest.clickhouse.server", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_what_a_second_server_is_told(server: Server, tmp_path: Path) -> None:
    assert "another --path" in refused("--path", str(server.path), "--port", "0")
    assert "another --port" in refused("--path", str(tmp_path / "new"), "--port", str(server.port))
    (tmp_path / "file").write_text("")
    assert "Cannot write" in refused("--path", str(tmp_path / "file" / "data"), "--port", "0")
    assert "must not contain" in refused("--path", str(tmp_path / "a*b"), "--port", "0")


def test_a_definition_that_a_full_disk_has_emptied_is_named(tmp_path: Path) -> None:
    with clickhouse(tmp_path / "data") as server:
        ask(server, "CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
        server.stop()
        (definition,) = server.path.glob("store/*/*/t.sql")
        text = definition.read_bytes()
        definition.write_bytes(b"")
        command = [sys.executable, "-m", "ingest.clickhouse.server", "--path", str(server.path), "--port", "0"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert f"the definition {definition} is empty" in done.stderr
        definition.write_bytes(text)
        server.start()
        assert ask(server, "SELECT count() FROM t") == "0\n"


def test_a_kill_loses_no_answered_insert_and_no_token(tmp_path: Path) -> None:
    with clickhouse(tmp_path / "data") as server:
        ask(server, f"CREATE TABLE kept {READINGS}")
        answered = 0
        insert = {"query": f"INSERT INTO kept {COLUMNS} FORMAT ArrowStream"}
        stop = threading.Event()

        def work() -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    body = arrow(1000, first=answered * 1000)
                    answer = Answer(server, body, insert_deduplication_token=f"t{answered}", **insert)
                except (OSError, http.client.HTTPException):
                    return
                assert answer.status == 200
                answered += 1

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: answered >= 5, "five inserts are answered")
        server.kill()
        stop.set()
        thread.join()
        (server.path / "http_spill" / "left.data").write_bytes(b"x")
        server.restart()
        assert list((server.path / "http_spill").iterdir()) == []
        found = int(ask(server, "SELECT count() FROM kept"))
        assert found in {answered * 1000, answered * 1000 + 1000}
        for number in range(answered):  # sent again after the crash: the tokens are remembered
            body = arrow(1000, first=number * 1000)
            assert Answer(server, body, insert_deduplication_token=f"t{number}", **insert).status == 200
        assert int(ask(server, "SELECT count() FROM kept")) == found
        assert server.stop() == 0
        server.start()
        assert int(ask(server, "SELECT count() FROM kept")) == found


def test_sigterm_ends_a_slow_query_and_exits_with_0(tmp_path: Path) -> None:
    with clickhouse(tmp_path / "data") as server:
        slow = Slow(server, "tag-d")
        assert server.stop() == 0
        assert slow.answer().code in {"394", "236"}


def test_it_says_where_it_listens_and_stops_on_sigint(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "ingest.clickhouse.server", "--path", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith(f"listens on http://{HOST}:{port}, data in {tmp_path}\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors == ""


def test_the_engines_memory_is_bounded(tmp_path: Path) -> None:
    with clickhouse(tmp_path / "data", "--memory-bytes-max", str(600 * 1024**2)) as server:
        answer = Answer(server, b"SELECT groupArray(number) FROM numbers(500000000)")
        assert answer.code == "241"
        assert ask(server, "SELECT 1") == "1\n"
