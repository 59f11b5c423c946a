"""Starts the dashboard: checks where it may listen, puts the parts together, serves until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from analytics.web import download
from analytics.web.access import Guard, is_loopback
from analytics.web.asking import Source
from analytics.web.frame import Page, add
from analytics.web.pages import alerts, explorer, fleet
from analytics.web.pages.custody import Custody
from analytics.web.pages.sql import Sql
from analytics.web.replaying import Configs
from analytics.web.statements import Statements
from ingest.listening import Server, bind
from telemetry.errors import FieldlineError

GRACE_S = 3
RECONNECT_S = 4.0
PASSWORD_CHARACTERS_MIN = 8


def pages(saved: Path, configs: Configs) -> tuple[Page, ...]:
    """The navigation. A new page is a module in `pages/` and a line here."""
    return (
        Page("/", "Fleet", fleet.build),
        Page("/explorer", "Explorer", explorer.build),
        Page("/sql", "SQL", Sql(Statements(saved)).build),
        Page("/custody", "Custody", Custody(configs).build),
        Page("/alerts", "Alerts", alerts.build),
    )


def run(url: str | None, host: str, port: int, password_file: Path | None, pages: Sequence[Page]) -> None:
    """Serve. Raises FieldlineError when it must not, or cannot, listen. Blocks; for the main thread."""
    password = _password(host, password_file)
    source = Source(url)
    listener = bind("The dashboard", host, port)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    download.add(app, source)
    add(source, pages, signed_in=password is not None)
    ui.run_with(
        app,
        title="Fieldline",
        favicon=_FAVICON,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_S,
    )
    for library in ("uvicorn", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    config = uvicorn.Config(
        Guard(app, password),
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    bound = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    server = Server(config, f"The dashboard is at http://{shown}:{bound}/, ClickHouse at {source.where.shown}")
    try:
        asyncio.run(_serve(server, listener))
    finally:
        source.close()
        listener.close()


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve(sockets=[listener])


def _password(host: str, file: Path | None) -> str | None:
    if file is None:
        if not is_loopback(host):
            raise FieldlineError(
                f"{host} can be reached from other machines, so the dashboard needs a password there. "
                "Write one into a file that only you may read and add --password-file FILE."
            )
        return None
    try:
        password = file.read_text().rstrip("\n")
    except OSError as error:
        raise FieldlineError(f"cannot read --password-file {file}: {error.strerror}") from error
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise FieldlineError(
            f"The password in {file} has less than {PASSWORD_CHARACTERS_MIN} characters. Choose a longer one."
        )
    return password


_FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%230b63ce'/%3E%3Cpath d='M3 10l3-4 3 3 4-5' fill='none' "
    "stroke='white' stroke-width='1.8'/%3E%3C/svg%3E"
)
