"""`fieldline dead-letters list` and `show`: what could not become readings, and why.

Reasons are grouped by what they say apart from quoted names and numbers. Raw bytes come from devices, so they may be
anything: they are shown as text only if every character can be printed, and else as a hex dump. A dead letter's
id is GATEWAY/EPOCH/SEQ; a batch that was refused on the trunk has none.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest.clickhouse.client import ClickHouseError, Client, address, connect, explain
from ingest.clickhouse.explain import UNKNOWN_TABLE
from telemetry.errors import FieldlineError

SHOWN_BYTES_MAX = 4096
DUMP_WIDTH = 16
KIND = r"replaceRegexpAll(reason, '\'[^\']*\'|\"[^\"]*\"|[0-9]+', '…')"
REPLAYED = "SELECT gateway, epoch, seq FROM fieldline.replays GROUP BY ALL HAVING argMax(done, (replay, done)) = 1"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters. reason: a part of it, in any case."""

    gateway: str = ""
    epoch: str = ""
    seq: int | None = None
    reason: str = ""

    @classmethod
    def of(cls, id_: str, gateway: str = "", reason: str = "") -> "Filter":
        """By id, or by the rest if the id is empty. Raises FieldlineError."""
        if not id_:
            return cls(gateway, reason=reason)
        name, epoch, seq = [*id_.rsplit("/", 2), "", ""][:3]
        if not (name and epoch and seq.isascii() and seq.isdigit()) or int(seq) >= 2**63:
            raise FieldlineError(f"{id_!r} is not the id of a dead letter: GATEWAY/EPOCH/SEQ, as `list` shows it")
        return cls(name, epoch, int(seq), reason)

    @property
    def condition(self) -> str:
        """For WHERE, with query parameters."""
        parts = ["1"]
        parts += ["gateway = {gateway:String}"] if self.gateway else []
        parts += ["epoch = {epoch:String}"] if self.epoch else []
        parts += ["seq = {seq:UInt64}"] if self.seq is not None else []
        parts += ["positionCaseInsensitiveUTF8(reason, {reason:String}) > 0"] if self.reason else []
        return " AND ".join(parts)

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the condition's parameters."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) not in ("", None)}


@contextmanager
def tables(url: str | None) -> Iterator[Client]:
    """A client; what ClickHouse refuses within the block is raised as a sentence."""
    where = address(url)
    with closing(connect(url)) as client:
        try:
            yield client
        except ClickHouseError as error:
            if getattr(error, "code", None) == UNKNOWN_TABLE:
                raise FieldlineError(
                    "The tables are not those of this version. Run `fieldline analytics migrate`."
                ) from error
            raise explain(error, where) from error


def list_(
    url: str | None, chosen: Filter, fmt: Literal["table", "json"] = "table", *, out: TextIO | None = None
) -> int:
    """Print a line per kind of reason, the most frequent first."""
    out = out or sys.stdout
    query = f"""
        SELECT
            count() AS letters,
            countIf((gateway, epoch, seq) IN ({REPLAYED})) AS replayed,
            uniqExact(gateway) AS gateways,
            formatDateTime(max(received_at), '%Y-%m-%dT%H:%i:%SZ') AS latest,
            argMax(reason, received_at) AS latest_reason,
            argMax(source, received_at) AS latest_source,
            argMax(if(epoch = '', gateway, concat(gateway, '/', epoch, '/', toString(seq))), received_at) AS latest_id
        FROM fieldline.dead_letters WHERE {chosen.condition} GROUP BY {KIND} ORDER BY letters DESC, latest_reason
    """
    with tables(url) as client:
        found = client.query(query, parameters=chosen.parameters)
    groups = [dict(zip(found.column_names, row, strict=True)) for row in found.result_rows]
    if fmt == "json":
        print(json.dumps(groups, indent=2, ensure_ascii=False), file=out)
        return 0
    console = Console(file=out, highlight=False, width=None if out.isatty() else 200)
    if not groups:
        console.print("No dead letters." if chosen == Filter() else "No dead letters like that.")
        return 0
    table = Table()
    for heading in ("letters", "replayed", "gateways"):
        table.add_column(heading, justify="right")
    for heading in ("latest (UTC)", "latest reason", "by topic or path", "id"):
        table.add_column(heading, overflow="fold")
    for group in groups:
        counts = (f"{group[name]:,}" for name in ("letters", "replayed", "gateways"))
        said = (group[name] for name in ("latest", "latest_reason", "latest_source", "latest_id"))
        table.add_row(*counts, *(Text(printable(text)) for text in said))
    console.print(table)
    console.print("`dead-letters show ID` shows one with its bytes; after a fix of the mapping, `dead-letters replay`.")
    return 0


def show(url: str | None, chosen: Filter, limit: int, *, out: TextIO | None = None) -> int:
    """Print dead letters with their raw bytes, the latest first."""
    out = out or sys.stdout
    query = f"""
        SELECT gateway, epoch, seq, toString(received_at), source, reason, length(raw),
            hex(substring(raw, 1, {SHOWN_BYTES_MAX})), (gateway, epoch, seq) IN ({REPLAYED})
        FROM fieldline.dead_letters WHERE {chosen.condition} ORDER BY received_at DESC, seq DESC LIMIT {limit:d}
    """
    with tables(url) as client:
        rows = client.query(query, parameters=chosen.parameters).result_rows
    if not rows:
        raise FieldlineError("there is no such dead letter")
    for gateway, epoch, seq, received_at, source, reason, size, raw, replayed in rows:
        id_ = f"{gateway}/{epoch}/{seq}" if epoch else f"{gateway} (a batch refused on the trunk)"
        print(f"{printable(id_)}{'  (replayed)' if replayed else ''}", file=out)
        print(f"  received  {received_at} UTC", file=out)
        print(f"  by        {printable(source)}", file=out)
        print(f"  because   {printable(reason)}", file=out)
        print(f"  bytes     {size:,}", file=out)
        for line in lines(bytes.fromhex(raw)):
            print(f"    {line}", file=out)
        if size > SHOWN_BYTES_MAX:
            print(f"    … and {size - SHOWN_BYTES_MAX:,} bytes more; `--raw` writes them all", file=out)
        print(file=out)
    return 0


def write_raw(url: str | None, chosen: Filter, out: BinaryIO) -> int:
    """Write the raw bytes of one dead letter, as they came."""
    query = f"SELECT hex(raw) FROM fieldline.dead_letters WHERE {chosen.condition} LIMIT 2"
    with tables(url) as client:
        rows = client.query(query, parameters=chosen.parameters).result_rows
    if not rows:
        raise FieldlineError("there is no such dead letter")
    if len(rows) > 1:
        raise FieldlineError("--raw writes one dead letter, and there are several like that: name one by its id")
    out.write(bytes.fromhex(rows[0][0]))
    out.flush()
    return 0


def printable(text: str) -> str:
    r"""A text in one line that no terminal obeys: what cannot be printed is escaped as in Python."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def lines(raw: bytes) -> list[str]:
    """Bytes for a person: text if all of it can be printed, else a hex dump."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return list(_dump(raw))
    split = text.replace("\r\n", "\n").split("\n")
    if all(line.replace("\t", " ").isprintable() for line in split):
        return split
    return list(_dump(raw))


def _dump(raw: bytes) -> Iterator[str]:
    for at in range(0, len(raw), DUMP_WIDTH):
        row = raw[at : at + DUMP_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{at:06x}  {row.hex(' '):<{3 * DUMP_WIDTH - 1}}  {text}"
