"""The named queries as views, for every SQL tool: `SELECT * FROM query_series(devices=['t1'], …)`.

One view `fieldline.query_NAME` for each file, parameterized if the query has parameters; a parameterized view has no
defaults, all must be given. Views hold no data and follow from the files, so they are no migration: `refresh` makes
those that are missing or of another text (which the comment's end tells), and drops those whose file is gone.
"""

import zlib
from collections.abc import Callable, Sequence

from analytics.queries import Query, load, names
from ingest.clickhouse.client import DATABASE, Client

PREFIX = "query_"


def as_it_is(statement: str) -> Sequence[str]:
    """A statement's form on a single server."""
    return (statement,)


def refresh(client: Client, forms: Callable[[str], Sequence[str]] = as_it_is) -> list[str]:
    """Make the views what the files say; returns the names of those that were made. Raises ClickHouseError.

    forms: what takes a statement's place on a cluster.
    """
    wanted = {f"{PREFIX}{name}": load(name) for name in names()}
    rows = client.query(
        "SELECT name, comment FROM system.tables"
        " WHERE database = {database:String} AND startsWith(name, {prefix:String})",
        parameters={"database": DATABASE, "prefix": PREFIX},
    ).result_rows
    there = dict(rows)
    for name in there.keys() - wanted.keys():
        for statement in forms(f"DROP VIEW IF EXISTS {DATABASE}.{name}"):
            client.command(statement, use_database=False)
    made = [name for name, query in wanted.items() if there.get(name) != comment(query)]
    for name in made:
        for statement in forms(definition(name, wanted[name])):
            client.command(statement, use_database=False)
    return made


def definition(name: str, query: Query) -> str:
    """The statement that makes the view, or replaces it."""
    said = comment(query).replace("\\", "\\\\").replace("'", "\\'")
    return f"CREATE OR REPLACE VIEW {DATABASE}.{name} AS\n{query.sql}\nCOMMENT '{said}'"


def comment(query: Query) -> str:
    """The title, with a checksum of the text."""
    return f"{query.title} ({zlib.crc32(query.sql.encode()):08x})"
