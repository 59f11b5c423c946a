"""The dashboard in a real Chromium, over a real stack: every page on live data, on a desk and on a phone.

A device's message is published by Mosquitto's client; what the pages show of it came the whole way.
"""

import asyncio
import csv
import io
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from analytics import queries
from analytics.migrate import run as migrate_run
from ingest.clickhouse.client import connect
from proof.ports import free_ports
from proof.stack import FIELDLINE, Stack
from tests.clickhouse import clickhouse

PASSWORD = "correct horse battery"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync")
SOON_MS = 15_000


@asynccontextmanager
async def dashboard(directory: Path) -> AsyncIterator[tuple[Stack, str]]:
    """A stack with a dashboard that asks for a password, and its address."""
    secret = directory / "password"
    secret.write_text(PASSWORD + "\n")
    stack = Stack(directory / "stack", free_ports())
    program = stack.add_dashboard()
    program.command = (*program.command, "--password-file", str(secret))
    async with stack.running():
        yield stack, f"http://127.0.0.1:{stack.ports.web}"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """What a page must not do: talk to other hosts, write errors."""

    def __init__(self, page: Page, base: str) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url, base))

    def _check(self, url: str, base: str) -> None:
        if not url.startswith((base, base.replace("http:", "ws:"), "data:", "blob:")):
            self.complaints.append(f"asked another host: {url}")


def publish(stack: Stack, device: str, payload: str) -> None:
    port = str(stack.ports.mqtt)
    subprocess.run(
        ["mosquitto_pub", "-p", port, "-q", "1", "-t", f"devices/{device}/telemetry", "-m", payload],
        check=True,
        timeout=10,
    )


async def sign_in(page: Page, base: str) -> None:
    await page.goto(f"{base}/custody")
    await page.fill("#password", "wrong password")
    await page.press("#password", "Enter")
    await expect(page.get_by_role("alert")).to_contain_text("not the password")
    await page.fill("#password", PASSWORD)
    await page.press("#password", "Enter")
    await expect(page.locator("h1")).to_have_text("Custody")
    [cookie] = await page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"


async def see_fleet(page: Page, base: str, stack: Stack) -> None:
    await page.goto(base)
    await expect(page.locator("main")).to_contain_text("No readings yet")
    await asyncio.to_thread(publish, stack, "kettle", '{"temperature": 81.5, "latitude": 54.1, "longitude": 12.1}')
    row = page.locator("tr", has_text="kettle")
    await expect(row).to_contain_text("81.5", timeout=SOON_MS)
    await asyncio.to_thread(publish, stack, "kettle", '{"temperature": 82.25}')
    await expect(row).to_contain_text("82.25", timeout=SOON_MS)
    await expect(page.locator("tr", has_text="demo-gateway")).to_contain_text("well", timeout=SOON_MS)
    await page.get_by_label("Search by device or metric").fill("nothing like it")
    await expect(page.locator("main")).to_contain_text("Clear the search")


async def see_explorer(page: Page, base: str) -> None:
    await page.goto(base)
    await page.get_by_role("link", name="kettle").click()
    await expect(page.locator("canvas")).to_be_visible(timeout=SOON_MS)
    await page.goto(f"{base}/explorer?devices=kettle&metrics=temperature&zone=Asia/Kolkata&span_ms=3600000")
    await expect(page.locator("canvas")).to_be_visible(timeout=SOON_MS)
    await expect(page.locator("main")).to_contain_text("Asia/Kolkata; a point every 10 s, from raw readings")
    await page.get_by_role("button", name="Earlier").click()
    await expect(page).to_have_url(re.compile("end_ms="))
    link = page.url
    await page.get_by_role("button", name="Later").click()
    await expect(page).not_to_have_url(link)
    texts = {}
    for name in ("CSV", "Parquet"):
        async with page.expect_download() as found:
            await page.get_by_role("link", name=name).click()
        texts[name] = Path(await (await found.value).path()).read_bytes()
    rows = list(csv.DictReader(io.StringIO(texts["CSV"].decode())))
    assert [float(row["value"]) for row in rows] == [81.5, 82.25]
    assert pq.read_table(io.BytesIO(texts["Parquet"]))["value"].to_pylist() == [81.5, 82.25]
    await page.goto(link)
    await expect(page.locator("main")).to_contain_text("Asia/Kolkata")
    assert page.url == link


