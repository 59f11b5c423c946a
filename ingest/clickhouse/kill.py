"""KILL QUERY of a user who is no admin.

A worker's start ends what its predecessor has running, and a person wants to end the own query. So a writer may end
any query, a reader those that it began itself. The condition is one or several of `query_id` or `query`, compared by
=, LIKE or NOT LIKE with a string and joined by AND: nothing in it can compute, read or reach out. Pure.
"""

import re
from collections.abc import Iterable

from ingest.clickhouse.statement import StatementError, tokens, with_own_ids

_CONDITION = r"(?:QUERY|QUERY_ID) (?:=|LIKE|NOT LIKE) ''"
_SHAPE = re.compile(f"KILL QUERY WHERE {_CONDITION}(?: AND {_CONDITION})*(?P<how> A?SYNC)?")
_WHOLE_STRING = re.compile(rb"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_ALLOWED = "KILL QUERY WHERE query_id = '…' [AND query [NOT] LIKE '…'] [SYNC]"


def restricted(text: bytes, own: Iterable[str] | None) -> bytes:
    """The statement as it may run. `own`: the ids of the queries that it may end; None: of any.

    Raises StatementError.
    """
    found = list(tokens(text))
    strings = [token for token in found if token.kind == "string"]
    shape = " ".join("''" if token.kind == "string" else token.word.decode(errors="replace") for token in found)
    match = _SHAPE.fullmatch(shape.removesuffix(" ;"))
    if match is None or not all(_WHOLE_STRING.fullmatch(token.word) for token in strings):
        raise StatementError(497, "ACCESS_DENIED", f"Not enough privileges: only {_ALLOWED} may be run by this role.")
    kept = text[: strings[-1].end]
    how = (match["how"] or "").encode()
    if own is None:
        return with_own_ids(kept + how)
    ids = ", ".join("'" + id_.replace("\\", "\\\\").replace("'", "\\'") + "'" for id_ in own)
    mine = f"Settings['log_comment'] IN ({ids})" if ids else "0"
    return with_own_ids(kept) + f" AND {mine}".encode() + how
