"""An HTTP request's head as ClickHouse's HTTP interface reads it. Pure.

Reserved URL parameters (query, database, param_*, …) steer the request; every other one is a setting of this
one query. Credentials come by Basic authentication, by X-ClickHouse-User and -Key, or by URL parameters.
GET and HEAD imply `readonly=2`: no writes, settings may be changed.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from ingest.clickhouse.statement import StatementError

_RESERVED = frozenset(
    str.split(
        "query database default_format user password quota_key query_id session_id session_timeout"
        " session_check close_session compress decompress stacktrace role buffer_size wait_end_of_query"
        " client_protocol_version"
    )
)
# Settings of a server's HTTP layer. They are obeyed here or mean nothing here; the engine need not see them.
_HTTP_ONLY = frozenset(
    str.split(
        "enable_http_compression http_zlib_compression_level send_progress_in_http_headers"
        " http_headers_progress_interval_ms http_response_buffer_size http_wait_end_of_query"
        " cancel_http_readonly_queries_on_client_close add_http_cors_header log_comment"
    )
)
_NAME = re.compile(r"\w{1,128}", re.ASCII)
_QUERY_ID = re.compile(r"[\x20-\x7e]{1,256}")
SESSION_TIMEOUT_S_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client says it is."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One query as its request's head describes it; `query` is only the part in the URL."""

    method: str
    path: str
    query: bytes
    credentials: Credentials
    query_id: str | None
    database: str | None
    default_format: str | None
    session_id: str | None
    session_timeout_s: float
    settings: Mapping[str, str]
    params: Mapping[str, str]
    wait_end_of_query: bool
    content_type: str
    content_length: int | None
    content_encoding: str
    accept_encoding: str
    protocol_revision: int
    framed_body: bool
    framed_answer: bool

    @property
    def readonly(self) -> bool:
        return self.method in {"GET", "HEAD"}


def parse(method: str, path: str, url_query: bytes, headers: Mapping[str, str]) -> Request:
    """`headers` has lower-case names. Raises StatementError for what this server cannot do."""
    given = url_parameters(url_query)
    reserved = {name: value for name, value in given.items() if name in _RESERVED}
    settings = {
        name: value
        for name, value in given.items()
        if name not in _RESERVED and name not in _HTTP_ONLY and not name.startswith("param_")
    }
    _check_names(settings)
    compressed = _flag(given.get("enable_http_compression"))
    return Request(
        method=method,
        path=path,
        query=reserved.get("query", "").encode(errors="surrogateescape"),
        credentials=_credentials(headers, reserved),
        query_id=_query_id(reserved.get("query_id") or headers.get("x-clickhouse-query-id")),
        database=reserved.get("database") or headers.get("x-clickhouse-database") or None,
        default_format=headers.get("x-clickhouse-format") or reserved.get("default_format") or None,
        session_id=reserved.get("session_id") or None,
        session_timeout_s=_seconds(reserved.get("session_timeout")),
        settings=settings,
        params={name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")},
        wait_end_of_query=_flag(reserved.get("wait_end_of_query")) or _flag(given.get("http_wait_end_of_query")),
        content_type=headers.get("content-type", ""),
        content_length=int(length) if (length := headers.get("content-length", "")).isdecimal() else None,
        content_encoding=headers.get("content-encoding", "").strip().lower(),
        accept_encoding=headers.get("accept-encoding", "").lower() if compressed else "",
        protocol_revision=_number(reserved.get("client_protocol_version")),
        framed_body=_flag(reserved.get("decompress")),
        framed_answer=_flag(reserved.get("compress")),
    )


def url_parameters(url_query: bytes) -> dict[str, str]:
    """Decoded; the last one of a name counts. Bytes that are no UTF-8 survive as surrogates."""
    text = url_query.decode("latin-1")
    return dict(parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))


def from_foreign_page(headers: Mapping[str, str]) -> bool:
    """Was this sent by a web page of another site? A browser on this machine would send it for any page."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _credentials(headers: Mapping[str, str], reserved: Mapping[str, str]) -> Credentials:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded).decode(errors="surrogateescape").partition(":")
        except binascii.Error:
            user = password = ""
    elif "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        user, password = headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
    else:
        user, password = reserved.get("user", ""), reserved.get("password", "")
    return Credentials(_plain(user) or "default", _plain(password))


def _plain(text: str) -> str:
    return text.encode(errors="replace").decode()


def _check_names(settings: Mapping[str, str]) -> None:
    for name in settings:
        if not _NAME.fullmatch(name):
            raise StatementError(
                115, "UNKNOWN_SETTING", f"Setting {name!r} is neither a builtin setting nor a valid name"
            )


def _query_id(given: str | None) -> str | None:
    if not given:
        return None
    if not _QUERY_ID.fullmatch(given):
        raise StatementError(36, "BAD_ARGUMENTS", "query_id must be 1 to 256 printable ASCII characters")
    return given


def _flag(value: str | None) -> bool:
    return value is not None and value.lower() not in {"", "0", "false"}


def _number(value: str | None) -> int:
    return int(value) if value and re.fullmatch(r"\d{1,9}", value, re.ASCII) else 0


def _seconds(value: str | None) -> float:
    try:
        seconds = float(value) if value else 60.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= SESSION_TIMEOUT_S_MAX:
        raise StatementError(
            374,
            "INVALID_SESSION_TIMEOUT",
            f"session_timeout must be in (0, {SESSION_TIMEOUT_S_MAX:.0f}] s, got {value!r}",
        )
    return seconds
