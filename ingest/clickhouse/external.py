"""External data: tables that a request brings along for its one statement, as the files of a form. Pure.

A form (multipart/form-data, RFC 7578) has fields (`query`, `param_*`) and files. A file is a table of its part's name;
`NAME_format` (else TabSeparated) and `NAME_structure` or `NAME_types` are among the URL's parameters or the fields. The
engine reads it into a temporary table of the connection on which the statement runs, so nobody else sees it and it goes
with the answer.

Readers may do this, too. So a structure is columns with types and nothing else, because a column's DEFAULT is an
expression, and a format is one of FORMATS, because others hold expressions or name files. Limits: the form's length
(intake.py), and the statement's own limits, which hold for reading its tables.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path

from ingest.clickhouse.statement import StatementError, Token, tokens

TABLES_MAX = 16
FORMATS = frozenset(
    str.split(
        "tabseparated tsv tabseparatedwithnames tsvwithnames tabseparatedwithnamesandtypes tsvwithnamesandtypes csv"
        " csvwithnames jsoneachrow jsoncompacteachrow native rowbinary arrow arrowstream parquet orc"
    )
)
_NAME = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)
_INSIDE = frozenset({"word", "quoted", "string", "number", "open", "close"})
_SIGNS = frozenset({b",", b"=", b"-"})
_EXPRESSIONS = frozenset({b"DEFAULT", b"MATERIALIZED", b"EPHEMERAL", b"ALIAS"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form."""

    name: str
    data: bytes
    is_file: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table that a request brings along; `structure` has been checked."""

    name: str
    format: str
    structure: str
    data: bytes

    def created_from(self, path: Path) -> str:
        """The statement that reads it from a file (without quotes in its path)."""
        structure = self.structure.replace("\\", "\\\\").replace("'", "\\'")
        return f"CREATE TEMPORARY TABLE `{self.name}` AS SELECT * FROM file('{path}', '{self.format}', '{structure}')"


def parts(content_type: str, body: bytes) -> list[Part]:
    """The form's parts, in order. Raises StatementError for a body that is no form."""
    boundary = BytesHeaderParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode()).get_boundary()
    if not boundary:
        raise _refusal("The form's Content-Type has no boundary.")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise _refusal("The form ends without its last boundary.")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, found, data = piece.partition(b"\r\n\r\n")
    headers: Message = BytesHeaderParser().parsebytes(head.lstrip())
    name = headers.get_param("name", header="content-disposition")
    if not found or not isinstance(name, str):
        raise _refusal("A part of the form has no name.")
    return Part(name, data, headers.get_filename() is not None)


def tables(form: Iterable[Part], given: Mapping[str, str]) -> list[Table]:
    """The form's files as tables; `given`: the parameters that may describe them. Raises StatementError."""
    files = [part for part in form if part.is_file]
    if len(files) > TABLES_MAX:
        raise _refusal(f"A request may bring {TABLES_MAX} external tables, this one has {len(files)}.")
    return [_table(part, given) for part in files]


def descriptions(form: Iterable[Part]) -> set[str]:
    """The parameters that may describe the form's files."""
    return {f"{part.name}_{what}" for part in form if part.is_file for what in ("format", "structure", "types")}


def _table(part: Part, given: Mapping[str, str]) -> Table:
    if not _NAME.fullmatch(part.name):
        raise _refusal(f"{part.name!r} cannot be an external table's name. Use letters, digits and _.")
    format_ = given.get(f"{part.name}_format", "TabSeparated")
    if format_.lower() not in FORMATS:
        raise _refusal(
            f"The external table {part.name} has the format {format_!r}. Use one of {', '.join(sorted(FORMATS))}."
        )
    structure, types = given.get(f"{part.name}_structure"), given.get(f"{part.name}_types")
    if structure is None and types is None:
        raise _refusal(f"The external table {part.name} needs {part.name}_structure=column type, ….")
    if structure is None:
        assert types is not None
        structure = ", ".join(f"_{at} {type_}" for at, type_ in enumerate(_split(types), 1))
    for column in _split(structure):
        _check(part.name, column)
    return Table(part.name, format_, structure, part.data)


def _split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    data = text.encode(errors="replace")
    depth, cuts = 0, [-1]
    for token in tokens(data):
        depth += (token.kind == "open") - (token.kind == "close")
        if token.word == b"," and depth == 0:
            cuts.append(token.start)
    return [data[a + 1 : b].decode().strip() for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]


def _check(table: str, column: str) -> None:
    """A name, a type, and in the type's brackets words, numbers and strings."""
    found = list(tokens(column.encode()))
    named = len(found) > 1 and found[0].kind in {"word", "quoted"} and found[1].kind == "word"
    if not named or not _is_one_group(found[2:]):
        raise _refusal(f"The external table {table} has the column {column!r}. Write its name and its type.")


def _is_one_group(found: Sequence[Token]) -> bool:
    """Nothing, or one pair of brackets around what may stand in a type."""
    depth = 0
    for at, token in enumerate(found):
        depth += (token.kind == "open") - (token.kind == "close")
        closed_early = depth == 0 and at < len(found) - 1
        if (at == 0 and token.kind != "open") or closed_early or not _is_inside(token):
            return False
    return depth == 0


def _is_inside(token: Token) -> bool:
    return (token.kind in _INSIDE or token.word in _SIGNS) and token.word not in _EXPRESSIONS


def _refusal(text: str) -> StatementError:
    return StatementError(36, "BAD_ARGUMENTS", text)
