"""ClickHouse's HTTP interface as an ASGI application over the embedded engine.

head (request.py) -> body (intake.py) -> a worker's thread (lanes.py) -> engine.py -> answer (reply.py).
A result in a format whose blocks can be joined is streamed block by block, the next one being made when the
client has taken the last; others are made whole, in memory (the engine's `result_bytes_max` is their limit).
With `wait_end_of_query=1` a result is first collected (in a file when it is large), so that an error that
comes late still gets its own status. A read whose client goes away is cancelled; a write runs to its end.
"""

import asyncio
import errno
import logging
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

from ingest.clickhouse.answerer import Answerer, Headers, Send
from ingest.clickhouse.coding import choose, compressor
from ingest.clickhouse.engine import Answer, Engine, EngineError, Job
from ingest.clickhouse.external import parts
from ingest.clickhouse.frames import FrameCompressor, FrameDecoder, Room, stored
from ingest.clickhouse.guard import Guard
from ingest.clickhouse.intake import Body, ClientGoneError, Receive, Work, take, whole
from ingest.clickhouse.lanes import Lane, Lanes, Worker
from ingest.clickhouse.plan import defines, job_of, lane_of, streamed, with_form
from ingest.clickhouse.protocol import FILL, Fill
from ingest.clickhouse.reply import content_type, exception_block, status_of, summary
from ingest.clickhouse.request import Credentials, Request, from_foreign_page, parse
from ingest.clickhouse.sessions import Sessions
from ingest.clickhouse.spill import Spill
from ingest.clickhouse.statement import Insert, StatementError, keyword
from ingest.clickhouse.users import Accounts, Limits, Role

_log = logging.getLogger(__name__)
_COLLECT_BYTES_IN_MEMORY = 16 * 1024**2
_PIECE_BYTES = 1024**2
TURN_S_MAX = 10.0
CANCELLED = 394


class _BrokenOffError(Exception):
    """An answer that cannot be completed; the connection is closed so that the client notices."""


