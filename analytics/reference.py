"""Writes the list of tables and views in docs/schema.md: `python -m analytics.reference docs/schema.md`.

It makes them in an engine of its own, in a temporary directory, and asks that for their comments. What stands above the
mark is written by hand, and stays.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analytics.migrate import script
from analytics.queries.views import PREFIX
from ingest.clickhouse.client import DATABASE
from ingest.clickhouse.engine import Engine, Job

MARK = "<!-- From here on: python -m analytics.reference docs/schema.md -->\n"
QUERY = f"""
SELECT t.name, t.engine, any(t.comment), groupArray(c.name), groupArray(c.type), groupArray(c.comment)
FROM (SELECT * FROM system.columns WHERE database = '{DATABASE}' ORDER BY position) AS c
JOIN system.tables AS t ON t.database = c.database AND t.name = c.table
WHERE NOT startsWith(t.name, '{PREFIX}')
GROUP BY t.name, t.engine
ORDER BY t.engine = 'View', t.name
"""
"""The views of the named queries are in docs/queries.md."""


def text(rows: Sequence[Sequence[Any]]) -> str:
    """The mark and what follows it, from the rows of QUERY."""
    parts = [MARK]
    for name, engine, comment, *columns in rows:
        kind = "a view" if engine == "View" else engine
        parts.append(f"\n### {name}\n\n{comment} ({kind}).\n\n| column | type | |\n|---|---|---|\n")
        for column, type_, said in zip(*columns, strict=True):
            parts.append(f"| `{column}` | `{type_}` | {said.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


def asked() -> Iterator[list[Any]]:
    """The rows of QUERY from an engine with the schema of this version. This process must not fork afterwards."""
    with TemporaryDirectory() as folder:
        engine = Engine(Path(folder))
        engine.open()
        try:
            for statement in script():
                if not statement.startswith("--"):
                    engine.run(Job("", statement.encode(), "Null"))
            found = engine.run(Job("", QUERY.encode(), "JSONCompactEachRow")).body
        finally:
            engine.close()
    return map(json.loads, found.splitlines())


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(path.read_text(encoding="utf-8").partition(MARK)[0] + text(list(asked())), encoding="utf-8")
