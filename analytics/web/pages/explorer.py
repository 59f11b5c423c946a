"""Explorer: series of chosen devices and metrics over time, live or anywhere in the past.

In sight is a span [begin, end). Three times as much is asked for, so that a wheel or a finger can zoom out and pan;
then the new span is asked for. A span has at most `view.POINTS` points per series, whatever its length, and there are
at most `SERIES_MAX` series. While it follows, the end is the newest reading. The address bar has the whole view.

Raw readings are thinned by LTTB, which keeps those that make the line's shape: each point is a reading, where it was
measured. Points of rollups are means, with bands from the least to the greatest: LTTB of means would choose among
numbers that have lost their peaks already, and a band has every peak of the years that it stands for.
"""

import asyncio
import json
import math
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.web import charts, download, frame
from analytics.web.asking import Asker
from analytics.web.view import AGAINST, BROWSER, POINTS, SPANS, View, address, zones

SERIES_MAX = 16
POINTS_ASKED = 3 * POINTS
BEGIN_WITH = 8

_NOTHING = (
    '<p class="empty">These devices have no readings of these metrics. '
    "Choose others; the lists above have those that there are.</p>"
)


async def build(asker: Asker, request: Request) -> None:
    """Fill the page; the query string restores a view."""
    page = _Explorer(asker, View(request.query_params))
    await frame.live(page.lists, page.trouble, 30.0)
    await frame.live(page.refresh, page.trouble)
    ui.timer(0, page.clock, once=True)


class _Explorer:
    """One open page."""

    def __init__(self, asker: Asker, view: View) -> None:
        self._asker = asker
        self._view = view
        self._moving: asyncio.Task[None] | None = None
        self._turn = 0
        self.trouble = frame.Trouble()
        with ui.element("section").classes("card"):
            with ui.element("div").classes("bar"):
                self._devices = _many("Devices", view.devices)
                self._metrics = _many("Metrics", view.metrics)
            with ui.element("div").classes("bar"):
                self._spans = {name: frame.button(name, partial(self._look, s)) for name, s in SPANS.items()}
                ui.element("span").classes("grow")
                self._against = ui.select(AGAINST, value=view.against_s, label="Compare with")
                self._against.props("outlined dense").classes("choice")
                self._zone = ui.select(_zones(""), value=view.zone, label="Time zone", with_input=True)
                self._zone.props("outlined dense").classes("choice")
            with ui.element("div").classes("bar"):
                self._follow = frame.button("Follow", self._follow_or_not)
                frame.button("◀ Earlier", partial(self._shift, -0.5))
                frame.button("Later ▶", partial(self._shift, 0.5))
                frame.button("Zoom in", partial(self._zoom, 0.5))
                frame.button("Zoom out", partial(self._zoom, 2.0))
                ui.element("span").classes("grow")
                self._links = ui.html("", sanitize=False)
        self._empty = frame.part()
        with ui.element("section").classes("card") as self._card:
            self._caption = ui.label().classes("small soft")
            self._box = ui.element("div").style("width:100%")
        self._card.visible = False
        for choice in (self._devices, self._metrics, self._zone, self._against):
            choice.on_value_change(self._chosen)

    async def lists(self) -> None:
        """What there is to choose from."""
        [(devices, metrics)] = (await self._asker.named("web_choices")).rows
        for choice, known in ((self._devices, devices), (self._metrics, metrics)):
            wanted = sorted({*known, *choice.value})
            if choice.options != wanted:
                choice.set_options(wanted)

    async def clock(self) -> None:
        """Learn the browser's time zone."""
        with suppress(TimeoutError):  # it has gone, or is slow: UTC
            self._view.browser_zone = await ui.run_javascript(_BROWSER_ZONE, timeout=10.0)
            self._zone.set_options(_zones(self._view.browser_zone))
            if self._view.zone == BROWSER:
                await self._show()

    async def refresh(self) -> None:
        """What is new, while it follows."""
        if self._view.follows or not self._card.visible:
            await self._draw()

    async def _draw(self) -> None:
        self._turn += 1
        turn, view = self._turn, self._view
        self._press()
        if not view.devices or not view.metrics:
            self._say(_choose((await self._asker.named("web_devices", limit=BEGIN_WITH)).records))
            return
        known = (await self._asker.named("web_selected", devices=view.devices, metrics=view.metrics)).records
        if not known:
            self._say(_NOTHING)
            return
        if view.follows:
            view.end_ms = max(int(one["newest"].replace(tzinfo=UTC).timestamp() * 1000) for one in known) + 1
            self._press()
        backs = (0, view.against_s) if view.against_s else (0,)
        found = await asyncio.gather(*(_points(self._asker, view, back_s) for back_s in backs))
        if turn != self._turn:  # somebody has moved on meanwhile
            return
        drawn = known[:SERIES_MAX]
        series = [one for back_s, rows in zip(backs, found, strict=True) for one in _series(drawn, rows, back_s)]
        self._say("")
        options = charts.lines(series, view.clock, view.extent, (view.begin_ms, view.end_ms))
        made = frame.chart(self._box, options, "Readings over time", charts.height_px(series))
        if made is not None:
            made.on("chart:datazoom", self._zoomed, ["batch", "start", "end"])
        thinned = any(len(one.points) >= POINTS_ASKED for one in series)
        self._caption.text = view.caption(len(known), len(drawn), thinned=thinned)

    def _say(self, instead: str) -> None:
        """Show this instead of the plot."""
        self._card.visible = not instead
        self._empty.content = instead

    def _press(self) -> None:
        self._follow.props(f"aria-pressed={str(self._view.follows).lower()}")
        for name, one in self._spans.items():
            one.props(f"aria-pressed={str(self._view.span_ms == SPANS[name] * 1000).lower()}")
        self._links.content = _downloads(self._view)

    async def _show(self) -> None:
        ui.run_javascript(f"history.replaceState(null, '', {json.dumps(self._view.link)})")
        async with self.trouble.told("refresh"):
            await self._draw()

    async def _chosen(self) -> None:
        view = self._view
        view.devices, view.metrics = list(self._devices.value), list(self._metrics.value)
        view.zone, view.against_s = self._zone.value, self._against.value
        await self._show()

    async def _look(self, seconds: int) -> None:
        self._view.span_ms = seconds * 1000
        await self._show()

    async def _follow_or_not(self) -> None:
        self._view.follows = not self._view.follows
        await self._show()

    async def _shift(self, by: float) -> None:
        view = self._view
        view.move(view.begin_ms + int(by * view.span_ms), view.end_ms + int(by * view.span_ms))
        await self._show()

    async def _zoom(self, by: float) -> None:
        view = self._view
        middle, half = view.end_ms - view.span_ms // 2, int(view.span_ms * by) // 2
        view.move(middle - half, middle + half)
        await self._show()

    async def _zoomed(self, event: Any) -> None:
        view = self._view
        found = (event.args.get("batch") or [event.args])[0]
        if found.get("start") is None:
            return
        begin, end = view.extent
        # an event that our own drawing caused says what is in sight already
        there = [begin + int(found[side] / 100 * (end - begin)) for side in ("start", "end")]
        if abs(there[0] - view.begin_ms) + abs(there[1] - view.end_ms) < view.span_ms * 0.01:
            return
        if self._moving is not None:
            self._moving.cancel()
        self._moving = asyncio.current_task()
        await asyncio.sleep(0.25)
        view.move(*there)
        await self._show()


