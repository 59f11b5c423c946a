"""Custody: the accounting of every gateway and epoch, dead letters with their bytes and how to replay them, losses."""

import shlex
import time
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.dead_letters import lines, printable
from analytics.web import frame
from analytics.web.asking import Asker

LETTERS_S = 10.0
LETTERS_PER_PAGE = 5
LOSSES_MAX = 200


async def build(asker: Asker, _: Request) -> None:
    """Fill the page."""
    trouble = frame.Trouble()
    with ui.element("section").classes("card"):
        with ui.element("div").classes("bar"):
            ui.html("<h2>Accounting</h2>", sanitize=False).classes("grow")
            frame.button("Count again", lambda: count())
        ui.html(
            '<p class="small soft">committed = stored + dead-lettered + lost + missing; missing must be 0. '
            "A gateway deletes nothing before its records are committed.</p>",
            sanitize=False,
        )
        books = frame.part().classes("scroll")
    with ui.element("section").classes("card"):
        ui.html("<h2>Dead letters</h2>", sanitize=False)
        kinds = ui.element("div").style("width:100%;display:flex;flex-direction:column;gap:.5rem")
        letters = frame.part()
        with ui.element("div").classes("bar") as paging:
            frame.button("Previous", lambda: turn(-LETTERS_PER_PAGE))
            frame.button("Next", lambda: turn(LETTERS_PER_PAGE))
    paging.visible = False
    with ui.element("section").classes("card"):
        ui.html("<h2>Losses</h2>", sanitize=False)
        losses = frame.part().classes("scroll")
    opened: dict[str, Any] = {"kind": None, "skip": 0}
    shown: list[dict[str, Any]] | None = None

    async def count() -> None:
        began = time.monotonic()
        books.content = books.content or '<p class="empty">Counting …</p>'
        async with trouble.told("accounting"):
            found = (await asker.counted("accounting")).records
            found.sort(key=lambda row: bool(row["identity_holds"]))  # what is broken comes first
            books.content = _books(found, time.monotonic() - began)

    async def refresh() -> None:
        nonlocal shown
        groups = (await asker.named("web_dead_letters")).records
        if groups != shown:
            shown = groups
            _kinds(kinds, groups, open_)
        losses.content = _losses((await asker.named("losses", limit=LOSSES_MAX)).records)

    async def open_(kind: str) -> None:
        opened.update(kind=kind, skip=0)
        await turn(0)

    async def turn(by: int) -> None:
        opened["skip"] = max(opened["skip"] + by, 0)
        async with trouble.told():
            found = (await asker.named("web_letters", kind=opened["kind"], skip=opened["skip"])).records
            if found or not opened["skip"]:
                letters.content = _letters(found)
                paging.visible = bool(opened["skip"]) or len(found) == LETTERS_PER_PAGE
            else:
                opened["skip"] -= by

    await frame.live(refresh, trouble, LETTERS_S)
    ui.timer(0, count, once=True)


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


def _letters(found: list[dict[str, Any]]) -> str:
    parts = []
    for row in found:
        id_ = f"{row['gateway']}/{row['epoch']}/{row['seq']}"
        raw = "\n".join(lines(bytes.fromhex(row["raw"])))
        more = f"\n… {row['size']:,} bytes in all" if row["size"] * 2 > len(row["raw"]) else ""
        replay = (
            f"<p class='small soft'>After a fix of the mapping, where gateway.toml is: "
            f"<code>fieldline dead-letters replay -c gateway.toml {frame.safe(shlex.quote(id_))}</code></p>"
            if row["epoch"]
            else "<p class='small soft'>A batch that was refused on the trunk is sent again by its gateway.</p>"
        )
        parts.append(
            f'<p style="margin:.5rem 0" class="wrap"><b>{frame.safe(id_)}</b> · {frame.when(row["received_at"])} UTC · '
            f"{frame.safe(printable(row['source']))} · {row['size']:,} bytes<br>"
            f"{frame.safe(printable(row['reason']))}</p>"
            f'<pre class="raw" tabindex="0">{frame.safe(raw + more)}</pre>{replay}'
        )
    return "".join(parts)


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