async def write(page: Page, text: str) -> None:
    await page.locator(".cm-content").click()
    await page.keyboard.press("Control+a")
    await page.keyboard.insert_text(text)


async def see_sql(page: Page, base: str, stack: Stack) -> None:
    await page.goto(f"{base}/sql")
    await expect(page.locator(".cm-content")).to_have_attribute("aria-label", "SQL statement", timeout=SOON_MS)
    await write(page, "SELECT device, value * 2 AS twice FROM fieldline.latest WHERE metric = 'temperature'")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".ag-cell", has_text="164.5")).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("button", name="Chart").click()
    await expect(page.locator("canvas")).to_be_visible()
    await write(page, "SELECT device FORM fieldline.latest")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text("position")
    await write(page, "INSERT INTO fieldline.losses (gateway) VALUES ('x')")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text(re.compile("read.?only", re.IGNORECASE))
    await write(page, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sin(number))")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("status")).to_have_text("Running …")
    await until_running(stack, count=1)
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("alert")).to_contain_text("cancel", timeout=SOON_MS, ignore_case=True)
    await page.get_by_role("button", name="Run").click()
    await until_running(stack, count=1)
    await page.goto(base)  # a page that is closed cancels its queries
    await until_running(stack, count=0)
    await page.goto(f"{base}/sql")
    await write(page, "SELECT 1 AS one")
    await page.get_by_label("Save as").fill("my query")
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(page.get_by_role("status")).to_have_text("Saved as my query.")
    kept = json.loads((stack.directory / "statements.json").read_text())
    assert kept["saved"] == {"my query": "SELECT 1 AS one"}


async def until_running(stack: Stack, count: int) -> None:
    """As many slow statements run as that."""
    client = await asyncio.to_thread(stack.client)
    query = "SELECT count() FROM system.processes WHERE query LIKE '%ignore(sin%' AND query NOT LIKE '%processes%'"
    try:
        for _ in range(300):
            if (await asyncio.to_thread(client.query, query)).result_rows == [(count,)]:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"not {count} slow statements run")
    finally:
        client.close()


async def see_custody(page: Page, base: str, stack: Stack) -> None:
    await asyncio.to_thread(publish, stack, "kettle", "no <b>JSON</b>")
    await page.goto(f"{base}/custody")
    await expect(page.locator("tr", has_text="demo-gateway")).to_contain_text("holds", timeout=SOON_MS)
    await page.get_by_role("button", name="Show 1 dead letters").click(timeout=SOON_MS)
    await expect(page.locator("pre.raw")).to_have_text("no <b>JSON</b>")
    await expect(page.locator("main")).to_contain_text("dead-letters replay -c gateway.toml demo-gateway/")
    await expect(page.locator("main")).to_contain_text("No losses")


async def use_keyboard(page: Page, base: str) -> None:
    await page.goto(base)
    await expect(page.locator("h1")).to_have_text("Fleet")
    for name in ("Skip to content", "Fieldline", "Fleet", "Explorer", "SQL", "Custody"):
        await page.keyboard.press("Tab")
        focused = page.locator(":focus")
        await expect(focused).to_have_text(name)
        assert await focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("Custody")


