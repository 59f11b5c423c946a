"""Explorer: series of chosen devices and metrics over time, live or anywhere in the past.

In sight is a span [begin, end). Three times as much is asked for, so that a wheel or a finger can zoom out and pan;
then the new span is asked for. A span has at most `POINTS` buckets per series, whatever its length
(of raw readings or of a rollup, see `_query`), and there are at most `SERIES_MAX` series. While it
follows, the end is the newest reading. The address bar has the whole view: it can be kept, or sent to somebody.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, available_timezones

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from nicegui import ui

from analytics import queries
from analytics.web import charts, frame
from analytics.web.asking import Asker, Source
from telemetry.errors import FieldlineError

POINTS = 400
SERIES_MAX = 16
NAMES_MAX = 50
SPANS = {
    "5 min": 300,
    "1 h": 3600,
    "6 h": 21600,
    "1 d": 86400,
    "7 d": 604800,
    "30 d": 2592000,
    "1 y": 31536000,
    "10 y": 315360000,
}
SPAN_MS_MIN, SPAN_MS_MAX = 1000, 50 * 366 * 86_400_000
FORMATS = {"csv": ("CSVWithNames", "text/csv"), "parquet": ("Parquet", "application/vnd.apache.parquet")}


_CHOOSE = (
    '<p class="empty">Choose at least one device and one metric above. '
    'The name of a device on the page <a href="/">Fleet</a> leads here, too.</p>'
)
_NOTHING = (
    '<p class="empty">These devices have no readings of these metrics. '
    "Choose others; the lists above have those that there are.</p>"
)


class View:
    """What is in sight; moments in milliseconds since 1970."""

    def __init__(self, parameters: Any) -> None:
        self.devices = _names(parameters.get("devices", ""))
        self.metrics = _names(parameters.get("metrics", ""))
        zone = parameters.get("zone", "UTC")
        self.zone = zone if zone in available_timezones() else "UTC"
        self.span_ms = min(max(_integer(parameters.get("span_ms"), 86_400_000), SPAN_MS_MIN), SPAN_MS_MAX)
        self.end_ms = _integer(parameters.get("end_ms"), 0)
        self.follows = not self.end_ms

    @property
    def begin_ms(self) -> int:
        return self.end_ms - self.span_ms

    @property
    def extent(self) -> tuple[int, int]:
        """What is asked for: a span more on each side."""
        return self.begin_ms - self.span_ms, self.end_ms + self.span_ms

    @property
    def link(self) -> str:
        """The page's address."""
        parts: dict[str, str | int] = {"devices": ",".join(self.devices), "metrics": ",".join(self.metrics)}
        parts |= {"zone": self.zone, "span_ms": self.span_ms}
        return "/explorer?" + urlencode(parts if self.follows else parts | {"end_ms": self.end_ms}, safe=",/")

    def move(self, begin_ms: int, end_ms: int) -> None:
        """Look there, and follow no more."""
        self.span_ms = min(max(end_ms - begin_ms, SPAN_MS_MIN), SPAN_MS_MAX)
        self.end_ms, self.follows = end_ms, False


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name][:NAMES_MAX]


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default


