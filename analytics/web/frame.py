"""What all pages have in common: heading, navigation, dark or light, and how a page says what is wrong.

A page is a module in `pages/` with `build(asker, request)`, and a line in `serve.pages`.
"""

import html
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from fastapi import Request
from nicegui import Client, app, ui

from analytics.web.asking import Asker, Source
from telemetry.errors import FieldlineError

REFRESH_S = 2.0
THEMES: dict[str, bool | None] = {"auto": None, "dark": True, "light": False}


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `build` fills it, and is run once for each time it is opened."""

    path: str
    name: str
    build: Callable[[Asker, Request], Awaitable[None]]


def add(source: Source, pages: Sequence[Page], *, signed_in: bool) -> None:
    """Make the pages known to NiceGUI."""
    app.config.quasar_config["loadingBar"]["skipHijack"] = True  # no bar runs over the page while it is live
    head = (
        f"<style>{files('analytics.web').joinpath('style.css').read_text()}</style>"
        f"<script>{files('analytics.web').joinpath('page.js').read_text()}</script>"
    )

    def make(page: Page) -> None:
        async def opened(request: Request, client: Client) -> None:
            asker = Asker(source)
            client.on_delete(asker.cancel)
            ui.add_head_html(head)
            _heading(page, pages, request, signed_in=signed_in)
            with ui.element("div").classes("page").props("id=main tabindex=-1"):
                ui.html(f"<h1>{page.name}</h1>", sanitize=False)
                await page.build(asker, request)

        ui.page(page.path, title=f"{page.name} · Fieldline", language="en-US")(opened)

    for page in pages:
        make(page)


def _heading(page: Page, pages: Sequence[Page], request: Request, *, signed_in: bool) -> None:
    wanted = request.cookies.get("fieldline_theme", "auto")
    theme = wanted if wanted in THEMES else "auto"
    dark = ui.dark_mode(value=THEMES[theme])
    links = "".join(
        f'<a href="{other.path}"{" aria-current=page" if other is page else ""}>{other.name}</a>' for other in pages
    )
    with ui.element("header").classes("top"):
        ui.html(
            '<a class="skip" href="#main">Skip to content</a><a class="name" href="/">Fieldline</a>', sanitize=False
        )
        ui.element("span").classes("space")
        ui.html(f'<nav aria-label="Pages" style="display:flex">{links}</nav>', sanitize=False).classes("nav").style(
            "flex:1"
        )
        button = ui.element("button").classes("plain small").props("type=button")
        with button:
            label = ui.label(f"Theme: {theme}")

        def turn() -> None:
            nonlocal theme
            names = list(THEMES)
            theme = names[(names.index(theme) + 1) % len(names)]
            dark.value = THEMES[theme]
            label.text = f"Theme: {theme}"
            ui.run_javascript(f"fieldline.theme('{theme}')")

        button.on("click", turn)
        if signed_in:
            ui.html('<a class="plain small" href="/sign-out">Sign out</a>', sanitize=False)


class Trouble:
    """A place in the page for the sentence that says what is wrong; invisible while nothing is."""

    def __init__(self) -> None:
        self._box = ui.label().classes("trouble wrap").props("role=alert")
        self._box.visible = False
        self._said: dict[str, str] = {}

    @asynccontextmanager
    async def told(self, about: str = "") -> AsyncIterator[None]:
        """What is raised inside is shown, until a block about the same ends well."""
        try:
            yield
        except FieldlineError as error:
            self.say(str(error), about)
        else:
            self.say("", about)

    def say(self, text: str, about: str = "") -> None:
        """Show it; an empty text ends what was said about this."""
        self._said[about] = text
        shown = dict.fromkeys(said for said in self._said.values() if said)
        self._box.text = " ".join(shown)
        self._box.visible = bool(shown)


async def live(refresh: Callable[[], Awaitable[None]], trouble: Trouble, every_s: float = REFRESH_S) -> None:
    """Run `refresh` now and again and again, never twice at once; its errors are told.

    One that takes long rests four times as long, so that an open page asks during at most a fifth of the time.
    """
    busy, due_s = False, 0.0

    async def turn() -> None:
        nonlocal busy, due_s
        began_s = time.monotonic()
        if busy or began_s < due_s:
            return
        busy = True
        try:
            async with trouble.told(refresh.__name__):
                await refresh()
        finally:
            busy = False
            ended_s = time.monotonic()
            due_s = ended_s + 4 * (ended_s - began_s)

    ui.timer(every_s, turn, immediate=True)


def part() -> ui.html:
    """A part of the page that is written anew by `content`; its text must be escaped (`safe`)."""
    return ui.html("", sanitize=False).classes("live").style("width:100%")


def button(text: str, act: Callable[[], Any], *, strong: bool = False) -> ui.element:
    """A plain button of the page."""
    made = ui.element("button").classes("plain strong" if strong else "plain").props("type=button")
    with made:
        ui.label(text)
    made.on("click", act)
    return made


def chart(box: ui.element, options: dict[str, Any], name: str, height_px: int) -> ui.echart | None:
    """Draw in the box. The chart, if it was made now: with its first drawing, for its library is large."""
    made = None
    if not box.default_slot.children:
        with box:
            made = ui.echart({"series": []}).style("width:100%").props(f'role=img aria-label="{name}"')
    [drawn] = box.default_slot.children
    assert isinstance(drawn, ui.echart)
    if drawn.options != options:  # else nothing is sent
        drawn.style(f"height:{height_px}px")
        drawn.options.clear()
        drawn.options.update(options)
    return made


def safe(text: object) -> str:
    """A text for HTML."""
    return html.escape(str(text))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """An HTML table that becomes a list on a phone. Cells are HTML; `numbers`: the columns that are right-aligned."""
    kinds = ["n" if at in numbers else "" for at in range(len(headings))]
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in zip(headings, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}" data-is="{name}">{cell}</td>'
            for name, kind, cell in zip(headings, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="data stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def number(value: float) -> str:
    """With at most 6 significant digits, and separators of thousands."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e15 or (value and abs(value) < 1e-4):
        return f"{value:.4g}"
    if abs(value) >= 1e5:
        return f"{value:,.0f}"
    decimals = max(0, min(4, 5 - len(str(int(abs(value))))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ago(seconds: float) -> str:
    """A time in the past, for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def when(at: datetime) -> str:
    """A moment in UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
