"""How pages ask ClickHouse: in threads, with limits, cancellable; what goes wrong is a sentence.

A client of clickhouse_connect belongs to one thread, so each of the `THREADS` threads keeps its own, made anew
after a failure; people's statements have `STATEMENTS` threads of their own, so that slow ones hold up no page. An
`Asker` belongs to one open page: it knows the ids of its running queries, and kills them when the page goes.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from analytics import queries
from analytics.dead_letters import tables
from analytics.sql import body
from analytics.web.reading import Reading
from ingest.clickhouse.client import ClickHouseError, Client, address, connect, explain, known
from ingest.clickhouse.explain import UNKNOWN_DATABASE, UNKNOWN_TABLE
from telemetry.errors import FieldlineError

THREADS = 6
STATEMENTS = 3
PAGE_S_MAX = 10
STATEMENT_S_MAX = 60
DOWNLOAD_S_MAX = 600
DOWNLOADS_MAX = 2
READ_ONLY: Mapping[str, int | str] = {"readonly": 2}  # 1 would refuse the limits that travel with the query
"""For a login that may do more; one that may only read may change no settings, and has limits of its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Table:
    """A result: column names, their ClickHouse types, and rows."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @property
    def records(self) -> list[dict[str, Any]]:
        """Rows by column name."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


class Source:
    """The connections to one ClickHouse."""

    def __init__(self, url: str | None) -> None:
        self.where = address(url)
        self._url = url
        self._mine = threading.local()
        self._readers = ThreadPoolExecutor(THREADS, "ask")
        self._slow = ThreadPoolExecutor(STATEMENTS, "statement")
        self._killer = ThreadPoolExecutor(1, "kill")  # of its own: it must not wait for what it is to kill
        self._killed: set[str] = set()  # of those that run or wait
        self._downloads = threading.Semaphore(DOWNLOADS_MAX)

    def close(self) -> None:
        """Wait for no one; the process ends."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)
        self._killer.shutdown(wait=False, cancel_futures=True)

    async def read(
        self,
        sql: str,
        values: Mapping[str, Any],
        settings: Mapping[str, int | str],
        id_: str,
        *,
        slow: bool,
        rows_max: int | None = None,
    ) -> Table:
        """Run one query; slow: it may be; rows_max: a person wrote it (reading.py). Raises FieldlineError."""

        def job(client: Client) -> Table:
            if id_ in self._killed:
                raise FieldlineError("The statement was cancelled before it began.")
            if rows_max is not None:
                self._reading(client).check(sql)
            return _read(client, sql, values, settings, id_, rows_max)

        pool = self._slow if slow else self._readers
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: self._with_client(job))
        finally:
            self._killed.discard(id_)

    async def act(self, job: Callable[[Client], T]) -> T:
        """Run what is more than a query. Raises FieldlineError."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: self._with_client(job))

    async def work(self, job: Callable[[Client], T]) -> T:
        """Run what may take long, with a client of its own. Raises FieldlineError."""

        def run() -> T:
            with tables(self._url) as client:
                return job(client)

        return await asyncio.get_running_loop().run_in_executor(self._slow, run)

    def kill(self, ids: list[str]) -> None:
        """Stop queries by id; does not wait."""
        if ids:
            self._killed.update(ids)
            with suppress(RuntimeError):  # the process is ending
                self._killer.submit(self._kill, ids)

    def _kill(self, ids: list[str]) -> None:
        def say(client: Client) -> None:
            for id_ in ids:
                client.command("KILL QUERY WHERE query_id = %(id)s ASYNC", parameters={"id": id_})

        with suppress(FieldlineError):  # then it ends by its limit of time
            self._with_client(say)

    def _reading(self, client: Client) -> Reading:
        known: tuple[Client, Reading] | None = getattr(self._mine, "reading", None)
        if known is None or known[0] is not client:
            known = self._mine.reading = (client, Reading(client))
        return known[1]

    def _with_client(self, job: Callable[[Client], T]) -> T:
        client: Client | None = getattr(self._mine, "client", None)
        try:
            if client is None:
                client = self._mine.client = connect(
                    self._url, connect_timeout_s=3, answer_timeout_s=STATEMENT_S_MAX + 5
                )
            return job(client)
        except ClickHouseError as error:
            if getattr(error, "code", None) is None and client is not None:  # not refused, but broken
                self._mine.client = None
                client.close()
            if getattr(error, "code", None) in {UNKNOWN_TABLE, UNKNOWN_DATABASE}:
                said = "The tables are not there, or not those of this version. Run `fieldline analytics migrate`."
                raise FieldlineError(f"{said} ({_first_line(error)})") from error
            raise explain(error, self.where) from error

    def stream(self, sql: str, values: Mapping[str, Any], fmt: str) -> Iterator[bytes]:
        """The bytes of a result of any size, for a thread of its own. Raises FieldlineError at the first step."""
        if not self._downloads.acquire(blocking=False):
            raise FieldlineError(f"{DOWNLOADS_MAX} downloads are running already. Try again when one has ended.")
        try:
            with closing(connect(self._url, answer_timeout_s=DOWNLOAD_S_MAX)) as client:
                settings = _free(client, {**READ_ONLY, "max_execution_time": DOWNLOAD_S_MAX})
                transport = {"X-ClickHouse-Format": fmt}
                try:
                    answer = client.raw_stream(sql, dict(values), settings, transport_settings=transport)
                except ClickHouseError as error:
                    raise explain(error, self.where) from error
                with closing(answer):  # ClickHouse then stops what it still computes
                    yield from body(answer, self.where)
        finally:
            self._downloads.release()


