"""How the benches draw: panels in one look. A picture is a PNG of a few dozen kB, legible without its text.

A bench leaves its pictures in its directory; `python -m bench` puts them where `--pictures` says.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

TEXT, GRID = "#333333", "#dddddd"
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")


def panels(title: str, rows: int, columns: int, size_inches: tuple[float, float]) -> tuple[Canvas, list[Axes]]:
    """A canvas under a title, and its panels row by row."""
    canvas = Canvas(figsize=size_inches, layout="constrained")
    canvas.suptitle(title, color=TEXT)
    found = canvas.subplots(rows, columns, squeeze=False)
    for panel in found.flat:
        panel.grid(color=GRID, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=TEXT, labelsize=8)
    return canvas, list(found.flat)


def label(panel: Axes, title: str, x: str = "", y: str = "") -> None:
    """A panel's title and the names of its axes, with their units."""
    panel.set_title(title, fontsize=10, color=TEXT, loc="left")
    panel.set_xlabel(x, fontsize=9, color=TEXT)
    panel.set_ylabel(y, fontsize=9, color=TEXT)


def lines(panel: Axes, x: Sequence[float], named: dict[str, Sequence[float]]) -> None:
    """Lines over the same x, from 0 up, with a legend if there are several."""
    for (name, y), colour in zip(named.items(), COLOURS, strict=False):
        panel.plot(x, y, linewidth=1.4, label=name, color=colour)
    _from_zero(panel)
    _legend(panel)


def curves(
    panel: Axes, rows: Sequence[Sequence[float | str]], columns: dict[str, int], *, log: str = "x", colour: int = 0
) -> None:
    """Columns of a table over its first one, by name; cells that are no numbers are left out. log: which axes are."""
    for number, (name, at) in enumerate(columns.items(), colour):
        points = [(row[0], row[at]) for row in rows if not isinstance(row[at], str)]
        panel.plot(
            *zip(*points, strict=True), linewidth=1.4, label=name, color=COLOURS[number], marker="o", markersize=4
        )
    if "x" in log:
        panel.set_xscale("log")
    if "y" in log:
        panel.set_yscale("log")
    else:
        _from_zero(panel)
    _legend(panel)


def _from_zero(panel: Axes) -> None:
    panel.set_ylim(0, 1.06 * max(max(line.get_ydata()) for line in panel.get_lines()) or 1)


def _legend(panel: Axes) -> None:
    if len(panel.get_lines()) > 1:
        panel.legend(fontsize=8, frameon=False)


def save(canvas: Canvas, path: Path) -> None:
    """Write the picture."""
    canvas.savefig(path, dpi=110)
