"""Custody: the accounting of every gateway and epoch, dead letters with their bytes and their replay, losses."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.dead_letters import lines, printable
from analytics.web import frame
from analytics.web.asking import Asker
from analytics.web.replaying import Configs, Replaying

LETTERS_S = 5.0
LETTERS_PER_PAGE = 5
LOSSES_MAX = 200


class Custody:
    """The page; one for all who open it, so that it knows where configs of gateways are."""

    def __init__(self, configs: Configs) -> None:
        self._configs = configs

    async def build(self, asker: Asker, _: Request) -> None:
        """Fill the page."""
        page = _Custody(asker, self._configs)
        await frame.live(page.refresh, page.trouble, LETTERS_S)
        ui.timer(0, page.count, once=True)
        ui.timer(0, page.rights, once=True)


class _Custody:
    """One open page."""

    def __init__(self, asker: Asker, configs: Configs) -> None:
        self._asker = asker
        self._kind, self._skip = "", 0
        self._in_turn = asyncio.Lock()
        self._shown: list[dict[str, Any]] | None = None
        self.trouble = frame.Trouble()
        with ui.element("section").classes("card"):
            with ui.element("div").classes("bar"):
                ui.html("<h2>Accounting</h2>", sanitize=False).classes("grow")
                frame.button("Count again", self.count)
            ui.html(
                '<p class="small soft">committed = stored + dead-lettered + lost + missing; missing must be 0. '
                "A gateway deletes nothing before its records are committed.</p>",
                sanitize=False,
            )
            self._books = frame.part().classes("scroll")
        with ui.element("section").classes("card"):
            ui.html("<h2>Dead letters</h2>", sanitize=False)
            self._kinds = ui.element("div").classes("rows")
            self._letters = ui.element("div").classes("rows")
            with ui.element("div").classes("bar") as self._paging:
                frame.button("Previous", partial(self._turn, -LETTERS_PER_PAGE))
                frame.button("Next", partial(self._turn, LETTERS_PER_PAGE))
        self._paging.visible = False
        self._replaying = Replaying(asker, configs, self._recount)
        with ui.element("section").classes("card"):
            ui.html("<h2>Losses</h2>", sanitize=False)
            self._losses = frame.part().classes("scroll")

    async def count(self) -> None:
        """Close the books of all gateways, which reads every record."""
        began = time.monotonic()
        self._books.content = self._books.content or '<p class="empty">Counting …</p>'
        async with self.trouble.told("accounting"):
            found = (await self._asker.counted("accounting")).records
            found.sort(key=lambda row: bool(row["identity_holds"]))  # what is broken comes first
            self._books.content = _books(found, time.monotonic() - began)

    async def rights(self) -> None:
        """Whether letters can be replayed from here."""
        async with self.trouble.told("rights"):
            await self._replaying.rights()

    async def refresh(self) -> None:
        """What is dead and lost now."""
        async with self._in_turn:  # else one that began before a replay could show the state before it
            groups = (await self._asker.named("web_dead_letters")).records
            if groups != self._shown:
                self._shown = groups
                _kinds(self._kinds, groups, self._open)
        self._losses.content = _losses((await self._asker.named("losses", limit=LOSSES_MAX)).records)

    async def _recount(self) -> None:
        async with self.trouble.told("refresh"):
            await self.refresh()

    async def _open(self, kind: str) -> None:
        self._kind, self._skip = kind, 0
        await self._turn(0)

    async def _turn(self, by: int) -> None:
        skip = max(self._skip + by, 0)
        async with self.trouble.told():
            found = (await self._asker.named("web_letters", kind=self._kind, skip=skip)).records
            if found or not skip:
                self._skip = skip
                _letters(self._letters, found, self._replaying.only)
                self._paging.visible = bool(skip) or len(found) == LETTERS_PER_PAGE


def _books(found: list[dict[str, Any]], took_s: float) -> str:
    if not found:
        return '<p class="empty">No gateway has sent anything yet; there is nothing to account for.</p>'
    names = ("committed", "stored", "dead_lettered", "losses", "missing", "duplicates", "uncommitted")
    rows = [
        (
            frame.safe(row["gateway"]),
            f"<code>{frame.safe(row['epoch'])}</code>",
            '<span class="good">holds</span>' if row["identity_holds"] else '<span class="bad">broken</span>',
            *(f"{row[name]:,}" for name in names),
        )
        for row in found
    ]
    headings = (
        "Gateway",
        "Epoch",
        "Identity",
        "Committed",
        "Stored",
        "Dead-lettered",
        "Lost",
        "Missing",
        "Duplicates",
        "In flight",
    )
    broken = sum(not row["identity_holds"] for row in found)
    verdict = (
        f'<span class="bad">The accounting is broken for {broken} of {len(found)}; see docs/custody.md.</span>'
        if broken
        else "Every committed record is accounted for, once."
    )
    said = f'<p class="small soft" style="margin:.75rem 0 0">{verdict} Counted in {took_s:.2f} s.</p>'
    return frame.table(headings, rows, numbers=range(3, 10)) + said


def _kinds(box: ui.element, groups: list[dict[str, Any]], open_: Any) -> None:
    box.clear()
    with box:
        if not groups:
            ui.html(
                '<p class="empty">No dead letters: whatever devices have sent could become readings.</p>',
                sanitize=False,
            )
        for row in groups:
            with ui.element("div").classes("bar"):
                ui.html(
                    f'<b>{row["letters"]:,}</b> <span class="wrap">{frame.safe(printable(row["latest_reason"]))}</span>'
                    f'<br><span class="small soft wrap">{frame.safe(", ".join(row["gateways"]))} · latest '
                    f"{frame.when(row['latest'])} UTC by {frame.safe(printable(row['latest_source']))} · "
                    f"{row['replayed']:,} replayed</span>",
                    sanitize=False,
                ).classes("grow")
                frame.button("Show", partial(open_, row["kind"])).props(
                    f'aria-label="Show {row["letters"]} dead letters"'
                )


def _letters(box: ui.element, found: list[dict[str, Any]], replay: Callable[[str], None]) -> None:
    box.clear()
    with box:
        for row in found:
            id_ = f"{row['gateway']}/{row['epoch']}/{row['seq']}"
            raw = "\n".join(lines(bytes.fromhex(row["raw"])))
            more = f"\n… {row['size']:,} bytes in all" if row["size"] * 2 > len(row["raw"]) else ""
            said = "" if row["epoch"] else "<br>A batch that was refused on the trunk is sent again by its gateway."
            with ui.element("div").classes("bar"):
                ui.html(
                    f'<p class="wrap"><b>{frame.safe(id_)}</b> · {frame.when(row["received_at"])} UTC · '
                    f"{frame.safe(printable(row['source']))} · {row['size']:,} bytes<br>"
                    f"{frame.safe(printable(row['reason']))}{said}</p>",
                    sanitize=False,
                ).classes("grow")
                if row["epoch"]:
                    frame.button("Replay this", partial(replay, id_)).props(f'aria-label="Replay this: {row["seq"]}"')
            ui.html(f'<pre class="raw" tabindex="0">{frame.safe(raw + more)}</pre>', sanitize=False)


def _losses(found: list[dict[str, Any]]) -> str:
    if not found:
        return '<p class="empty">No losses: no gateway had to evict records to make room.</p>'
    rows = [
        (
            frame.safe(row["gateway"]),
            f"{row['first_seq']:,} to {row['last_seq']:,}",
            f"{row['records']:,}",
            frame.safe(printable(row["reason"])),
            frame.when(row["declared_at"]),
        )
        for row in found
    ]
    return frame.table(("Gateway", "Seqs", "Records", "Why", "Declared (UTC)"), rows, numbers=(2,))
