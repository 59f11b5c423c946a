"""`fieldline query NAME --parameter value …`: a named query on the command line, printed as `fieldline sql` does."""

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from analytics import sql
from analytics.queries import Query, load, names
from telemetry.errors import FieldlineError


def run(
    url: str | None,
    name: str,
    words: Sequence[str],
    fmt: str | None = None,
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Without a name the list of all, with --help among the words what one gives and takes. Raises FieldlineError."""
    out = out or sys.stdout
    if name in {"", "--help"}:
        print(listing(), file=out)
        return 0
    query = load(name)
    if "--help" in words:
        print(described(query), file=out)
        return 0
    return sql.run(url, query.sql, fmt, parameters=query.values(given(query, words)), out=out, err=err)


def listing() -> str:
    """Every query with its title, for people."""
    width = max(map(len, names()))
    lines = [f"  {name:{width}}  {load(name).title}" for name in names()]
    return "\n".join(
        ["Usage: fieldline query NAME [--PARAMETER VALUE]... [--format FORMAT] [--url URL]", "", *lines]
    ) + ("\n\n`fieldline query NAME --help` says what one gives and takes.")


def described(query: Query) -> str:
    """What a query gives and takes, for people."""
    lines = [query.title, "", query.about, ""]
    for parameter in query.parameters:
        default = "" if parameter.default is None else f", default {parameter.default or 'empty'}"
        about = f": {parameter.about}" if parameter.about else ""
        lines.append(f"  --{parameter.name} ({parameter.type}{default}){about}")
    return "\n".join(lines).rstrip()


def given(query: Query, words: Sequence[str]) -> dict[str, Any]:
    """`--name value` and `--name=value`, in any number. Raises FieldlineError."""
    lists = {parameter.name for parameter in query.parameters if parameter.type.startswith("Array")}
    values: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            raise FieldlineError(f"{word!r} is no parameter. Give parameters as --NAME VALUE.")
        if not equals:
            value = next(rest, "")
            if not value:
                raise FieldlineError(f"--{name} has no value. Write --{name}= for an empty one.")
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise FieldlineError(f"--{name} is given twice; it takes one value.")
        else:
            values[name] = value
    return values