class Interface:
    """The application. `accounts`: who may come in; None lets everybody in, as admin."""

    def __init__(self, engine: Engine, spill: Spill, lanes: Lanes, accounts: Accounts | None = None) -> None:
        self.engine = engine
        self.spill = spill
        self.lanes = lanes
        self.accounts = accounts
        limits = accounts.users.limits if accounts else Limits()
        self._guard = Guard(engine, limits)
        self._queries_max = limits.queries_max
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._hashing = asyncio.Semaphore(1)  # wrong passwords take one core's time, not all
        self._frames = Room()
        self.sessions = Sessions()
        self.running: dict[str, str] = {}  # query id -> user
        self.closing = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3, type http)."""
        if scope["type"] != "http":
            return
        answer = Answerer(send)
        try:
            await self._route(scope, receive, answer)
        except (ClientGoneError, _BrokenOffError):
            return
        except StatementError as error:
            await self._refuse(answer, error.code, f"Code: {error.code}. DB::Exception: {error} ({error.name})")
        except EngineError as error:
            if self.closing and error.code == CANCELLED:
                await self._refuse(answer, 236, "Code: 236. DB::Exception: The server is shutting down. (ABORTED)")
                return
            await self._refuse(answer, error.code, error.text)
        except Exception as error:  # noqa: BLE001 -- a request's outer edge: no client sees a traceback
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                text = f"Code: 243. DB::Exception: The disk of {self.engine.path} is full. Free some of it."
                await self._refuse(answer, 243, f"{text} (NOT_ENOUGH_SPACE)")
                return
            _log.exception("a request failed inside the HTTP interface")
            await self._refuse(
                answer,
                1001,
                "Code: 1001. DB::Exception: The HTTP interface failed; see its log. (STD_EXCEPTION)",
            )

    async def _refuse(self, answer: Answerer, code: int, text: str) -> None:
        if answer.begun:
            return
        text = f"{text} (version {self.engine.version})\n"
        headers = [("X-ClickHouse-Exception-Code", str(code)), ("Content-Type", "text/plain; charset=UTF-8")]
        body = text.encode(errors="replace")
        await answer.whole(status_of(code), [*answer.known, *headers], stored(body) if answer.framed else body)

    async def _route(self, scope: Mapping[str, Any], receive: Receive, answer: Answerer) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        if path == "/ping" or (path == "/" and method in {"GET", "HEAD"} and b"query=" not in scope["query_string"]):
            await answer.whole(200, [("Content-Type", "text/html; charset=UTF-8")], b"Ok.\n")
            return
        if path != "/":
            text = f"There is no handle {path}. Send queries with POST to /; use /ping for health checks.\n"
            await answer.whole(404, [("Content-Type", "text/plain; charset=UTF-8")], text.encode())
            return
        if from_foreign_page(headers):
            raise StatementError(
                497, "ACCESS_DENIED", "A web page of another origin may not send queries to this server."
            )
        request = parse(method, path, scope["query_string"], headers)
        answer.framed = request.framed_answer
        role = await self._role(request.credentials)
        fill = scope.get("extensions", {}).get(FILL)
        await self._query(request, role, receive, fill, answer)

    async def _role(self, presented: Credentials) -> Role:
        if self.accounts is None:
            return "admin"
        role = self.accounts.remembered(presented)
        if role is None:
            async with self._hashing:
                role = await asyncio.to_thread(self.accounts.verify, presented)
        if role is None:
            raise StatementError(
                516,
                "AUTHENTICATION_FAILED",
                f"{presented.user}: Authentication failed: password is incorrect, or there is no such user.",
            )
        return role

    @asynccontextmanager
    async def _turn(self, role: Role, user: str, lane: Lane) -> AsyncIterator[None]:
        """A reader's queries wait for each other, so that they leave workers to the rest; what ends them does not."""
        if role != "reader" or lane == "control":
            yield
            return
        turns = self._turns.setdefault(user, asyncio.Semaphore(self._queries_max))
        try:
            async with asyncio.timeout(TURN_S_MAX):
                await turns.acquire()
        except TimeoutError:
            raise StatementError(
                202,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                f"{self._queries_max} queries of {user} run already. Wait for one to end.",
            ) from None
        try:
            yield
        finally:
            turns.release()

    async def _query(self, request: Request, role: Role, receive: Receive, fill: Fill | None, answer: Answerer) -> None:
        query_id = request.query_id or str(uuid.uuid4())
        answer.known += [("X-ClickHouse-Query-Id", query_id), ("X-ClickHouse-Timezone", self.engine.timezone)]
        answer.known += [("X-ClickHouse-Server-Display-Name", "fieldline")]
        with ExitStack() as stack:
            frames = FrameDecoder(self._frames) if request.framed_body else None
            if frames:
                stack.callback(frames.close)
            body = Body(receive, request.content_encoding, request.content_length, fill, frames)
            created: tuple[str, ...] = ()
            if request.content_type.startswith("multipart/form-data"):
                form = parts(request.content_type, await whole(body.pieces))
                request, tables = with_form(request, form)
                created = tuple(table.created_from(self._kept(table.data, stack)) for table in tables)
                body = Body(_nothing)
            work = await take(request.query, body, None if role == "reader" else self.spill, stack)
            if query_id in self.running:
                raise StatementError(
                    216,
                    "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
                    f"Query with id = {query_id} is already running.",
                )
            self.running[query_id] = request.credentials.user
            stack.callback(self.running.pop, query_id, None)
            answer.before_end.append(stack.close)
            job = job_of(request, work, query_id, self._preamble(request), created)
            async with self._turn(role, request.credentials.user, lane_of(work)):
                await self._run(request, role, work, job, receive, answer)

    def _kept(self, data: bytes, stack: ExitStack) -> Path:
        """The data in a file, until the stack ends."""
        path = Path(stack.enter_context(self.spill.file()).name)
        path.write_bytes(data)
        return path

    def _own(self, request: Request, job: Job) -> list[str]:
        """The ids of the other queries of the same user."""
        user = request.credentials.user
        return [id_ for id_, of in self.running.items() if of == user and id_ != job.query_id]

    def _preamble(self, request: Request) -> tuple[str, ...]:
        if request.session_id is None:
            return ()
        return self.sessions.use(_session(request), request.session_timeout_s, time.monotonic())

    def _learn(self, request: Request, job: Job) -> None:
        """A SET or USE counts for the next request of its session."""
        if request.session_id is not None and keyword(job.text) in {b"SET", b"USE"}:
            statement = job.text.decode(errors="replace").rstrip().removesuffix(";")
            timeout_s, now_s = request.session_timeout_s, time.monotonic()
            self.sessions.learn(_session(request), statement, timeout_s, now_s)

    async def _run(
        self, request: Request, role: Role, work: Work, job: Job, receive: Receive, answer: Answerer
    ) -> None:
        lane = lane_of(work)
        answer.known += [("X-ClickHouse-Format", job.format)]
        async with self.lanes.worker(lane) as worker:
            if self.closing and lane != "control":
                raise StatementError(236, "ABORTED", "The server is shutting down.")
            if defines(work):
                await worker(self.engine.check_room)
            if role != "admin":
                job = await worker(self._guard.checked, role, job, _checkable(work), self._own(request, job))
            if lane != "read":
                await self._run_whole(request, job, worker, answer)
                return
            try:
                async with asyncio.TaskGroup() as group:
                    watch = group.create_task(self._cancel_when_gone(receive, job.query_id), name="client gone")
                    answer.before_end.append(watch.cancel)  # to it, an answer's end looks like a client gone
                    if streamed(request, work):
                        await self._run_stream(request, job, worker, answer)
                    else:
                        await self._run_whole(request, job, worker, answer)
                    watch.cancel()
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _cancel_when_gone(self, receive: Receive, query_id: str) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        async with self.lanes.worker("control") as worker:
            await worker(self.engine.kill, query_id)

    async def _run_whole(self, request: Request, job: Job, worker: Worker, answer: Answerer) -> None:
        begun = time.monotonic_ns()
        result = await worker(self.engine.run, job)
        self._learn(request, job)
        packer, coded = _packing(request, result.body)
        headers = [*answer.known, *_headers(job, result, time.monotonic_ns() - begun), *coded]
        packed = await worker(lambda: packer.compress(result.body) + packer.flush()) if packer else result.body
        await answer.whole(200, headers, packed)

    async def _run_stream(self, request: Request, job: Job, worker: Worker, answer: Answerer) -> None:
        begun = time.monotonic_ns()
        blocks = self.engine.stream(job)
        try:
            if request.wait_end_of_query:
                with tempfile.SpooledTemporaryFile(_COLLECT_BYTES_IN_MEMORY, dir=str(self.spill.path)) as file:
                    blocks = await worker(_collected, blocks, file)
                    await self._send_blocks(request, job, begun, worker, blocks, answer)
            else:
                await self._send_blocks(request, job, begun, worker, blocks, answer)
        finally:
            await worker(blocks.close)  # type: ignore[attr-defined]

    async def _send_blocks(
        self,
        request: Request,
        job: Job,
        begun: int,
        worker: Worker,
        blocks: Iterator[bytes],
        answer: Answerer,
    ) -> None:
        first = await worker(next, blocks, None)
        second = await worker(next, blocks, None) if first is not None else None
        first = first or b""
        packer, coded = _packing(request, first)
        headers = [*_headers(job, Answer(first, 0, 0, 0, 0, 0), time.monotonic_ns() - begun), *coded]
        if second is None:
            packed = await worker(lambda: packer.compress(first) + packer.flush()) if packer else first
            await answer.whole(200, [*answer.known, *headers], packed)
            return
        tag = uuid.uuid4().hex[:16]
        await answer.begin(200, [*answer.known, *headers, ("X-ClickHouse-Exception-Tag", tag)])
        block: bytes | None = first + second
        failed = False
        while block is not None:
            await answer.more(await worker(packer.compress, block) if packer else block)
            try:
                block = await worker(next, blocks, None)
            except EngineError as error:
                failed = True
                block = None
                tail = b"\r\n" + exception_block(tag, error.text)
                await answer.more(packer.compress(tail) if packer else tail)
        if packer:
            await answer.more(packer.flush())
        if failed:
            raise _BrokenOffError
        await answer.end()


def _checkable(work: Work) -> bytes:
    """The statement without an INSERT's data."""
    return work.text[: work.statement.data_at] if isinstance(work.statement, Insert) else work.text


def _session(request: Request) -> str:
    """A session belongs to its user."""
    return f"{request.credentials.user}\0{request.session_id}"


def _headers(job: Job, result: Answer, elapsed_ns: int) -> Headers:
    return [("Content-Type", content_type(job.format)), ("X-ClickHouse-Summary", summary(result, elapsed_ns))]


def _packing(request: Request, body: bytes) -> tuple[Any | None, Headers]:
    """What packs an answer that begins with `body`, if anything does, and the headers that say so."""
    if request.framed_answer:
        return FrameCompressor(), []
    coding = choose(request.accept_encoding) if body else None
    return (compressor(coding), [("Content-Encoding", coding)]) if coding else (None, [])


def _collected(blocks: Iterator[bytes], file: IO[bytes]) -> Iterator[bytes]:
    """The whole result in a file, then its pieces."""
    for block in blocks:
        file.write(block)
    file.seek(0)
    return (piece for piece in iter(lambda: file.read(_PIECE_BYTES), b""))


async def _nothing() -> dict[str, object]:
    """The end of a body."""
    return {"type": "http.request"}
