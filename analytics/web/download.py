"""`/download/csv` and `/download/parquet`: the readings in sight, streamed from ClickHouse as they come."""

import time
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from analytics import queries
from analytics.web.asking import Source
from analytics.web.view import View, names
from telemetry.errors import FieldlineError

Format = Literal["csv", "parquet"]
NAMES: dict[Format, str] = {"csv": "CSV", "parquet": "Parquet"}
FORMATS: dict[Format, tuple[str, str]] = {
    "csv": ("CSVWithNames", "text/csv"),
    "parquet": ("Parquet", "application/vnd.apache.parquet"),
}


def address(view: View, fmt: Format) -> str:
    """Of a download of what is in sight."""
    chosen = [*(("device", name) for name in view.devices), *(("metric", name) for name in view.metrics)]
    span = [("begin_ms", str(view.begin_ms)), ("end_ms", str(view.end_ms))]
    return f"/download/{fmt}?" + urlencode([*chosen, *span], quote_via=quote)


def add(app: FastAPI, source: Source) -> None:
    """Make the addresses known."""

    @app.get("/download/{fmt}")
    def download(
        fmt: Format,
        device: Annotated[list[str], Query()],
        metric: Annotated[list[str], Query()],
        begin_ms: int,
        end_ms: int,
    ) -> Response:
        query = queries.load("web_download")
        chosen = {"devices": names(device), "metrics": names(metric), "begin_ms": begin_ms, "end_ms": end_ms}
        name, kind = FORMATS[fmt]
        chunks = source.stream(query.sql, query.values(chosen), name)
        try:
            first = next(chunks, b"")
        except FieldlineError as error:
            return PlainTextResponse(str(error), 503)
        file = f"fieldline-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.{fmt}"
        return StreamingResponse(
            _all(first, chunks), media_type=kind, headers={"Content-Disposition": f"attachment; filename={file}"}
        )


def _all(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from chunks
