"""`fieldline clickhouse run`: the embedded ClickHouse (chDB) as a server on ClickHouse's HTTP interface.

All other code reaches ClickHouse through clickhouse_connect over HTTP, so a real server, a cluster or a cloud
service is a change of URL. This process owns its data directory (a second one is refused), answers until
SIGTERM or SIGINT, then lets what runs finish for `GRACE_S`, cancels the rest and exits with status 0. After a
SIGKILL the same directory has every insert that was answered; against power loss give tables the settings
fsync_after_insert=1 and fsync_part_directory=1.

Limits: `CONNECTIONS_MAX`, a request's head (protocol.py), statements at once per lane (`LANES`), request bodies
(intake.py, spill.py), results (engine.py), and the engine's memory with `memory_bytes_max`.
Not served: sessions' temporary tables, the native TCP protocol, TLS. Whoever may query may also read and write
files as this process: without a password keep it on 127.0.0.1.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from ingest.clickhouse.engine import Engine
from ingest.clickhouse.interface import Interface
from ingest.clickhouse.lanes import Lane, Lanes
from ingest.clickhouse.protocol import Protocol
from ingest.clickhouse.spill import Spill
from ingest.clickhouse.users import Accounts, load
from ingest.listening import Server, bind
from telemetry.errors import FieldlineError

CONNECTIONS_MAX = 1000
LANES: dict[Lane, int] = {"read": 8, "write": 8, "control": 2}
GRACE_S = 5.0


def run(
    path: Path,
    host: str = "127.0.0.1",
    port: int = 8123,
    *,
    accounts: Accounts | None = None,
    memory_bytes_max: int | None = None,
) -> None:
    """Serve `path` until SIGTERM or SIGINT. Ends the process with status 1 and a sentence if it cannot.

    `port` 0 takes a free one; the line on stdout says which. Blocks; must be called in the main thread.
    """
    try:
        listener = bind("ClickHouse", host, port)
        engine = Engine(path, memory_bytes_max)
        spill = Spill(engine.path / "http_spill")
        engine.open()
        spill.open()
    except FieldlineError as error:
        sys.exit(str(error))
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    bound = listener.getsockname()[1]
    said = f"ClickHouse (chDB {engine.version}) listens on http://{host}:{bound}, data in {engine.path}"
    try:
        stopped = asyncio.run(_serve(engine, spill, listener, accounts, said))
    finally:
        listener.close()
    if not stopped:  # a statement that does not heed its cancellation; what it wrote is complete or absent
        sys.stdout.flush()
        os._exit(0)
    engine.close()


async def _serve(engine: Engine, spill: Spill, listener: socket.socket, accounts: Accounts | None, said: str) -> bool:
    lanes = Lanes(LANES)
    interface = Interface(engine, spill, lanes, accounts)
    config = uvicorn.Config(
        interface,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(2 * GRACE_S),
        limit_concurrency=CONNECTIONS_MAX,
    )
    server = Server(config, said)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        interface.closing = True
        server.should_exit = True
        loop.call_later(GRACE_S, engine.kill, None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[listener])
    if interface.running:
        engine.kill(None)
    try:
        async with asyncio.timeout(GRACE_S):
            await asyncio.to_thread(lanes.close)
    except TimeoutError:
        return False
    return True


def accounts_of(users: Path | None, user: str, password_file: Path | None) -> Accounts | None:
    """Who may come in, by the options of the command line; None: everybody. Raises FieldlineError."""
    if users is not None and password_file is not None:
        raise FieldlineError("Give --users or --password-file, not both.")
    if users is not None:
        return Accounts(load(users))
    if password_file is None:
        return None
    try:
        return Accounts.single(user, password_file.read_text().rstrip("\n"))
    except OSError as error:
        raise FieldlineError(f"cannot read --password-file {password_file}: {error.strerror}") from error


def main() -> None:
    """`python -m ingest.clickhouse.server`, for tests and for running without the command line."""
    parser = argparse.ArgumentParser(description="Embedded ClickHouse behind its HTTP interface")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--users", type=Path)
    parser.add_argument("--memory-bytes-max", type=int)
    given = parser.parse_args()
    try:
        accounts = accounts_of(given.users, given.user, given.password_file)
    except FieldlineError as error:
        sys.exit(str(error))
    run(given.path, given.host, given.port, accounts=accounts, memory_bytes_max=given.memory_bytes_max)


if __name__ == "__main__":
    main()