def _many(label: str, chosen: list[str]) -> ui.select:
    choice = ui.select(chosen, value=chosen, label=label, multiple=True, with_input=True)
    choice.props("outlined dense use-chips").classes("grow")
    return choice


_BROWSER_ZONE = "Intl.DateTimeFormat().resolvedOptions().timeZone"


def _zones(of_browser: str) -> dict[str, str]:
    """The time zones to choose from: UTC and the browser's own, then all by name."""
    return {"UTC": "UTC", BROWSER: f"Browser's ({of_browser or '…'})", **{name: name for name in zones()}}


async def _points(asker: Asker, view: View, back_s: int) -> list[tuple[Any, ...]]:
    """Rows of the view's extent so many seconds ago, moved to now."""
    begin, end = (at - back_s * 1000 for at in view.extent)
    chosen = {"devices": view.devices, "metrics": view.metrics, "begin_ms": begin, "end_ms": end}
    if view.source == "raw":
        found = await asker.named("web_series_raw", **chosen, points=POINTS_ASKED)
    else:
        found = await asker.named("web_series_rollup", **chosen, table=view.source, step_ms=view.step_ms)
    return [(device, metric, at + back_s * 1000, *values) for device, metric, at, *values in found.rows]


def _series(known: list[dict[str, Any]], rows: list[tuple[Any, ...]], back_s: int) -> list[charts.Series]:
    """Of each series its line. Rows have a value, or a mean with the least and the greatest."""
    before = AGAINST[back_s] if back_s else ""
    made = {
        (one["device"], one["metric"]): charts.Series(one["device"], one["metric"], one["unit"], [], [], before)
        for one in known
    }
    for device, metric, at, value, *band in rows:
        if one := made.get((device, metric)):
            one.points.append((at, value))
            if band and not before:
                one.bands.append((band[0], band[1]))
    return [one for one in made.values() if one.points or not before]


def _choose(found: list[dict[str, Any]]) -> str:
    """What to do while nothing is chosen."""
    begin = " · ".join(f'<a href="{frame.safe(address_of(row))}">{frame.safe(row["device"])}</a>' for row in found)
    if not begin:
        return (
            '<p class="empty">No readings yet: let a device publish JSON to <code>devices/NAME/telemetry</code>; '
            "then it can be chosen above.</p>"
        )
    return f'<p class="empty">Choose at least one device and one metric above, or begin with one of these: {begin}</p>'


def address_of(row: dict[str, Any]) -> str:
    """The explorer with a device of `web_devices`, and its first metric that is a number."""
    numbers = [name for name, value, _, _ in row["readings"] if not math.isnan(value)]
    return address([row["device"]], numbers[:1])


def _downloads(view: View) -> str:
    if not (view.devices and view.metrics and view.end_ms):
        return ""
    links = [
        f'<a class="plain" href="{frame.safe(download.address(view, fmt))}" download>{name}</a>'
        for fmt, name in download.NAMES.items()
    ]
    return f'<span class="bar">{"".join(links)}</span>'
