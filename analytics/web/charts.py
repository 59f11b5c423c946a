"""Options of ECharts that look right in dark and in light, because they use colours between. Pure.

The x axis shows local times of the chosen zone: its numbers are moments moved by the zone's offset, drawn as UTC.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

PALETTE = ("#3b82f6", "#e07b2e", "#2a9d74", "#c2549d", "#8d6ff0", "#a88a24", "#3394b5", "#d9534f")
GREY = "#747c88"
GRID_PX = 250
BANDS_MAX = 4

STEPS_MS = tuple(
    s * 1000
    for s in (
        1,
        2,
        5,
        10,
        20,
        30,
        60,
        120,
        300,
        600,
        1200,
        1800,
        3600,
        7200,
        10800,
        21600,
        43200,
        86400,
        172800,
        604800,
    )
)
_TICK = "(value) => Number(value.toPrecision(6)).toLocaleString('en', { maximumSignificantDigits: 6 })"
_TIP = """(items) => {
  const shown = items.filter((i) => !i.seriesName.startsWith("\\u200b"));
  if (!shown.length) return "";
  const safe = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const at = new Date(shown[0].value[0]).toISOString().replace("T", " ").slice(0, 19);
  return `<b>${at}</b>` + shown.map((i) =>
    `<br>${i.marker}${safe(i.seriesName)} <b>${Number(i.value[1].toPrecision(6)).toLocaleString("en")}</b>`).join("");
}"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line. points: (milliseconds since 1970, value), ascending.

    bands: the least and the greatest at each point; empty: the points are readings. before: this is an earlier part of
    the series, moved here to be compared; how much earlier.
    """

    device: str
    metric: str
    unit: str
    points: list[tuple[int, float]]
    bands: list[tuple[float, float]] = field(default_factory=list)
    before: str = ""


def step_ms(span_ms: int, points: int) -> int:
    """The shortest step of STEPS_MS by which a span has at most so many points; whole weeks beyond them."""
    wanted = span_ms / points
    if wanted <= 50:
        return 1 if wanted <= 1 else 50
    return next((step for step in STEPS_MS if step >= wanted), -(-int(wanted) // STEPS_MS[-1]) * STEPS_MS[-1])


def local_ms(at_ms: int, zone: ZoneInfo) -> int:
    """The moment moved by the zone's offset then."""
    offset = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return at_ms + int(offset.total_seconds() * 1000)


def axis(series: Sequence[Series], view: tuple[int, int]) -> tuple[float, float, float]:
    """The least, the greatest and the step of a y axis for what is in sight; of the points beside it nothing."""
    seen = [value for one in series for at, value in one.points if view[0] <= at <= view[1]]
    for one in series:
        for (at, _), band in zip(one.points, one.bands, strict=False):
            seen += band if view[0] <= at <= view[1] else ()
    seen = [value for value in seen if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(seen), max(seen)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-200):
        low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(size * by for by in (1, 2, 2.5, 5, 10, 20) if size * by >= (high - low) / 4)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def height_px(series: Sequence[Series]) -> int:
    """Of the whole plot: a grid for each unit."""
    return max(len({_scale(one) for one in series}), 1) * GRID_PX + 48


def lines(series: Sequence[Series], zone: ZoneInfo, extent: tuple[int, int], view: tuple[int, int]) -> dict[str, Any]:
    """Lines over time, a grid for each unit. extent: the axis; view: the part of it that is in sight."""
    units = list(dict.fromkeys(map(_scale, series))) or [""]
    low, high = (local_ms(at, zone) for at in extent)
    colours = {key: PALETTE[at % len(PALETTE)] for at, key in enumerate(dict.fromkeys(map(_key, series)))}
    scales = [axis([one for one in series if _scale(one) == unit], view) for unit in units]
    shown = [
        part
        for one in series
        for part in _line(one, zone, colours[_key(one)], units.index(_scale(one)), band=len(colours) <= BANDS_MAX)
    ]
    return {
        "animation": False,
        "useUTC": True,
        "textStyle": {"fontFamily": "inherit", "color": GREY},
        "color": list(PALETTE),
        "legend": {
            "type": "scroll",
            "top": 0,
            "left": 0,
            "textStyle": {"color": GREY},
            "data": [_name(one) for one in series],
        },
        "tooltip": {
            "trigger": "axis",
            "className": "tip",
            "confine": True,
            ":formatter": _TIP,
            "axisPointer": {"lineStyle": {"color": GREY}},
        },
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "grid": [
            {"left": 64, "right": 18, "top": 62 + at * GRID_PX, "height": GRID_PX - 62} for at in range(len(units))
        ],
        "xAxis": [
            {
                "type": "time",
                "gridIndex": at,
                "min": low,
                "max": high,
                "axisLine": {"onZero": False, "lineStyle": {"color": GREY}},
                "axisLabel": {
                    "color": GREY,
                    "hideOverlap": True,
                    "formatter": {"day": "{MMM} {d}", "month": "{MMM} {yyyy}"},
                },
            }
            for at in range(len(units))
        ],
        "yAxis": [
            {
                "type": "value",
                "gridIndex": at,
                "min": scales[at][0],
                "max": scales[at][1],
                "interval": scales[at][2],
                "name": unit,
                "nameTextStyle": {"color": GREY, "align": "left", "padding": [0, 0, 0, -52]},
                "axisLabel": {"color": GREY, ":formatter": _TICK},
                "splitLine": {"lineStyle": {"color": "rgba(128,136,148,.22)"}},
            }
            for at, unit in enumerate(units)
        ],
        "dataZoom": [
            {
                "type": "inside",
                "xAxisIndex": list(range(len(units))),
                "startValue": local_ms(view[0], zone),
                "endValue": local_ms(view[1], zone),
                "filterMode": "none",
                "throttle": 120,
                "zoomOnMouseWheel": True,
            }
        ],
        "series": shown,
    }


