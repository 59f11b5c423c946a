"""Where an INSERT's data begins, which format a query names, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clickhouse.hello import asks_hello
from ingest.clickhouse.statement import (
    Insert,
    Statement,
    StatementError,
    keyword,
    parse,
    with_own_ids,
    with_own_revision,
)

FENCED = (
    b"INSERT INTO t (a) SETTINGS s=1 SELECT a FROM input('a Int8, b DateTime64(3, \\'UTC\\')') "
    b"WHERE NOT throwIf((SELECT max(x) FROM f) != 'b)', 'no') FORMAT ArrowStream\nbytes"
)
FENCED_FROM_FILE = (
    b"INSERT INTO t (a) SETTINGS s=1 SELECT a FROM file('/f', 'ArrowStream', "
    b"'a Int8, b DateTime64(3, \\'UTC\\')') WHERE NOT throwIf((SELECT max(x) FROM f) != 'b)', 'no') "
)


@pytest.mark.parametrize(
    ("text", "format_name", "data", "rewritten"),
    [
        (
            b"INSERT INTO t FORMAT CSV\n1,2",
            "CSV",
            b"1,2",
            b"INSERT INTO t  FROM INFILE '/f' \nFORMAT CSV",
        ),
        (
            b"insert into d.t (a, format) settings x=1, y='FORMAT Z' format JSONEachRow\r\n{}",
            "JSONEachRow",
            b"{}",
            b"insert into d.t (a, format)  FROM INFILE '/f' settings x=1, y='FORMAT Z' \nFORMAT JSONEachRow",
        ),
        (
            b"/* FORMAT A */ INSERT INTO `values` VALUES (1, 'FORMAT B')",
            "Values",
            b" (1, 'FORMAT B')",
            b"/* FORMAT A */ INSERT INTO `values`  FROM INFILE '/f' \nFORMAT Values",
        ),
        (b"INSERT INTO values FORMAT TSV ;\n a", "TSV", b" a", None),
        (b"INSERT INTO FUNCTION null('a Int8') FORMAT Native\n\x01\n", "Native", b"\x01\n", None),
        (FENCED, "ArrowStream", b"bytes", FENCED_FROM_FILE),
        (b"INSERT INTO t SELECT format, 2 * format FROM input('format Int8') FORMAT CSV", "CSV", b"", None),
    ],
)
def test_an_inserts_data_is_found(text: bytes, format_name: str, data: bytes, rewritten: bytes | None) -> None:
    found = parse(text)
    assert isinstance(found, Insert)
    assert found.format == format_name
    assert text[found.data_at :] == data
    if rewritten is not None:
        assert found.from_file("/f") == rewritten


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"select * from t order by x desc format json;", "json"),
        (b"SELECT 'a' FORMAT CSV SETTINGS max_threads=1", "CSV"),
        (b"SELECT format FROM t", None),
        (b"SELECT a, format FROM t WHERE format = 1", None),
        (b"SELECT (SELECT 1 FORMAT x)", None),
        (b"SHOW TABLES FORMAT TSV -- FORMAT CSV", "TSV"),
        (b"SELECT $tag$ FORMAT CSV $tag$ FORMAT Native", "Native"),
        (b"INSERT INTO t SELECT 1", None),
        (b"INSERT INTO t SELECT 1 FORMAT Null", "Null"),
    ],
)
def test_a_querys_format_is_found(text: bytes, named: str | None) -> None:
    found = parse(text)
    assert isinstance(found, Statement)
    assert found.format == named


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"SELECT 1; SELECT 2", 62),
        (b"SELECT 1 INTO OUTFILE '/x'", 344),
        (b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 344),
        (b"CREATE TEMPORARY TABLE t (a Int8)", 48),
        (b"INSERT INTO t SELECT a FROM input() FORMAT CSV", 42),
    ],
)
def test_what_http_refuses(text: bytes, code: int) -> None:
    with pytest.raises(StatementError) as refused:
        parse(text)
    assert refused.value.code == code


def test_the_keyword_comes_after_comments_and_brackets() -> None:
    assert keyword(b"-- a\n/* b */ ((select 1))") == b"SELECT"
    assert keyword(b" \n") == b""


def test_a_kill_goes_by_the_clients_ids() -> None:
    assert (
        with_own_ids(b"KILL QUERY WHERE query_id IN ('query_id') OR `query_id` = 'b'")
        == b"KILL QUERY WHERE Settings['log_comment'] IN ('query_id') OR Settings['log_comment'] = 'b'"
    )


def test_the_revision_is_0() -> None:
    text = b"SELECT displayName(), revision ( ), 'revision()', revision FROM t"
    assert with_own_revision(text) == b"SELECT displayName(), toUInt32(0), 'revision()', revision FROM t"


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(text: bytes) -> None:
    try:
        parse(text)
    except StatementError:
        return


@given(st.binary(max_size=100), st.text(max_size=30))
def test_any_data_stays_as_it_is(data: bytes, value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    head = f"INSERT INTO t (a) SETTINGS s='{quoted}' FORMAT Native\n".encode(errors="replace")
    found = parse(head + data)
    assert isinstance(found, Insert)
    assert found.data_at == len(head)


def test_the_hello_of_a_client_in_go() -> None:
    asked = b"SELECT displayName(), version(), revision(), timezone()"
    assert asks_hello(asked, 54460, "Native")
    assert asks_hello(b"select displayName(),version(),revision(),timezone()", 54454, "Native")
    for text, revision, name in ((asked, 54405, "Native"), (asked, 54460, "JSON"), (asked + b", 1", 54460, "Native")):
        assert not asks_hello(text, revision, name)
