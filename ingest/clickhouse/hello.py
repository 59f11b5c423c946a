"""The first query of clickhouse-go, which Grafana's plugin and many other programs in Go are built on.

It asks for the server's revision and decodes that one answer, a block of Native, by its own: with block info and
a flag per column (protocol revision 54454 and later). All answers after it it decodes by the revision that this one
states. Ours is 0: plain Native, as the engine writes it. So this one block is made by hand, as a row of RowBinary
that is byte by byte the same. Pure.
"""

from ingest.clickhouse.statement import tokens

FLAGS_SINCE = 54454
FORMAT = "RowBinary"
_COLUMNS = (("displayName()", "String"), ("version()", "String"), ("revision()", "UInt32"), ("timezone()", "String"))
_QUERY = f"SELECT {', '.join(name for name, _ in _COLUMNS)}"


def _words(text: bytes) -> list[bytes]:
    return [token.word for token in tokens(text)]


_HELLO = _words(_QUERY.encode())


def asks_hello(text: bytes, revision: int, format_name: str) -> bool:
    """Is this that query, from a client of such a revision?"""
    return revision >= FLAGS_SINCE and format_name == "Native" and _words(text) == _HELLO


def hello() -> bytes:
    """The query whose row, in FORMAT, is the block that such a client expects."""
    info = ["toUInt8(1)", "toUInt8(0)", "toUInt8(2)", "toInt32(-1)", "toUInt8(0)"]  # no overflow row, no bucket, end
    counts = [f"toUInt8({len(_COLUMNS)})", "toUInt8(1)"]
    columns = [part for name, type_ in _COLUMNS for part in (f"'{name}'", f"'{type_}'", "toUInt8(0)", _value(name))]
    return f"SELECT {', '.join([*info, *counts, *columns])}".encode()


def _value(name: str) -> str:
    return "toUInt32(0)" if name == "revision()" else name