def _scale(one: Series) -> str:
    """What shares a y axis: a unit; without one, a metric."""
    return one.unit or one.metric


def _key(one: Series) -> tuple[str, str]:
    return one.device, one.metric


def _name(one: Series) -> str:
    return f"{one.device} · {one.metric}" + (f", {one.before}" if one.before else "")


def _line(one: Series, zone: ZoneInfo, colour: str, grid: int, *, band: bool) -> list[dict[str, Any]]:
    times = [local_ms(at, zone) for at, _ in one.points]
    common = {"type": "line", "symbol": "none", "xAxisIndex": grid, "yAxisIndex": grid}
    style = {"width": 1.4, "type": [5, 4], "opacity": 0.75} if one.before else {"width": 1.6}
    line = common | {
        "name": _name(one),
        "showSymbol": len(times) < 40,
        "symbol": "circle",
        "symbolSize": 4,
        "lineStyle": style | {"color": colour},
        "itemStyle": {"color": colour},
        "data": [[at, value] for at, (_, value) in zip(times, one.points, strict=True)],
    }
    if not (band and one.bands):
        return [line]
    hidden = common | {
        "silent": True,
        "lineStyle": {"opacity": 0},
        "stack": f"band {_name(one)}",
        "tooltip": {"show": False},
    }
    rows = list(zip(times, one.bands, strict=True))
    return [
        line,
        hidden
        | {"name": f"\u200b{_name(one)} min", "stackStrategy": "all", "data": [[at, low] for at, (low, _) in rows]},
        hidden
        | {
            "name": f"\u200b{_name(one)} max",
            "stackStrategy": "all",
            "areaStyle": {"color": colour, "opacity": 0.16},
            "data": [[at, high - low] for at, (low, high) in rows],
        },
    ]


def places(found: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """Devices by longitude and latitude, on a graticule: there are no map tiles without the internet."""
    axis = {
        "type": "value",
        "scale": True,
        "axisLabel": {"color": GREY, "formatter": "{value}°"},
        "axisLine": {"show": True, "lineStyle": {"color": GREY}},
        "splitLine": {"lineStyle": {"color": "rgba(128,136,148,.22)"}},
        "nameTextStyle": {"color": GREY},
        "boundaryGap": ["15%", "15%"],
    }
    return {
        "animation": False,
        "textStyle": {"fontFamily": "inherit"},
        "grid": {"left": 56, "right": 24, "top": 32, "bottom": 40},
        "tooltip": {"className": "tip", "confine": True, "formatter": "{b}"},
        "xAxis": axis | {"name": "longitude", "nameLocation": "middle", "nameGap": 26},
        "yAxis": axis | {"name": "latitude"},
        "dataZoom": [
            {"type": "inside", "xAxisIndex": 0, "filterMode": "none"},
            {"type": "inside", "yAxisIndex": 0, "filterMode": "none"},
        ],
        "series": [
            {
                "type": "scatter",
                "symbolSize": 11,
                "itemStyle": {"color": PALETTE[0]},
                "label": {"show": len(found) <= 30, "formatter": "{b}", "position": "right", "color": GREY},
                "data": [{"name": name, "value": [longitude, latitude]} for name, latitude, longitude in found],
            }
        ],
    }
