"""`python -m bench.screenshots`: pictures of the dashboard on the demo's live data, into docs/pictures.

A stack of its own is started as `fieldline demo` does it, and four turbines are replayed through it at twenty times the
demo's speed. Each picture is taken when the tables have the data that it is to show, and the page shows it. Also
prints, per page, when its first content was painted, and the dashboard's resident memory.
"""

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image  # comes with matplotlib
from playwright.async_api import Browser, Page, async_playwright

from analytics.alerts.rules import of_json
from analytics.alerts.store import Store
from ingest.clickhouse.client import Client
from proof.demo import fleet_command
from proof.ports import free_ports
from proof.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
SAMPLE = ROOT / "data" / "la_haute_borne" / "2015-03.csv"
DESK, PHONE = (1280, 900), (390, 844)
WEEK = "device=R80711&device=R80721&metric=Ws_avg&metric=P_avg&span_ms=604800000"
COMPARED = "device=R80711&metric=Ws_avg&metric=P_avg&span_ms=345600000&against=604800"
SQL = "SELECT toDate(measured_at) AS day, device, round(avg(value)) AS power\nFROM fieldline.readings\n"
SQL += "WHERE metric = 'P_avg'\nGROUP BY day, device\nORDER BY day, device"
FEW = "SELECT count() > 20000 FROM fieldline.readings"
DAYS = "SELECT max(measured_at) > '2015-03-17' FROM fieldline.readings WHERE device = 'R80711'"
RINGS = "SELECT count() >= 2 FROM fieldline.alerts WHERE state = 'firing'"
MAPPING = 'gateway = "demo-gateway"\n[coap]\n\n[[mappings]]\ntopic = "plant/{device}/up"\nformat = "json"\n'
RULES = (
    {"name": "kettle boils", "kind": "threshold", "metric": "temperature", "above": 80, "clear": 75, "note": "Tea!"},
    {"name": "gearbox too hot", "kind": "threshold", "metric": "Gb1t_avg", "above": 90, "clear": 85, "for_s": 300},
    {"name": "turbine silent", "kind": "silence", "of": "device", "match": "R80*", "after_s": 900},
)
BYTES_MAX = 150_000
SHOWN_S_MAX = 60


async def _look(_: Page) -> None:
    """As it opens."""


async def _query(page: Page) -> None:
    await page.locator(".cm-content").click()
    await page.keyboard.press("Control+a")
    await page.keyboard.insert_text(SQL)
    await page.keyboard.press("Escape")
    await page.keyboard.press("Control+Enter")
    await page.get_by_role("button", name="Chart").click()
    await page.wait_for_selector("canvas")
    await page.mouse.move(0, 0)


async def _replay(page: Page) -> None:
    await page.get_by_role("button", name="Show 2 dead letters").click()
    await page.wait_for_selector("pre.raw")
    await page.get_by_label("Config of the gateway").click()
    await page.get_by_role("option", name="a config that I paste").click()
    await page.get_by_label("The config").fill(MAPPING)
    await page.locator("#replay").get_by_role("button", name="Try it").click()
    await page.get_by_text("2 dead letters would give").wait_for()
    await page.evaluate("window.scrollTo(0, document.getElementById('replay').offsetTop - 260)")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture. ready: what the tables must answer with true; shown: what the page must have then."""

    name: str
    path: str
    scheme: str
    size: tuple[int, int]
    ready: str
    shown: str
    act: Callable[[Page], Awaitable[None]] = _look


SHOTS = (
    Shot("fleet", "/", "light", DESK, FEW, "tr:has-text('R80790')"),
    Shot("phone-fleet", "/", "dark", PHONE, FEW, "tr:has-text('R80790')"),
    Shot("explorer", f"/explorer?{WEEK}", "light", DESK, DAYS, "canvas"),
    Shot("explorer-compared", f"/explorer?{COMPARED}", "dark", DESK, DAYS, "canvas"),
    Shot("phone-explorer", f"/explorer?{WEEK}", "light", PHONE, DAYS, "canvas"),
    Shot("sql", "/sql", "dark", DESK, DAYS, ".cm-content", _query),
    Shot("custody", "/custody", "light", DESK, RINGS, ".good:has-text('holds')", _replay),
    Shot("alerts", "/alerts", "light", DESK, RINGS, ".bar:has-text('kettle boils')"),
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), free_ports(), topics=("devices/+/telemetry", "plant/#"))
        stack.add_alerts()
        web = stack.add_dashboard()
        fleet = fleet_command(stack.ports, stack.directory / "fleet.json")
        async with stack.running(), async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
            )
            sending = stack.add("fleet", (*fleet, "--csv", str(SAMPLE), "--speed", "72000"), restart=False)
            sending.start()
            with closing(stack.client()) as client:
                prepare(stack, client)
                for shot in SHOTS:
                    await until(client, shot.ready)
                    await shoot(browser, f"http://127.0.0.1:{stack.ports.web}{shot.path}", shot)
            print(f"dashboard: {psutil.Process(web.pid).memory_info().rss / 1e6:.0f} MB resident")
            await browser.close()
            await sending.stop()


def prepare(stack: Stack, client: Client) -> None:
    """What people and devices have done before: rules, a kettle that boils, messages of a topic without a mapping."""
    for keys in RULES:
        Store(client).set_rule(str(keys["name"]), of_json(json.dumps(keys)), "dashboard", time.time_ns() // 1_000_000)
    publish(stack, "devices/kettle/telemetry", '{"temperature": 81.5, "latitude": 48.45, "longitude": 5.59}')
    for level in (0.41, 0.43):
        publish(stack, "plant/tank-7/up", f'{{"level": {level}, "valve": "open"}}')


async def until(client: Client, question: str) -> None:
    """Ask until it is true."""
    for _ in range(SHOWN_S_MAX * 10):
        if client.query(question).result_rows[0][0]:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(question)


def publish(stack: Stack, topic: str, payload: str) -> None:
    command = ["mosquitto_pub", "-p", str(stack.ports.mqtt), "-q", "1", "-t", topic, "-m", payload]
    subprocess.run(command, check=True, timeout=10)


async def shoot(browser: Browser, url: str, shot: Shot) -> None:
    context = await browser.new_context(
        viewport={"width": shot.size[0], "height": shot.size[1]},
        color_scheme="dark" if shot.scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = await context.new_page()
    await page.goto(url)
    await page.locator(shot.shown).first.wait_for(timeout=SHOWN_S_MAX * 1000)
    await shot.act(page)
    await page.evaluate("document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
    file = PICTURES / f"dashboard-{shot.name}.png"
    await page.screenshot(path=file, animations="disabled")
    with Image.open(file) as picture:  # 256 colours, chosen to be close to all, take half of the bytes
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    painted_ms = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"{shot.name}: first content after {painted_ms:.0f} ms, {file.stat().st_size / 1000:.0f} kB")
    assert file.stat().st_size <= BYTES_MAX, f"{file} is too large"
    await context.close()


if __name__ == "__main__":
    asyncio.run(main())
