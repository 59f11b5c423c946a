"""From a request to the engine's job: what to run, with which settings, in which lane. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from ingest.clickhouse.engine import Job
from ingest.clickhouse.external import Part, Table, descriptions, tables
from ingest.clickhouse.hello import FORMAT, asks_hello, hello
from ingest.clickhouse.intake import Work
from ingest.clickhouse.lanes import Lane
from ingest.clickhouse.reply import streams
from ingest.clickhouse.request import Request
from ingest.clickhouse.statement import Insert, with_own_ids, with_own_revision

_DEFINING_WORDS = frozenset({b"CREATE", b"ALTER", b"RENAME", b"EXCHANGE", b"REPLACE", b"ATTACH"})
_READ_WORDS = frozenset({b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS"})


def lane_of(work: Work) -> Lane:
    if isinstance(work.statement, Insert):
        return "write"
    if work.statement.keyword == b"KILL":
        return "control"
    reads = work.statement.keyword in _READ_WORDS and b"INSERT" not in work.statement.words
    return "read" if reads else "write"


def defines(work: Work) -> bool:
    """Does it write a table's definition? To drop or detach a partition does not."""
    if isinstance(work.statement, Insert) or work.statement.keyword not in _DEFINING_WORDS:
        return False
    return work.statement.keyword != b"ALTER" or b"PARTITION" not in work.statement.words


def streamed(request: Request, work: Work) -> bool:
    assert not isinstance(work.statement, Insert)
    if "extremes" in request.settings:
        return False
    default = request.default_format or "TabSeparated"
    return streams(work.statement.keyword, work.statement.words, work.statement.format, default)


def job_of(request: Request, work: Work, query_id: str, preamble: tuple[str, ...], tables: tuple[str, ...] = ()) -> Job:
    settings = dict(request.settings)
    text, named = work.text, None
    if isinstance(work.statement, Insert):
        assert work.data is not None
        text = work.statement.from_file(str(work.data))
        if work.statement.structure is not None:
            settings["max_threads"] = "1"  # one reader: the rows' order, and one block stays one part
            if work.in_memory:
                settings["storage_file_read_method"] = "mmap"  # a copy less
    else:
        named = work.statement.format
        if work.statement.keyword == b"KILL":
            text = with_own_ids(text)
        elif asks_hello(text, request.protocol_revision, named or request.default_format or ""):
            text, named = hello(), FORMAT
        elif b"REVISION" in work.statement.words:
            text = with_own_revision(text)
    return Job(
        query_id=query_id,
        text=text,
        format=named or request.default_format or "TabSeparated",
        database=request.database,
        settings=settings,
        params=request.params,
        preamble=preamble,
        tables=tables,
        readonly=request.readonly,
    )


def with_form(request: Request, form: Sequence[Part]) -> tuple[Request, list[Table]]:
    """The request with the form's fields, and the tables that the form brings. Raises StatementError."""
    fields = {part.name: part.data for part in form if not part.is_file}
    params = {name.removeprefix("param_"): _text(data) for name, data in fields.items() if name.startswith("param_")}
    describing = descriptions(form)
    given = {**{name: _text(data) for name, data in fields.items()}, **request.settings}
    settings = {name: value for name, value in request.settings.items() if name not in describing}
    query = fields.get("query") or request.query
    changed = replace(request, query=query, params={**request.params, **params}, settings=settings)
    return changed, tables(form, given)


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
