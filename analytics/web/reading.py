"""What people may run on the page SQL: what a reader of the embedded server may, whatever the dashboard's login may do.

`readonly = 2` keeps a statement from changing tables, not from table functions such as file(), url() or remote():
with an admin's login the page would read files of ClickHouse's machine. So the server parses each statement (EXPLAIN
AST), and `ingest.clickhouse.guard` must know each node of the tree. It costs one more question per statement.
"""

import re

from ingest.clickhouse.client import ClickHouseError, Client
from ingest.clickhouse.engine import Answer, Job
from ingest.clickhouse.guard import Guard
from ingest.clickhouse.statement import StatementError
from ingest.clickhouse.users import Limits
from telemetry.errors import FieldlineError

_ASKED = "EXPLAIN AST "


class Reading:
    """Checks for one client. Which functions there are is asked once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._guard = Guard(_Server(client), Limits())

    def check(self, sql: str) -> None:
        """Raises FieldlineError for what does more than read, and ClickHouseError for what cannot be parsed."""
        try:
            self._guard.checked("reader", Job("web", b"", "TSVRaw", self._client.database), sql.encode())
        except StatementError as error:
            said = (
                str(error).removeprefix("Not enough privileges: the statement ").replace("the role reader", "this page")
            )
            raise FieldlineError(
                f"This page only reads tables. The statement {said} Where it is meant so, run it with `fieldline sql`."
            ) from error


class _Server:
    """Parses by asking the server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, job: Job) -> Answer:
        try:
            body = self._client.raw_query(job.text.decode(), transport_settings={"X-ClickHouse-Format": job.format})
        except ClickHouseError as error:
            error.args = (_shifted(str(error)), *error.args[1:])  # people see their statement, not this one
            raise
        return Answer(body, 0, 0, 0, 0, 0)


def _shifted(said: str) -> str:
    """A complaint about `EXPLAIN AST statement`, as one about the statement."""

    def back(found: re.Match[str]) -> str:
        return f"{found[1]}{max(int(found[2]) - len(_ASKED), 1)}"

    return re.sub(r"(failed at position |\(line 1, col )(\d+)", back, said)
