r"""`fieldline sql "SELECT …"`: any statement, for people and for pipes.

On a terminal a result is a table of at most `rows_max` rows; numbers are right-aligned, and a line below says
how many rows there are and how long they took. Elsewhere, and whenever a format is asked for (by `--format`
or in the query itself), ClickHouse's bytes are passed through as they come: a result of any size needs a few
buffers of `CHUNK_BYTES`. Text is never altered, except that the table shows tabs and line ends as \t and \n.

Errors are one paragraph on stderr and exit status 1, also when one comes after half of the result. Up to
ClickHouse's version 25 such a late error is part of the output; newer ones mark it, and it is taken out.
A closed pipe (`| head`) ends the command quietly.
"""

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, BinaryIO, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text
from urllib3.exceptions import HTTPError

from ingest.clickhouse.client import Address, ClickHouseError, address, connect, explain
from ingest.clickhouse.explain import clean
from telemetry.errors import FieldlineError

ROWS_MAX = 100
CHUNK_BYTES = 1024 * 1024
_ERROR_BYTES_MAX = 64 * 1024
_FOR_TABLES, _FOR_PIPES = "TabSeparatedWithNamesAndTypes", "TabSeparatedWithNames"
_NUMBER = re.compile(rb"(?:Nullable\(|LowCardinality\()*(?:U?Int\d|B?Float|Decimal)")


def run(
    url: str | None,
    query: str,
    fmt: str | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
    rows_max: int = ROWS_MAX,
) -> int:
    """Run one statement (`-`: read it from stdin) and return the exit status.

    fmt: a ClickHouse format. parameters: values of the statement's query parameters. out, err: stdout and stderr if
    not given. rows_max: rows in a terminal's table.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        where = address(url)
        text = _statement(query)
        with closing(connect(url)) as client:
            _run(client, where, text, parameters, fmt, out, rows_max)
            out.flush()
    except BrokenPipeError:
        _forget(out)
    except FieldlineError as error:
        print(error, file=err)
        return 1
    return 0


def _statement(query: str) -> str:
    text = sys.stdin.read() if query == "-" else query
    text = text.strip().rstrip(";")
    if not text:
        raise FieldlineError("There is no statement. Give one, e.g. fieldline sql 'SELECT * FROM latest'.")
    return text


def _run(
    client: Any,
    where: Address,
    text: str,
    parameters: Mapping[str, Any] | None,
    fmt: str | None,
    out: TextIO,
    rows_max: int,
) -> None:
    as_table = fmt is None and out.isatty()
    wanted = fmt or (_FOR_TABLES if as_table else _FOR_PIPES)
    began = time.monotonic()
    try:
        response = client.raw_stream(
            text,
            parameters=parameters,
            settings=_enough_rows(client, text, rows_max) if as_table else {},
            transport_settings={"X-ClickHouse-Format": wanted},
        )
    except ClickHouseError as error:
        raise explain(error, where) from error
    try:
        chunks = body(response, where)
        if as_table and response.headers.get("X-ClickHouse-Format", wanted) == wanted:
            _show(chunks, out, rows_max, began)
        else:
            out.flush()
            _pass_through(chunks, out.buffer)
    finally:
        response.close()  # the server then stops what it still computes


def _enough_rows(client: Any, text: str, rows_max: int) -> dict[str, int | str]:
    """Settings by which ClickHouse stops when the table is full. They do not touch what an INSERT SELECT
    inserts; a query with a format of its own is printed whole.
    """
    limits: dict[str, int | str] = {"max_result_rows": rows_max + 1, "result_overflow_mode": "break"}
    there = client.server_settings
    if re.search(r"\bFORMAT\b", text, re.IGNORECASE) or any(
        name not in there or there[name].readonly for name in limits
    ):
        return {}
    return limits


def body(response: Any, where: Address) -> Iterator[bytes]:
    r"""The answer's bytes; raises FieldlineError when ClickHouse, or the connection, failed half-way.

    A late error is marked, where <tag> is the header X-ClickHouse-Exception-Tag (ClickHouse, HTTP interface):
    `\r\n__exception__\r\n<tag>\r\n<text>\n<length> <tag>\r\n__exception__\r\n`
    """
    tag = response.headers.get("X-ClickHouse-Exception-Tag", "").encode()
    mark = b"\r\n__exception__\r\n" + tag if tag else b""
    held = b""  # the end of what came, as long as a mark may begin in it
    try:
        stream = response.stream(CHUNK_BYTES)
        for chunk in stream:
            data = held + chunk
            found = data.find(mark) if mark else -1
            if found >= 0:
                yield data[:found]
                raise _late_error(data[found + len(mark) :], stream, tag, where)
            passed = max(len(data) - max(len(mark) - 1, 0), 0)
            held = data[passed:]
            yield data[:passed]
        yield held
    except HTTPError as error:
        raise FieldlineError(
            f"ClickHouse at {where.shown} broke off: the result above is not complete. Run it again."
        ) from error


def _late_error(begin: bytes, stream: Iterator[bytes], tag: bytes, where: Address) -> FieldlineError:
    text = begin
    with suppress(HTTPError):  # the server may cut the connection after its text
        for chunk in stream:
            text = (text + chunk)[:_ERROR_BYTES_MAX]
    text = text.split(b"\r\n__exception__", 1)[0]
    text = re.sub(rb"\n\d+ " + re.escape(tag) + rb"\s*$", b"", text)
    said = clean(text.decode(errors="replace"))
    return FieldlineError(f"ClickHouse at {where.shown} says: {said}\nThe result above is not complete.")


def _pass_through(chunks: Iterator[bytes], out: BinaryIO) -> None:
    for chunk in chunks:
        out.write(chunk)
        out.flush()


def _show(chunks: Iterator[bytes], out: TextIO, rows_max: int, began: float) -> None:
    lines = _lines(chunks)
    names, types = next(lines, None), next(lines, b"")
    console = Console(file=out, highlight=False)
    if names is None:
        console.print(f"Done in {_elapsed(began)}.")
        return
    table = Table()
    for name, kind in zip(names.split(b"\t"), types.split(b"\t"), strict=True):
        table.add_column(_cell(name), justify="right" if _NUMBER.match(kind) else "left", overflow="fold")
    more = False
    for line in lines:
        more = table.row_count == rows_max
        if more:
            break
        table.add_row(*[_cell(field) for field in line.split(b"\t")])
    console.print(table)
    count = f"{table.row_count:,} row{'' if table.row_count == 1 else 's'}"
    if more:
        count = f"The first {count}; for all of them, add --format PrettyCompact or send them to a file"
    console.print(f"{count} in {_elapsed(began)}.")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _cell(field: bytes) -> Text:
    r"""A tab-separated field for a person: its escapes stay, except the backslash's own; \N is NULL."""
    if field == rb"\N":
        return Text("NULL", style="dim")
    return Text(field.replace(rb"\\", b"\\").replace(rb"\'", b"'").decode(errors="replace"))


def _elapsed(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


def _forget(out: TextIO) -> None:
    """Nobody reads stdout any more; the interpreter's own flush at exit must not complain."""
    with suppress(OSError, ValueError):  # a stand-in without a file descriptor needs nothing
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
