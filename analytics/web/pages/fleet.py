"""Fleet: gateways and what waits in their spools, devices with their latest values, and where they are."""

import math
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.web import charts, frame
from analytics.web.asking import Asker
from analytics.web.pages.explorer import address_of

DEVICES_SHOWN = 50
SILENT_S = 60
BACKLOG_S = 30
PLACES_S = 20.0
MAP_PX = 320
VALUES_SHOWN = 12


async def build(asker: Asker, request: Request) -> None:
    """Fill the page; `?search=` begins with a filter."""
    trouble = frame.Trouble()
    tiles = frame.part()
    with ui.element("section").classes("card"):
        ui.html("<h2>Gateways</h2>", sanitize=False)
        gateways = frame.part().classes("scroll")
    with ui.element("section").classes("card"):
        with ui.element("div").classes("bar"):
            ui.html("<h2>Devices</h2>", sanitize=False).classes("grow")
            search = ui.input("Search by device or metric", value=request.query_params.get("search", ""))
            search.props("outlined dense clearable debounce=250").classes("grow")
        devices = frame.part()
        with ui.element("div").classes("bar") as paging:
            frame.button("Previous", lambda: turn(-DEVICES_SHOWN))
            frame.button("Next", lambda: turn(DEVICES_SHOWN))
    paging.visible = False
    with ui.element("section").classes("card") as map_card:
        ui.html(
            '<h2>Map</h2><p class="small soft" style="margin:0">Longitude and latitude as devices report them.</p>',
            sanitize=False,
        )
        box = ui.element("div").style("width:100%")
    map_card.visible = False
    skip = 0

    async def show_gateways() -> None:
        found = (await asker.named("web_gateways")).records
        gateways.content = _gateways(found)
        tiles.content = _tiles(found)

    async def show_devices() -> None:
        nonlocal skip
        found = (await asker.named("web_devices", search=search.value or "", limit=DEVICES_SHOWN, skip=skip)).records
        if not found and skip:
            skip = 0
        devices.content = _devices(found, search.value or "", skip)
        paging.visible = skip > 0 or bool(found and found[0]["devices"] > DEVICES_SHOWN)

    async def show_places() -> None:
        found = [(str(name), float(north), float(east)) for name, north, east in (await asker.named("web_places")).rows]
        map_card.visible = bool(found)
        if found:
            frame.chart(box, charts.places(found), "Map of devices", MAP_PX)

    async def turn(by: int) -> None:
        nonlocal skip
        skip = max(skip + by, 0)
        async with trouble.told():
            await show_devices()

    async def searched() -> None:
        nonlocal skip
        skip = 0
        async with trouble.told():
            await show_devices()

    async def refresh() -> None:
        await show_gateways()
        await show_devices()

    search.on_value_change(searched)
    await frame.live(refresh, trouble)
    await frame.live(show_places, trouble, PLACES_S)


def _tiles(found: list[dict[str, Any]]) -> str:
    heard = sum(row["seconds_ago"] <= SILENT_S for row in found)
    shown = (
        ("gateways heard of in the last minute", f"{heard} of {len(found)}"),
        ("readings per second, last minute", frame.number(sum(row["rate"] for row in found))),
        ("records waiting in spools", f"{sum(row['spool_records'] for row in found):,}"),
        ("records lost on purpose", f"{sum(row['losses'] for row in found):,}"),
    )
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{value}</b><span class="small soft">{name}</span></div>' for name, value in shown
        )
        + "</div>"
    )


def _gateways(found: list[dict[str, Any]]) -> str:
    if not found:
        return (
            '<p class="empty">No gateway has reported yet. Start one with '
            "<code>fieldline edge run --config gateway.toml</code>; it is listed once it has met the trunk.</p>"
        )
    rows = []
    for row in found:
        silent = row["seconds_ago"] > SILENT_S
        behind = row["lag_s"] > BACKLOG_S
        state = (
            '<span class="bad">silent</span>'
            if silent
            else '<span class="warn">behind</span>'
            if behind
            else '<span class="good">well</span>'
        )
        rows.append(
            (
                frame.safe(row["gateway"]),
                state,
                frame.ago(row["seconds_ago"]),
                f"{frame.number(row['rate'])} /s",
                f"{row['spool_records']:,} ({frame.size(row['spool_bytes'])})" if row["spool_records"] else "0",
                f"{row['lag_s']:,.1f} s" if row["spool_records"] else "none",
                f"{row['losses']:,}",
                f"{row['thinned']:,}",
            )
        )
    headings = ("Gateway", "State", "Last report", "Readings", "Waiting", "Oldest waiting", "Lost", "Thinned out")
    return frame.table(headings, rows, numbers=(3, 4, 5, 6, 7))


def _devices(found: list[dict[str, Any]], search: str, skip: int) -> str:
    if not found and search:
        return f'<p class="empty">No device or metric is called like “{frame.safe(search)}”. Clear the search.</p>'
    if not found:
        return (
            '<p class="empty">No readings yet. Let a device publish JSON to <code>devices/NAME/telemetry</code>, or '
            "try <code>fieldline simulate --mqtt HOST:PORT</code>.</p>"
        )
    rows = []
    for row in found:
        device = str(row["device"])
        rows.append(
            (
                f'<a href="{frame.safe(address_of(row))}">{frame.safe(device)}</a>',
                f'<div class="values">{"".join(_value(*one) for one in row["readings"][:VALUES_SHOWN])}</div>',
                f'<span title="{frame.when(row["seen"])} UTC">{_seen(row["seen"])}</span>',
            )
        )
    total = found[0]["devices"]
    said = f'<p class="small soft">{skip + 1:,} to {skip + len(found):,} of {total:,} devices</p>'
    return frame.table(("Device", "Latest values", "Measured"), rows) + said


def _value(metric: str, value: float, text: str, unit: str) -> str:
    shown = frame.safe(text[:60]) if math.isnan(value) else frame.number(value)
    return f'<span><span class="soft">{frame.safe(metric)}</span> <b>{shown}</b> {frame.safe(unit)}</span>'


def _seen(at: datetime) -> str:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    seconds = (datetime.now(UTC) - at).total_seconds()
    return frame.ago(seconds) if seconds < 86400 * 2 else f"{at:%Y-%m-%d %H:%M}"