async def build(asker: Asker, request: Request) -> None:
    """Fill the page; the query string restores a view."""
    view = View(request.query_params)

    async def looked(seconds: int) -> None:
        view.span_ms = seconds * 1000
        await show()

    trouble = frame.Trouble()
    with ui.element("section").classes("card"):
        with ui.element("div").classes("bar"):
            devices = ui.select(view.devices, value=view.devices, label="Devices", multiple=True, with_input=True)
            metrics = ui.select(view.metrics, value=view.metrics, label="Metrics", multiple=True, with_input=True)
            zone = ui.select(sorted(available_timezones()), value=view.zone, label="Time zone", with_input=True)
            for choice in (devices, metrics):
                choice.props("outlined dense use-chips").classes("grow")
            zone.props("outlined dense").style("width:13rem")
        with ui.element("div").classes("bar"):
            spans = {name: frame.button(name, partial(looked, seconds)) for name, seconds in SPANS.items()}
        with ui.element("div").classes("bar"):
            follow = frame.button("Follow", lambda: chosen_follow())
            frame.button("◀ Earlier", lambda: shift(-0.5))
            frame.button("Later ▶", lambda: shift(0.5))
            frame.button("Zoom in", lambda: zoom(0.5))
            frame.button("Zoom out", lambda: zoom(2.0))
            ui.element("span").classes("grow")
            csv = ui.html("", sanitize=False)
    empty = frame.part()
    with ui.element("section").classes("card") as card:
        caption = ui.label().classes("small soft")
        box = ui.element("div").style("width:100%")
    card.visible = False
    moving: asyncio.Task[None] | None = None
    turn = 0

    async def draw() -> None:
        nonlocal turn
        turn += 1
        mine = turn
        _press(view)
        if not view.devices or not view.metrics:
            card.visible = False
            empty.content = _CHOOSE
            return
        chosen = {"devices": view.devices, "metrics": view.metrics}
        known = (await asker.named("web_selected", **chosen)).records
        if not known:
            card.visible = False
            empty.content = _NOTHING
            return
        if view.follows:
            view.end_ms = max(int(one["newest"].replace(tzinfo=UTC).timestamp() * 1000) for one in known) + 1
        step = charts.step_ms(view.span_ms, POINTS)
        begin, end = view.extent
        found = await asker.named(_query(step), **chosen, begin_ms=begin, end_ms=end, step_ms=step)
        if mine != turn:  # somebody has moved on meanwhile
            return
        series = _series(known[:SERIES_MAX], found.rows)
        empty.content = ""
        card.visible = True
        options = charts.lines(series, ZoneInfo(view.zone), view.extent, (view.begin_ms, view.end_ms))
        made = frame.chart(box, options, "Readings over time", charts.height_px(series))
        if made is not None:
            made.on("chart:datazoom", zoomed, ["batch", "start", "end"])
        caption.text = _caption(view, step, len(known))

    def _press(view: View) -> None:
        follow.props(f"aria-pressed={str(view.follows).lower()}")
        for name, one in spans.items():
            one.props(f"aria-pressed={str(view.span_ms == SPANS[name] * 1000).lower()}")
        csv.content = _downloads(view)

    async def show() -> None:
        ui.run_javascript(f"history.replaceState(null, '', {view.link!r})")
        async with trouble.told("refresh"):
            await draw()

    async def chosen_follow() -> None:
        view.follows = not view.follows
        await show()

    async def shift(by: float) -> None:
        view.move(view.begin_ms + int(by * view.span_ms), view.end_ms + int(by * view.span_ms))
        await show()

    async def zoom(by: float) -> None:
        middle, half = view.end_ms - view.span_ms // 2, int(view.span_ms * by) // 2
        view.move(middle - half, middle + half)
        await show()

    async def chosen() -> None:
        view.devices, view.metrics, view.zone = list(devices.value), list(metrics.value), zone.value
        await show()

    async def zoomed(event: Any) -> None:
        nonlocal moving
        found = (event.args.get("batch") or [event.args])[0]
        if found.get("start") is None:
            return
        begin, end = view.extent
        # an event that our own drawing caused says what is in sight already
        there = [begin + int(found[side] / 100 * (end - begin)) for side in ("start", "end")]
        if abs(there[0] - view.begin_ms) + abs(there[1] - view.end_ms) < view.span_ms * 0.01:
            return
        if moving is not None:
            moving.cancel()
        moving = asyncio.current_task()
        await asyncio.sleep(0.25)
        view.move(*there)
        await show()

    async def refresh() -> None:
        if view.follows or not card.visible:
            await draw()

    async def lists() -> None:
        [(all_devices, all_metrics)] = (await asker.named("web_choices")).rows
        for choice, known in ((devices, all_devices), (metrics, all_metrics)):
            wanted = sorted({*known, *choice.value})
            if choice.options != wanted:
                choice.set_options(wanted)

    for choice in (devices, metrics, zone):
        choice.on_value_change(chosen)
    await frame.live(lists, trouble, 30.0)
    await frame.live(refresh, trouble)


def _series(known: list[dict[str, Any]], rows: list[tuple[Any, ...]]) -> list[charts.Series]:
    points: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for device, metric, at, mean, low, high, _ in rows:
        points.setdefault((device, metric), []).append((at, mean, low, high))
    return [
        charts.Series(one["device"], one["metric"], one["unit"], points.get((one["device"], one["metric"]), []))
        for one in known
    ]


def _query(step: int) -> str:
    """The one that reads the coarsest table which still has the step."""
    return "web_series_raw" if step < 60_000 else "web_series_1m" if step < 3_600_000 else "web_series_1h"


_SOURCES = {"web_series_raw": "raw readings", "web_series_1m": "rollup_1m", "web_series_1h": "rollup_1h"}


def _caption(view: View, step: int, known: int) -> str:
    zone = ZoneInfo(view.zone)
    begin, end = (datetime.fromtimestamp(at / 1000, zone) for at in (view.begin_ms, view.end_ms))
    source = _SOURCES[_query(step)]
    said = f"{frame.when(begin)} to {frame.when(end)} {view.zone}; a point every {_length(step)}, from {source}"
    said += "; bands are least to greatest" if known <= charts.BANDS_MAX else ""
    return said + (f"; the first {SERIES_MAX} of {known} series" if known > SERIES_MAX else "") + "."


def _length(ms: int) -> str:
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size_ms:
            return f"{ms / size_ms:g} {unit}"
    return f"{ms} ms"


def _downloads(view: View) -> str:
    if not (view.devices and view.metrics and view.end_ms):
        return ""
    values = {"devices": ",".join(view.devices), "metrics": ",".join(view.metrics)}
    query = frame.safe(urlencode(values | {"begin_ms": str(view.begin_ms), "end_ms": str(view.end_ms)}))
    links = [
        f'<a class="plain" href="/download/{fmt}?{query}" download>{name}</a>'
        for fmt, name in (("csv", "CSV"), ("parquet", "Parquet"))
    ]
    return f'<span class="bar">{"".join(links)}</span>'


def add_download(app: FastAPI, source: Source) -> None:
    """`/download/csv` and `/download/parquet`: the readings in sight, streamed from ClickHouse as they come."""

    @app.get("/download/{fmt}")
    def download(fmt: Literal["csv", "parquet"], devices: str, metrics: str, begin_ms: int, end_ms: int) -> Response:
        query = queries.load("web_download")
        values = query.values(
            {"devices": _names(devices), "metrics": _names(metrics), "begin_ms": begin_ms, "end_ms": end_ms}
        )
        name, kind = FORMATS[fmt]
        chunks = source.stream(query.sql, values, name)
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
