"""Reads as much of a statement's text as the HTTP interface needs: where an INSERT's data begins, which
output format a query names, and which clauses an HTTP server refuses. Pure; the engine does the parsing.

It walks over tokens (strings, quoted names, comments and brackets are skipped as wholes), so that the word
FORMAT in a string or a column's name is not mistaken for a clause. Its one guess is documented at `_clause`.

The engine takes an INSERT's data from a file, because that is the only way in which it streams, fires
materialized views and understands `input()` (its in-process `send_insert` does neither):
`INSERT INTO t (a) SETTINGS x=1 FORMAT F` becomes `INSERT INTO t (a) FROM INFILE '…' SETTINGS x=1 FORMAT F`;
`INSERT INTO t SELECT … FROM input('s') FORMAT F` becomes `INSERT INTO t SELECT … FROM file('…', 'F', 's')`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import NamedTuple

_TOKEN = re.compile(
    rb"""
      (?P<skip>    \s+ | --[^\n]* | \#[ !][^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string>  '(?:[^'\\]++|\\.|'')*+(?:'|\Z) )
    | (?P<quoted>  `(?:[^`\\]++|\\.|``)*+(?:`|\Z) | "(?:[^"\\]++|\\.|"")*+(?:"|\Z) )
    | (?P<heredoc> \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<word>    [A-Za-z_\x80-\xff][\w$\x80-\xff]* )
    | (?P<number>  \d[\w.]* )
    | (?P<open>    [(\[{] )
    | (?P<close>   [)\]}] )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)

# After these words comes an expression or a name, so a FORMAT there is a column's or a table's name.
_OPERAND_FOLLOWS = frozenset(
    bytes.split(
        b"SELECT DISTINCT WHERE PREWHERE HAVING QUALIFY BY AND OR NOT XOR AS ON IN LIKE ILIKE BETWEEN CASE"
        b" WHEN THEN ELSE IS INTO TABLE FROM JOIN USING SETTINGS SET LIMIT OFFSET INTERVAL UPDATE COLUMN"
        b" ADD TO"
    )
)
# These words are no format's name, so a FORMAT before them is an operand.
_NO_FORMAT = frozenset(
    bytes.split(b"FROM AS AND OR NOT IN IS LIKE ILIKE BETWEEN ASC DESC LIMIT WHERE GROUP ORDER UNION THEN")
)


class Token(NamedTuple):
    """`word` is the upper-cased text of a word, and the text itself of every other token."""

    kind: str
    word: bytes
    start: int
    end: int


class StatementError(Exception):
    """A statement the HTTP interface refuses by itself: ClickHouse's error code and a sentence."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = name


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text is. `keyword` is its first word; `format` the output format it names, if any."""

    keyword: bytes
    format: str | None = None
    words: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT that brings data, which begins at offset `data_at` of the text.

    head + tail is the statement without its FORMAT clause or VALUES; `structure` is the argument of
    `input()`, which stood between head and tail; None where there is none and `FROM INFILE` goes there.
    """

    head: bytes
    tail: bytes
    structure: bytes | None
    format: str
    data_at: int

    def from_file(self, path: str) -> bytes:
        """The same statement with its data in the file `path` (without quotes and globs in its name)."""
        assert not re.search(r"['\\*?{}|\n]", path), path
        if self.structure is None:
            infile = f" FROM INFILE '{path}' ".encode()
            return self.head + infile + self.tail + f"\nFORMAT {self.format}".encode()
        return self.head + f"file('{path}', '{self.format}', ".encode() + self.structure + b")" + self.tail


def tokens(text: bytes) -> Iterator[Token]:
    """Everything but blanks and comments, lazily: a caller that stops early never looks at the data."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "heredoc"
        if kind == "tag":
            kind = "heredoc"
        if kind != "skip":
            word = match.group().upper() if kind == "word" else match.group()
            yield Token(kind, word, match.start(), match.end())


def _pairs(text: bytes) -> Iterator[tuple[Token, Token]]:
    """Each token with the one after it."""
    return pairwise(chain(tokens(text), [Token("end", b"", len(text), len(text))]))


def keyword(text: bytes) -> bytes:
    """The first word, upper-cased; brackets before it are skipped."""
    return next((token.word for token in tokens(text) if token.kind != "open"), b"")


def parse(text: bytes) -> Statement | Insert:
    """Look at a whole text, or at the beginning of an INSERT that is longer than what was received so far.

    Raises StatementError for several statements in one text, INFILE, OUTFILE and temporary tables.
    """
    first = keyword(text)
    return _insert(text) if first == b"INSERT" else _other(text, first)


def _clause(before: Token | None, name: Token) -> bool:
    """Is a FORMAT between these two a clause? A guess: the engine itself decides by its grammar."""
    if before is None or name.kind != "word" or name.word in _NO_FORMAT:
        return False
    if before.kind == "word":
        return before.word not in _OPERAND_FOLLOWS
    return before.kind in {"number", "string", "quoted", "close", "heredoc"} or before.word == b"*"


def _refuse_files(before: Token | None, token: Token) -> None:
    pair = (before.word if before else b"", token.word)
    if pair in {(b"FROM", b"INFILE"), (b"INTO", b"OUTFILE")}:
        word = token.word.decode()
        raise StatementError(
            344,
            "SUPPORT_IS_DISABLED",
            f"{word} is not allowed over HTTP. Send the data in the request's body instead.",
        )


def _other(text: bytes, first: bytes) -> Statement:
    seen: set[bytes] = set()
    depth = 0
    named: str | None = None
    ended = False
    before: Token | None = None
    for token, following in _pairs(text):
        if ended and token.word != b";":
            raise StatementError(
                62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed): send one statement."
            )
        ended = ended or token.word == b";"
        _refuse_files(before, token)
        depth += (token.kind == "open") - (token.kind == "close")
        if token.kind == "word":
            seen.add(token.word)
            if token.word == b"FORMAT" and depth == 0 and _clause(before, following):
                named = text[following.start : following.end].decode(errors="replace")
        before = token
    if first == b"CREATE" and b"TEMPORARY" in {token.word for token in islice(tokens(text), 1, 4)}:
        raise StatementError(
            48,
            "NOT_IMPLEMENTED",
            "Temporary tables are not supported by this server. Use an ordinary table or a WITH clause.",
        )
    return Statement(first, named, frozenset(seen))


def _insert(text: bytes) -> Statement | Insert:
    depth = 0
    settings_at: int | None = None
    selects = False
    opened: tuple[int, int, int] | None = None  # input's start, its argument's start, its depth
    source: tuple[int, int, int, int] | None = None  # input's start, its argument's start and end, its end
    before = earlier = None
    for token, following in _pairs(text):
        _refuse_files(before, token)
        top = depth == 0 and token.kind == "word"
        if top and token.word == b"FORMAT":
            if _clause(before, following):
                return _with_data(text, token, following, settings_at, source, selects=selects)
        elif (
            top and token.word == b"VALUES" and not selects and before and before.word not in {b"INTO", b"TABLE", b"."}
        ):
            at = token.start if settings_at is None else settings_at
            return Insert(text[:at], text[at : token.start], None, "Values", token.end)
        elif top and token.word == b"SETTINGS" and not selects and settings_at is None:
            settings_at = token.start
        selects = selects or (token.kind == "word" and token.word in {b"SELECT", b"WITH", b"WATCH"})
        if token.kind == "open":
            if before and earlier and before.word == b"INPUT" and earlier.word in {b"FROM", b"JOIN"}:
                opened = (before.start, token.end, depth)
            depth += 1
        elif token.kind == "close":
            depth -= 1
            if opened and source is None and depth == opened[2]:
                source = (opened[0], opened[1], token.start, token.end)
        earlier, before = before, token
    return _other(text, b"INSERT")


def _after_table(before: Token | None) -> bool:
    return before is not None and before.word not in {b"INTO", b"TABLE", b"."}


def _with_data(
    text: bytes,
    clause: Token,
    name: Token,
    settings_at: int | None,
    source: tuple[int, int, int, int] | None,
    *,
    selects: bool,
) -> Statement | Insert:
    named = text[name.start : name.end].decode(errors="replace")
    if selects and source is None:
        return Statement(b"INSERT", named)
    data_at = _data_at(text, name.end)
    if source is None:
        at = clause.start if settings_at is None else settings_at
        return Insert(text[:at], text[at : clause.start], None, named, data_at)
    start, argument, argument_end, end = source
    structure = text[argument:argument_end].strip()
    if not structure:
        raise StatementError(
            42, "NUMBER_OF_ARGUMENTS_DOESNT_MATCH", "input() needs the data's structure: input('a UInt8, …')."
        )
    return Insert(text[:start], text[end : clause.start], structure, named, data_at)


def _data_at(text: bytes, end: int) -> int:
    """ClickHouse's rule: blanks, an optional semicolon, blanks, and one line break before the data."""
    match = re.compile(rb"[ \t\f]*;?[ \t\f]*(?:\r?\n)?").match(text, end)
    assert match
    return match.end()


def with_own_ids(text: bytes) -> bytes:
    """A KILL QUERY whose `query_id` means HTTP clients' ids, which the engine keeps as `log_comment`."""
    places = [(t.start, t.end) for t in tokens(text) if t.word.strip(b'`"').upper() == b"QUERY_ID"]
    return _replaced(text, places, b"Settings['log_comment']")


def with_own_revision(text: bytes) -> bytes:
    """A query whose `revision()` is 0: this server's Native format has none of the protocol's extensions.

    clickhouse-go decodes by this number; the engine would state its own, which holds for its own protocol.
    """
    places = []
    seen: list[Token] = []
    for token in tokens(text):
        seen = [*seen[-2:], token]
        if [part.word for part in seen] == [b"REVISION", b"(", b")"]:
            places.append((seen[0].start, token.end))
    return _replaced(text, places, b"toUInt32(0)")


def _replaced(text: bytes, places: list[tuple[int, int]], by: bytes) -> bytes:
    for start, end in reversed(places):
        text = text[:start] + by + text[end:]
    return text
