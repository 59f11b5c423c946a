"""What the named queries answer, for tests that compare it."""

from datetime import UTC, datetime
from typing import Any

from analytics.queries import ask
from ingest.clickhouse.client import Client
from ingest.tables import READINGS

COLUMNS = [name for name, _, _ in READINGS.columns]
"""Of the table readings, in the order in which the tests have them."""


def rows_of(client: Client, name: str, **given: Any) -> list[dict[str, Any]]:
    """The result of a named query as dictionaries; moments have their zone."""
    found = ask(client, name, **given)
    return [
        {
            column: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
            for column, value in zip(found.column_names, row, strict=True)
        }
        for row in found.result_rows
    ]
