"""A request's head, sessions and answers, as ClickHouse's HTTP interface has them."""

import base64

import pytest

from ingest.clickhouse.reply import content_type, exception_block, status_of, streams
from ingest.clickhouse.request import Credentials, from_foreign_page, parse, url_parameters
from ingest.clickhouse.sessions import SESSIONS_MAX, STATEMENTS_MAX, Sessions
from ingest.clickhouse.statement import StatementError


def test_parameters_are_told_from_settings() -> None:
    found = parse(
        "POST",
        "/",
        b"query=SELECT+%7Bx:Int8%7D&param_x=4&database=d&max_threads=2&query_id=q&enable_http_compression=1"
        b"&default_format=JSON&wait_end_of_query=1&session_id=s&session_timeout=9&compress=1&decompress=0"
        b"&client_protocol_version=54460",
        {"accept-encoding": "gzip, zstd"},
    )
    assert found.query == b"SELECT {x:Int8}"
    assert found.params == {"x": "4"}
    assert found.settings == {"max_threads": "2"}
    assert (found.database, found.query_id, found.default_format) == ("d", "q", "JSON")
    assert found.wait_end_of_query
    assert (found.session_id, found.session_timeout_s) == ("s", 9.0)
    assert found.accept_encoding == "gzip, zstd"
    assert not found.readonly
    assert (found.framed_answer, found.framed_body, found.protocol_revision) == (True, False, 54460)
    assert parse("POST", "/", b"client_protocol_version=x", {}).protocol_revision == 0


def test_compression_is_used_only_when_the_client_enables_it() -> None:
    assert parse("GET", "/", b"query=a", {"accept-encoding": "gzip"}).accept_encoding == ""


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (b"user=u&password=p%20w", {}),
        (b"", {"x-clickhouse-user": "u", "x-clickhouse-key": "p w"}),
        (b"", {"authorization": "Basic " + base64.b64encode(b"u:p w").decode()}),
    ],
)
def test_credentials_come_in_three_ways(query: bytes, headers: dict[str, str]) -> None:
    assert parse("GET", "/", query, headers).credentials == Credentials("u", "p w")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"a;b=1", 115),
        (b"query_id=%00", 36),
        (b"session_timeout=x", 374),
    ],
)
def test_what_is_refused(query: bytes, code: int) -> None:
    with pytest.raises(StatementError) as refused:
        parse("POST", "/", query, {})
    assert refused.value.code == code


def test_broken_credentials_are_nobodys() -> None:
    found = parse("GET", "/", b"", {"authorization": "Basic a"})
    assert found.credentials != Credentials("u", "p")


def test_other_sites_pages_are_recognised() -> None:
    assert from_foreign_page({"origin": "https://evil.example", "host": "127.0.0.1:8123"})
    assert not from_foreign_page({"origin": "http://127.0.0.1:8123", "host": "127.0.0.1:8123"})
    assert not from_foreign_page({"host": "127.0.0.1:8123"})


def test_bytes_that_are_no_text_survive_in_the_query() -> None:
    assert url_parameters(b"query=%ff")["query"].encode(errors="surrogateescape") == b"\xff"


def test_status_and_type_follow_clickhouse() -> None:
    assert [status_of(code) for code in (62, 60, 516, 164, 48, 159, 1001)] == [
        400,
        404,
        403,
        500,
        501,
        408,
        500,
    ]
    assert content_type("CSVWithNames") == "text/csv; charset=UTF-8; header=present"
    assert content_type("JSON") == "application/json; charset=UTF-8"
    assert content_type("TSV").startswith("text/tab-separated-values")
    assert content_type("Native") == "application/octet-stream"
    assert content_type("Pretty") == "text/plain; charset=UTF-8"


def test_only_joinable_formats_are_streamed() -> None:
    words = frozenset({b"SELECT"})
    assert streams(b"SELECT", words, "Native", "TSV")
    assert streams(b"SELECT", words, None, "TSV")
    assert not streams(b"SELECT", words, "JSON", "TSV")
    assert not streams(b"SELECT", words | {b"TOTALS"}, "Native", "TSV")
    assert not streams(b"SELECT", words | {b"FORMAT"}, None, "TSV")
    assert not streams(b"WITH", words | {b"INSERT"}, "Native", "TSV")
    assert not streams(b"SHOW", words, "TSV", "TSV")


def test_the_end_of_a_failed_stream_states_its_length() -> None:
    assert exception_block("tag", "Code: 1") == b"__exception__\r\ntag\r\nCode: 1\n8 tag\r\n__exception__\r\n"


def test_a_session_keeps_its_statements_until_it_times_out() -> None:
    sessions = Sessions()
    assert sessions.use("s", 10.0, 0.0) == ()
    sessions.learn("s", "SET a = 1", 10.0, 1.0)
    sessions.learn("s", "SET a = 2", 10.0, 1.0)
    sessions.learn("s", "SET a = 1", 10.0, 2.0)
    assert sessions.use("s", 10.0, 5.0) == ("SET a = 2", "SET a = 1")
    assert sessions.use("s", 10.0, 14.9) == ("SET a = 2", "SET a = 1")
    assert sessions.use("s", 10.0, 24.9) == ()
    assert sessions.use("s", 10.0, 5.0) == ()


def test_sessions_are_bounded() -> None:
    sessions = Sessions()
    for number in range(SESSIONS_MAX + 2):
        sessions.learn(str(number), "SET a = 1", 1000.0, 0.0)
    assert sessions.use("1", 1000.0, 0.0) == ()
    assert sessions.use("2", 1000.0, 0.0) == ("SET a = 1",)
    for number in range(STATEMENTS_MAX):
        sessions.learn("s", f"SET a = {number}", 1000.0, 0.0)
    with pytest.raises(StatementError, match="Begin another"):
        sessions.learn("s", "SET b = 1", 1000.0, 0.0)