def _read(
    client: Client,
    sql: str,
    values: Mapping[str, Any],
    settings: Mapping[str, int | str],
    id_: str,
    rows_max: int | None,
) -> Table:
    sent = {**_free(client, settings), "query_id": id_}
    rows: list[tuple[Any, ...]] = []
    with client.query_row_block_stream(sql, parameters=dict(values), settings=sent) as blocks:
        for block in blocks:
            rows += [tuple(row) for row in block[: None if rows_max is None else rows_max - len(rows)]]
            if len(rows) == rows_max:
                break
        source = blocks.source
    return Table(tuple(source.column_names), tuple(kind.name for kind in source.column_types), rows)


def _free(client: Client, settings: Mapping[str, int | str]) -> dict[str, int | str]:
    """Those that this login may set."""
    there = client.server_settings
    return {name: value for name, value in known(client, settings).items() if not there[name].readonly}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def may_write(client: Client) -> bool:
    """Whether the login may store readings, as far as ClickHouse says before it is tried. Raises ClickHouseError."""
    if int(client.query("SELECT getSetting('readonly')").result_rows[0][0]):
        return False
    try:
        return str(client.command("CHECK GRANT INSERT, ALTER DELETE ON fieldline.readings")) == "1"
    except ClickHouseError as error:
        if getattr(error, "code", None) is None:
            raise
        return True  # an older server, or the embedded one's writer, cannot be asked


class Asker:
    """One open page's way to ask."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._running: set[str] = set()

    async def named(self, name: str, **given: Any) -> Table:
        """A query of analytics/queries. Raises FieldlineError."""
        query = queries.load(name)
        return await self._ask(query.sql, query.values(given), {"max_execution_time": PAGE_S_MAX}, slow=False)

    async def counted(self, name: str) -> Table:
        """A query of analytics/queries that reads whole tables, on somebody's wish. Raises FieldlineError."""
        return await self._ask(queries.load(name).sql, {}, {"max_execution_time": STATEMENT_S_MAX}, slow=True)

    async def statement(self, sql: str, settings: Mapping[str, int | str], rows_max: int) -> Table:
        """What somebody wrote, if it only reads: its first rows. Raises FieldlineError, also when it was cancelled."""
        limits = {"max_execution_time": STATEMENT_S_MAX, **settings}
        return await self._ask(sql, {}, limits, slow=True, rows_max=rows_max)

    async def _ask(
        self,
        sql: str,
        values: Mapping[str, Any],
        settings: Mapping[str, int | str],
        *,
        slow: bool,
        rows_max: int | None = None,
    ) -> Table:
        id_ = f"web-{secrets.token_hex(8)}"
        self._running.add(id_)
        try:
            return await self.source.read(sql, values, {**READ_ONLY, **settings}, id_, slow=slow, rows_max=rows_max)
        except asyncio.CancelledError:
            self.source.kill([id_])
            raise
        finally:
            self._running.discard(id_)

    async def act(self, job: Callable[[Client], T]) -> T:
        """What a person does on the page, in a thread with a client. Raises FieldlineError."""
        return await self.source.act(job)

    async def work(self, job: Callable[[Client], T]) -> T:
        """The same, if it may take long."""
        return await self.source.work(job)

    def cancel(self) -> None:
        """Stop what runs, and what waits for its turn."""
        self.source.kill(sorted(self._running))