async def use_phone(browser: Browser, page: Page, base: str) -> None:
    state = await page.context.storage_state()
    phone = await browser.new_context(
        storage_state=state, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    small = await phone.new_page()
    for path in ("/", "/explorer?devices=kettle&metrics=temperature", "/sql", "/custody", "/alerts"):
        await small.goto(base + path)
        await expect(small.locator("h1")).to_be_visible()
        assert await small.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert await small.evaluate("document.body.classList.contains('body--dark')"), path
    await phone.close()


async def see_alerts(page: Page, base: str, stack: Stack) -> None:
    """A rule is tried, saved, asked by the alerts' own program, and what it finds is acknowledged and muted."""
    await page.goto(f"{base}/alerts")
    await expect(page.get_by_text("Nothing fires.")).to_be_visible(timeout=SOON_MS)
    await page.get_by_label("Name").fill("kettle boils")
    await page.get_by_label("Keys (TOML)").fill('metric = "temperature"\nabove = "hot"')
    await page.get_by_role("button", name="Try it").click()
    await expect(page.get_by_role("alert")).to_contain_text("above must be a valid number")
    await page.get_by_label("Keys (TOML)").fill('metric = "temperature"\nabove = 1')
    await page.get_by_role("button", name="Try it").click()
    await expect(page.get_by_text("temperature kettle is")).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("button", name="Remove the rule kettle boils")).to_be_visible(timeout=SOON_MS)
    config = stack.directory / "alerts.toml"
    config.write_text(f'clickhouse_url = "{stack.url}"\nevery_s = 0.5\n')
    alerts = stack.add("alerts", (*FIELDLINE, "alerts", "run", "--config", str(config)))
    await stack.start("alerts")
    await page.get_by_role("button", name="Acknowledge kettle boils, kettle").click(timeout=SOON_MS)
    await expect(page.get_by_text("acknowledged by dashboard")).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("button", name="Mute for an hour: kettle boils, kettle").click()
    await expect(page.get_by_text("muted until")).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("button", name="Remove the rule kettle boils").click()
    await expect(page.get_by_text("The rule is no longer there.")).to_be_visible(timeout=SOON_MS)
    await alerts.stop()


async def lose_clickhouse(page: Page, base: str, stack: Stack) -> None:
    await page.goto(base)
    await expect(page.locator("tr", has_text="kettle")).to_be_visible(timeout=SOON_MS)
    await stack.programs["clickhouse"].stop()
    await expect(page.get_by_role("alert")).to_contain_text("ClickHouse", timeout=SOON_MS)
    await stack.start("clickhouse")
    await expect(page.get_by_role("alert")).to_be_hidden(timeout=2 * SOON_MS)


def test_every_page_on_live_data(tmp_path: Path) -> None:
    async def walk() -> None:
        async with dashboard(tmp_path) as (stack, base), chromium() as browser:
            page = await browser.new_page()
            await sign_in(page, base)
            watched = Watched(page, base)
            await see_fleet(page, base, stack)
            await see_explorer(page, base)
            await see_sql(page, base, stack)
            await see_custody(page, base, stack)
            await see_alerts(page, base, stack)
            await use_keyboard(page, base)
            await use_phone(browser, page, base)
            assert watched.complaints == []
            await lose_clickhouse(page, base, stack)
            assert await stack.programs["web"].stop() == 0

    asyncio.run(walk())


def test_a_plot_is_the_same_from_each_table(tmp_path: Path) -> None:
    begin = 1_767_225_600_000
    values = {
        "devices": ["d"],
        "metrics": ["m"],
        "begin_ms": begin,
        "end_ms": begin + 6 * 3_600_000,
        "step_ms": 3_600_000,
    }
    with clickhouse(tmp_path / "clickhouse") as server:
        assert migrate_run(server.url) == 0
        with closing(connect(server.url)) as client:
            client.command(
                "INSERT INTO fieldline.readings (device, metric, measured_at, value, seq) "
                f"SELECT 'd', 'm', fromUnixTimestamp64Milli({begin} + number * 7001, 'UTC'), number % 977, number "
                "FROM numbers(4000)"
            )
            raw, minutes, hours = (
                queries.ask(client, f"web_series_{of}", **values).result_rows for of in ("raw", "1m", "1h")
            )
    assert len(raw) == 6
    assert [row[4:] for row in raw] == [row[4:] for row in minutes] == [row[4:] for row in hours]
    assert [row[3] for row in minutes] == pytest.approx([row[3] for row in raw])
    assert [row[3] for row in hours] == pytest.approx([row[3] for row in raw])


def test_it_does_not_start_open_to_other_machines() -> None:
    command = [*FIELDLINE, "analytics", "serve", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "needs a password" in ended.stderr
