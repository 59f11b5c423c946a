"""What an HTTP answer looks like: status by error code, headers, content types. Pure."""

import json
from collections.abc import Mapping

from ingest.clickhouse.engine import Answer

# ClickHouse's own mapping (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); everything else is 500.
_BAD_REQUEST = "6 8 15 25 26 27 36 37 38 41 44 53 62 72 117 123 167 168 223 321 376 427 441 675 676"
_STATUS = {
    400: tuple(map(int, _BAD_REQUEST.split())),
    401: (194,),
    403: (192, 193, 497, 512, 516),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511),
    408: (159,),
    411: (381,),
    413: (229,),
    415: (779,),
    501: (48,),
    503: (76, 209, 439),
}
_STATUS_BY_CODE = {code: status for status, codes in _STATUS.items() for code in codes}

# Formats of which the blocks of a result, each written on its own, make up the result.
_STREAMED = frozenset(
    str.split(
        "native rowbinary tabseparated tsv tabseparatedraw tsvraw raw csv jsoneachrow jsonlines ndjson"
        " jsoncompacteachrow jsonstringseachrow jsoncompactstringseachrow msgpack"
    )
)
_READS = frozenset({b"SELECT", b"WITH"})


_PLAIN = "text/plain; charset=UTF-8"
_BINARY = "native rowbinary arrow parquet orc avro msgpack npy bson protobuf capnproto"
_CONTENT_TYPES = [
    ("tabseparated", "text/tab-separated-values; charset=UTF-8"),
    ("tsv", "text/tab-separated-values; charset=UTF-8"),
    ("jsoneachrow", "application/x-ndjson; charset=UTF-8"),
    ("jsonlines", "application/x-ndjson; charset=UTF-8"),
    ("json", "application/json; charset=UTF-8"),
    ("ndjson", "application/x-ndjson; charset=UTF-8"),
    ("xml", "application/xml; charset=UTF-8"),
    *((prefix, "application/octet-stream") for prefix in _BINARY.split()),
]


def status_of(code: int) -> int:
    """The HTTP status of a ClickHouse error code."""
    return _STATUS_BY_CODE.get(code, 500)


def streams(keyword: bytes, words: frozenset[bytes], format_name: str | None, default: str) -> bool:
    """Can the result be sent block by block, in constant memory?"""
    if keyword not in _READS or words & {b"INSERT", b"TOTALS", b"EXTREMES"}:
        return False
    if format_name is None and b"FORMAT" in words:
        return False  # maybe a clause that was not recognised
    return (format_name or default).lower() in _STREAMED


def content_type(format_name: str) -> str:
    """As ClickHouse's output formats say it."""
    name = format_name.lower()
    if name.startswith("csv"):
        return f"text/csv; charset=UTF-8; header={'present' if 'withnames' in name else 'absent'}"
    return next((kind for prefix, kind in _CONTENT_TYPES if name.startswith(prefix)), _PLAIN)


def summary(answer: Answer | None, elapsed_ns: int) -> str:
    """X-ClickHouse-Summary. Without an answer (a stream that has just begun) only the time is known."""
    numbers: Mapping[str, int] = {
        "read_rows": answer.read_rows if answer else 0,
        "read_bytes": answer.read_bytes if answer else 0,
        "written_rows": answer.written_rows if answer else 0,
        "written_bytes": answer.written_bytes if answer else 0,
        "total_rows_to_read": answer.read_rows if answer else 0,
        "result_rows": answer.result_rows if answer else 0,
        "result_bytes": len(answer.body) if answer else 0,
        "elapsed_ns": elapsed_ns,
    }
    return json.dumps({name: str(number) for name, number in numbers.items()}, separators=(",", ":"))


def exception_block(tag: str, text: str) -> bytes:
    """The end of a stream that failed after its headers were sent; clients know `tag` from a header."""
    body = text.encode(errors="replace")
    return b"__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n" % (
        tag.encode(),
        body,
        len(body) + 1,
        tag.encode(),
    )
