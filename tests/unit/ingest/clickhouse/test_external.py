"""External data: forms are taken apart to the byte, and nothing but columns with types becomes a structure."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clickhouse.external import TABLES_MAX, Part, Table, parts, tables
from ingest.clickhouse.statement import StatementError

BOUNDARY = "--b0undary"


def form(*found: Part) -> bytes:
    body = b""
    for part in found:
        file = f'; filename="{part.name}"\r\nContent-Type: application/octet-stream' if part.is_file else ""
        head = f'Content-Disposition: form-data; name="{part.name}"{file}'
        body += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + part.data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


NAMES = st.from_regex(re.compile(r"[A-Za-z_]\w{0,20}", re.ASCII), fullmatch=True)


@given(st.lists(st.builds(Part, NAMES, st.binary(max_size=99), st.booleans()), min_size=1, max_size=4))
def test_a_form_comes_apart_as_it_was_put_together(found: list[Part]) -> None:
    assert parts(f'multipart/form-data; boundary="{BOUNDARY}"', form(*found)) == found


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form(Part("a", b"", True))),
        (f"multipart/form-data; boundary={BOUNDARY}", b""),
        (f"multipart/form-data; boundary={BOUNDARY}", form(Part("a", b"1", True))[:-6]),
        (f"multipart/form-data; boundary={BOUNDARY}", f"--{BOUNDARY}\r\n\r\n1\r\n--{BOUNDARY}--".encode()),
    ],
    ids=["no boundary", "empty", "cut off", "no name"],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(StatementError) as refused:
        parts(content_type, body)
    assert refused.value.code == 36


@pytest.mark.parametrize(
    ("described", "structure"),
    [
        ({"t_structure": "a UInt8, `b c` String"}, "a UInt8, `b c` String"),
        ({"t_structure": "a DateTime64(3, 'UTC'), e Enum8('x,' = -1)"}, "a DateTime64(3, 'UTC'), e Enum8('x,' = -1)"),
        ({"t_structure": "a Map(String, Array(Nullable(UInt8)))"}, "a Map(String, Array(Nullable(UInt8)))"),
        ({"t_types": "UInt8, Tuple(a Int8, b String)"}, "_1 UInt8, _2 Tuple(a Int8, b String)"),
    ],
)
def test_structures_and_types(described: dict[str, str], structure: str) -> None:
    (found,) = tables([Part("t", b"1", True), Part("query", b"SELECT 1", False)], described)
    assert found == Table("t", "TabSeparated", structure, b"1")


@pytest.mark.parametrize(
    "structure",
    [
        "a String DEFAULT file('/etc/hostname')",
        "a String MATERIALIZED 1",
        "a DEFAULT 1",
        "a Tuple(b String DEFAULT 1)",
        "a UInt8 (1) (2)",
        "a UInt8(1), b",
        "a UInt8)",
        "a UInt8(",
        "a (UInt8)",
        "a 'UInt8'",
        "a UInt8 CODEC(NONE)",
        "a UInt8; DROP TABLE t",
        "a Tuple(b {x:String})",
        "",
    ],
)
def test_whatever_else_is_in_a_structure_is_refused(structure: str) -> None:
    with pytest.raises(StatementError, match="Write its name and its type"):
        tables([Part("t", b"", True)], {"t_structure": structure})


@pytest.mark.parametrize(
    ("name", "described", "said"),
    [
        ("a`b", {"a`b_structure": "a Int8"}, "cannot be an external table's name"),
        ("t", {"t_structure": "a Int8", "t_format": "Values"}, "format 'Values'"),
        ("t", {}, "needs t_structure"),
    ],
)
def test_names_formats_and_what_is_missing(name: str, described: dict[str, str], said: str) -> None:
    with pytest.raises(StatementError, match=said):
        tables([Part(name, b"", True)], described)


def test_there_are_not_too_many() -> None:
    with pytest.raises(StatementError, match=str(TABLES_MAX)):
        tables([Part("t", b"", True)] * (TABLES_MAX + 1), {"t_structure": "a Int8"})


def test_the_statement_quotes_the_structure() -> None:
    made = Table("t", "CSV", "e Enum8('a' = 1)", b"").created_from(Path("/p"))
    assert made == r"CREATE TEMPORARY TABLE `t` AS SELECT * FROM file('/p', 'CSV', 'e Enum8(\'a\' = 1)')"
