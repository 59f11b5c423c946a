"""The ClickHouse URL, and errors as sentences."""

import ssl
from urllib.parse import quote

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, ProgrammingError
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import MaxRetryError, ProtocolError, ReadTimeoutError, SSLError

from ingest.clickhouse.address import address
from ingest.clickhouse.explain import clean, explain
from telemetry.errors import ConfigError


def test_defaults(monkeypatch):
    monkeypatch.delenv("CLICKHOUSE_URL", raising=False)
    where = address()
    assert (where.interface, where.host, where.port) == ("http", "127.0.0.1", 8123)
    assert (where.username, where.password, where.database) == (None, "", "fieldline")
    assert where.is_loopback
    assert address("https://db.example.org").port == 8443
    assert not address("https://db.example.org").is_loopback
    assert address("http://[::1]:9000").is_loopback
    assert address("http://[::1]:9000").shown == "http://[::1]:9000"


def test_the_environment_names_the_server(monkeypatch):
    monkeypatch.setenv("CLICKHOUSE_URL", "http://db:9/plant?ca_file=/ca.pem")
    where = address()
    assert (where.host, where.port, where.database, where.ca_file) == ("db", 9, "plant", "/ca.pem")
    assert address("http://other").host == "other"


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.text("abcxyz_", min_size=1, max_size=8))
def test_what_is_percent_encoded_comes_back_and_no_secret_is_shown(user, password, database):
    where = address(f"http://{quote(user, safe='')}:{quote(password, safe='')}@db:1/{database}")
    assert (where.username, where.password, where.database) == (user, password, database)
    assert where.shown == "http://db:1"
    assert "password" not in repr(where)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("db:8123", "must begin with http"),
        ("tcp://db:9000", "must begin with http"),
        ("http://:8123", "name a host"),
        ("http://db:port", "cannot be read"),
        ("http://db:99999", "cannot be read"),
        ("http://db?secure=1", "unknown option secure"),
    ],
)
def test_a_bad_url_is_a_sentence(url, said):
    with pytest.raises(ConfigError, match=said):
        address(url)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            "code: 47, response: Code: 47. DB::Exception: No x. (UNKNOWN_X) (version 2 (official))",
            "No x. (UNKNOWN_X)",
        ),
        ("Code: 60. DB::Exception: a\n  b (UNKNOWN_TABLE)", "a b (UNKNOWN_TABLE)"),
        ("Code: 6. DB::ParsingException: DB::Exception: bad\nStack trace:\n0. x", "bad"),
        ("no code here", "no code here"),
    ],
)
def test_clickhouse_messages_are_cleaned(raw, expected):
    assert clean(raw) == expected


def _because(cause: BaseException) -> OperationalError:
    error = OperationalError("Error executing HTTP request")
    error.__cause__ = MaxRetryError(None, "/", cause)
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DatabaseError("x", code=516), "refused the login of user ann"),
        (DatabaseError("x", code=81), "no database fieldline yet. Run `fieldline analytics migrate`"),
        (DatabaseError("Code: 497. DB::Exception: no", code=497), "no Grant the right"),
        (DatabaseError("Code: 60. DB::Exception: no such", code=60), "says: no such"),
        (
            _because(SSLError(ssl.SSLError(1, "self signed"))),
            r"TLS .*self signed.*ca_file",
        ),
        (_because(ReadTimeoutError(None, "/", "late")), "did not answer in time"),
        (
            _because(ProtocolError("gone", ConnectionResetError(104, "reset"))),
            "failed: reset",
        ),
        (DatabaseError("HTTP driver received HTTP status 404"), "is no ClickHouse.*404"),
        (ProgrammingError("Setting x is readonly"), "user ann: Setting x is readonly. Use another user"),
        (
            DatabaseError(
                "HTTP driver received HTTP status 404, server response: Code: 47, e.displayText() = DB::Exception:"
                " Unknown identifier: readonly, e.what() = DB::Exception (for url http://ch:8123)"
            ),  # what ClickHouse 18.16 says
            "asked first: Unknown identifier: readonly. It is too old for Fieldline; upgrade it",
        ),
    ],
)
def test_errors_are_sentences(error, said):
    sentence = str(explain(error, address("http://ann:s3cret@db")))
    assert "s3cret" not in sentence
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(sentence)
