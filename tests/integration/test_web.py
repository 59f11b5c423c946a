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
from typing import Any

import pyarrow.parquet as pq
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from analytics import queries
from analytics.migrate import migrate
from analytics.migrate import run as migrate_run
from analytics.web.asking import Asker, Source, may_write
from analytics.web.pages.sql import _example
from analytics.web.reading import Reading
from analytics.web.rule_form import FIELDS, KINDS
from ingest.clickhouse.client import ClickHouseError, connect
from proof.ports import free_ports
from proof.stack import FIELDLINE, GATEWAY, Stack
from telemetry.errors import FieldlineError
from tests.clickhouse import clickhouse
from tests.npm import installed
from tests.users import NAMES, url, users_file

PASSWORD = "correct horse battery"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync")
SOON_MS = 15_000
AXE = "axe-core@4.14.1"


@asynccontextmanager
async def dashboard(directory: Path) -> AsyncIterator[tuple[Stack, str]]:
    """A stack with a dashboard that asks for a password, and its address."""
    secret = directory / "password"
    secret.write_text(PASSWORD + "\n")
    stack = Stack(directory / "stack", free_ports(), topics=("devices/+/telemetry", "site/+"))
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


async def can_be_used_by_all(page: Page) -> None:
    """What axe-core finds: contrast, names of controls, structure."""
    await page.evaluate((installed(AXE) / "axe-core" / "axe.min.js").read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == [], page.url


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


def publish(stack: Stack, device: str, payload: str, topic: str = "") -> None:
    to = ["-p", str(stack.ports.mqtt), "-q", "1", "-t", topic or f"devices/{device}/telemetry"]
    subprocess.run(["mosquitto_pub", *to, "-m", payload], check=True, timeout=10)


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
    await page.goto(f"{base}/explorer")
    await page.get_by_role("link", name="kettle").click()
    await expect(page.locator("canvas")).to_be_visible(timeout=SOON_MS)
    await page.goto(f"{base}/explorer?device=kettle&metric=temperature&zone=Asia/Kolkata&span_ms=3600000")
    await expect(page.locator("canvas")).to_be_visible(timeout=SOON_MS)
    await expect(page.locator("main")).to_contain_text("Asia/Kolkata; every reading.")
    await page.get_by_role("button", name="1 y").click()
    await expect(page.locator("main")).to_contain_text("from rollup_1h; bands are least to greatest")
    await choose(page, "Compare with", "the day before")
    await expect(page.locator("main")).to_contain_text("dashed: the day before")
    await page.get_by_label("Time zone").fill("brows")
    await page.get_by_role("option", name="Browser's (Europe/Berlin)").click()
    await expect(page.locator("main")).to_contain_text("Europe/Berlin; a point every")
    await page.get_by_role("button", name="1 h").click()
    await page.get_by_role("button", name="Earlier").click()
    await expect(page).to_have_url(re.compile("zone=browser&span_ms=3600000&against=86400&end_ms="))
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
    await expect(page.locator("main")).to_contain_text("Europe/Berlin; every reading; dashed: the day before")
    assert page.url == link


async def choose(page: Page, label: str, option: str) -> None:
    """From a list."""
    await page.get_by_label(label).click()
    await page.get_by_role("option", name=option, exact=True).click()


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
    await can_be_used_by_all(page)
    await page.get_by_role("button", name="Chart").click()
    await expect(page.locator("canvas")).to_be_visible()
    await write(page, "SELECT device FORM fieldline.latest")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text("position")
    await write(page, "INSERT INTO fieldline.losses (gateway) VALUES ('x')")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text("This page only reads tables.")
    await write(page, "SELECT * FROM file('/etc/passwd', 'LineAsString', 'line String')")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text("uses the table function file")
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
    query = "SELECT count() FROM system.processes WHERE query LIKE '%ignore(sin%' AND query NOT LIKE '%processes%'"
    await until(stack, query, count)


async def until(stack: Stack, query: str, count: int) -> None:
    """The stack's ClickHouse answers this number."""
    for _ in range(300):
        if await rows(stack, query) == [(count,)]:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"not {count}: {query}")


async def see_custody(page: Page, base: str, stack: Stack) -> None:
    await asyncio.to_thread(publish, stack, "kettle", "no <b>JSON</b>")
    await until(stack, LETTERS, 1)
    await page.goto(f"{base}/custody")
    await expect(page.locator("tr", has_text="demo-gateway")).to_contain_text("holds", timeout=SOON_MS)
    await page.get_by_role("button", name="Show 1 dead letters").click(timeout=SOON_MS)
    await expect(page.locator("pre.raw")).to_have_text("no <b>JSON</b>")
    await expect(page.locator("main")).to_contain_text("No losses")


LETTERS = "SELECT count() FROM fieldline.dead_letters"
MAPPING = f'gateway = "{GATEWAY}"\n[coap]\n[[mappings]]\ntopic = "site/{{device}}"\n'


async def replay_letters(page: Page, base: str, stack: Stack) -> None:
    """Two letters of a topic that had no mapping: tried with the server's config and a pasted one, and replayed."""
    for value in (1, 2):
        await asyncio.to_thread(publish, stack, "oven", f'{{"heat": {value}}}', topic="site/oven")
    await until(stack, LETTERS, 3)
    await page.goto(f"{base}/custody")
    replay = page.locator("#replay")
    await page.get_by_role("button", name="Show 2 dead letters").click(timeout=SOON_MS)
    await page.get_by_role("button", name="Replay this").first.click()
    await replay.get_by_role("button", name="Try it").click()
    await expect(replay).to_contain_text("1: topic 'site/oven' matches no mapping", timeout=SOON_MS)
    await choose(page, "Config of the gateway", "a config that I paste")
    await replay.get_by_role("button", name="Try it").click()
    await expect(replay.get_by_role("alert")).to_contain_text("There is no config yet")
    config = stack.directory / "corrected.toml"
    config.write_text(MAPPING.replace("site", "sight", 1).replace("[coap]", "[coap"))
    await page.get_by_label("or read it from a file").set_input_files(config)
    await expect(page.get_by_label("The config")).to_have_value(config.read_text())
    await replay.get_by_role("button", name="Try it").click()
    await expect(replay.get_by_role("alert")).to_contain_text("the pasted config: is not valid TOML")
    await page.get_by_label("The config").fill(MAPPING)
    await page.get_by_label("Which").fill("no mapping")
    await replay.get_by_role("button", name="Try it").click()
    await expect(replay).to_contain_text("2 dead letters would give 2 readings.", timeout=SOON_MS)
    await expect(replay.locator("tr", has_text="oven")).to_have_count(2)
    assert await rows(stack, "SELECT count() FROM fieldline.readings WHERE device = 'oven'") == [(0,)]
    await replay.get_by_role("button", name="Replay", exact=True).click()
    await expect(replay).to_contain_text("2 dead letters gave 2 readings.", timeout=SOON_MS)
    await expect(page.locator("main")).to_contain_text("2 replayed")
    stored = await rows(stack, "SELECT value FROM fieldline.readings WHERE device = 'oven' ORDER BY value")
    assert stored == [(1.0,), (2.0,)]


async def rows(stack: Stack, query: str) -> list[tuple[Any, ...]]:
    """What the stack's ClickHouse answers."""

    def ask() -> list[tuple[Any, ...]]:
        with closing(stack.client()) as client:
            return list(client.query(query).result_rows)

    return await asyncio.to_thread(ask)


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
    for path in ("/", "/explorer?device=kettle&metric=temperature", "/sql", "/custody", "/alerts"):
        await small.goto(base + path)
        await expect(small.locator("h1")).to_be_visible()
        assert await small.evaluate("document.documentElement.scrollWidth") <= 360, path
        assert await small.evaluate("document.body.classList.contains('body--dark')"), path
        if path == "/sql":
            await expect(small.locator(".cm-content")).to_have_attribute("aria-label", "SQL statement", timeout=SOON_MS)
        await can_be_used_by_all(small)
    await phone.close()


async def see_alerts(page: Page, base: str, stack: Stack) -> None:
    """A rule is tried, saved, edited, asked by the alerts' own program; what it finds is acknowledged and muted."""
    await page.goto(f"{base}/alerts")
    await expect(page.get_by_text("Nothing fires.")).to_be_visible(timeout=SOON_MS)
    await page.get_by_label("Metric").fill("temperature")
    await page.get_by_label("Limit").fill("hot")
    await page.get_by_role("button", name="Try it").click()
    await expect(page.get_by_role("alert")).to_contain_text("Limit: 'hot' is no number.")
    await page.get_by_label("Limit").fill("1")
    await page.get_by_label("For at least").fill("0 s")
    await page.get_by_role("button", name="Try it").click()
    await expect(page.get_by_text("It fires if temperature of any device is above 1.")).to_be_visible(timeout=SOON_MS)
    await expect(page.get_by_text("temperature kettle is")).to_be_visible()
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("button", name="Edit: temperature above 1").click(timeout=SOON_MS)
    await expect(page.get_by_label("Name")).to_have_value("temperature above 1")
    await page.get_by_label("Name").fill("kettle boils")
    await choose(page, "Severity", "critical")
    await page.get_by_role("button", name="Save").click()
    rule = page.locator(".bar", has=page.get_by_role("button", name="Remove: kettle boils"))
    await expect(rule).to_contain_text("above 1 · critical · tells log", timeout=SOON_MS)
    await expect(page.get_by_role("button", name="Remove: temperature above 1")).to_have_count(0)
    alerts = stack.add_alerts()
    await stack.start("alerts")
    await page.get_by_role("button", name="Acknowledge: kettle boils, kettle").click(timeout=SOON_MS)
    await expect(page.get_by_text("acknowledged by dashboard", exact=False).first).to_be_visible(timeout=SOON_MS)
    await page.get_by_role("button", name="Mute: kettle boils", exact=True).click()
    await expect(rule).to_contain_text("muted until", timeout=SOON_MS)
    await page.get_by_role("button", name="Unmute: kettle boils", exact=True).click()
    await expect(rule).not_to_contain_text("muted until", timeout=SOON_MS)
    await page.get_by_role("button", name="History: kettle boils, kettle").click()
    await expect(page.locator("#history")).to_contain_text("History of kettle boils, temperature kettle")
    for said in ("temperature kettle is 82.25, above 1", "acknowledged", "all of the rule: until", "ended"):
        await expect(page.locator("#history")).to_contain_text(said, timeout=SOON_MS)
    await page.get_by_role("button", name="Remove: kettle boils").click()
    await expect(page.locator("#history")).to_contain_text("The rule is no longer there.", timeout=SOON_MS)
    await alerts.stop()


async def make_every_rule(page: Page, base: str) -> None:
    """Each kind with what the form begins with, and the metric and limit that it asks for."""
    await page.goto(f"{base}/alerts")
    for kind, words in KINDS.items():
        await choose(page, "What should be noticed", words)
        others = {field.label for other, fields in FIELDS.items() if other != kind for field in fields}
        own = next(field.label for field in FIELDS[kind] if field.label not in others)
        await expect(page.get_by_label(own, exact=True)).to_be_visible()
        for label, value in (("Metric", "temperature"), ("Limit", "90"), ("Change", "5")):
            if any(field.label == label for field in FIELDS[kind]):
                await page.get_by_label(label, exact=True).fill(value)
        await page.get_by_label("Name").fill(f"of kind {kind}")
        await page.get_by_role("button", name="Save").click()
        await page.get_by_role("button", name=f"Remove: of kind {kind}").click(timeout=SOON_MS)
        await expect(page.get_by_role("button", name=f"Remove: of kind {kind}")).to_have_count(0)


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
            page = await browser.new_page(timezone_id="Europe/Berlin")
            await sign_in(page, base)
            watched = Watched(page, base)
            await see_fleet(page, base, stack)
            await can_be_used_by_all(page)
            await see_explorer(page, base)
            await can_be_used_by_all(page)
            await see_sql(page, base, stack)
            await see_custody(page, base, stack)
            await replay_letters(page, base, stack)
            await can_be_used_by_all(page)
            await see_alerts(page, base, stack)
            await can_be_used_by_all(page)
            await make_every_rule(page, base)
            await use_keyboard(page, base)
            await use_phone(browser, page, base)
            assert watched.complaints == []
            await lose_clickhouse(page, base, stack)
            assert await stack.programs["web"].stop() == 0

    asyncio.run(walk())


def test_what_a_plot_shows_is_what_was_measured(tmp_path: Path) -> None:
    """Of both rollups the same points, equal to those of the raw table; of raw readings those that make the shape."""
    begin, hour = 1_767_225_600_000, 3_600_000
    span: dict[str, Any] = {"devices": ["d"], "metrics": ["m"], "begin_ms": begin, "end_ms": begin + 6 * hour}
    with clickhouse(tmp_path / "clickhouse") as server:
        assert migrate_run(server.url) == 0
        with closing(connect(server.url)) as client:
            client.command(
                "INSERT INTO fieldline.readings (device, metric, measured_at, value, seq) "
                f"SELECT 'd', 'm', fromUnixTimestamp64Milli({begin} + number * 7001, 'UTC'), "
                "if(number = 1234, 1e6, number % 977), number FROM numbers(4000)"
            )
            minutes, hours = (
                queries.ask(client, "web_series_rollup", **span, table=table, step_ms=hour).result_rows
                for table in ("rollup_1m", "rollup_1h")
            )
            measured = client.query(
                f"SELECT intDiv(toUnixTimestamp64Milli(measured_at), {hour}) * {hour} AS at,"
                f" avg(value), min(value), max(value)"
                f" FROM fieldline.readings WHERE at < {span['end_ms']} GROUP BY at ORDER BY at"
            ).result_rows
            thinned = queries.ask(client, "web_series_raw", **span, points=100).result_rows
            whole = queries.ask(client, "web_series_raw", **span, points=5000).result_rows
    assert len(measured) == 6
    for rows in (minutes, hours):
        assert [row[2:3] + row[4:] for row in rows] == [row[:1] + row[2:] for row in measured]
        assert [row[3] for row in rows] == pytest.approx([row[1] for row in measured])
    assert len(whole) == -(-6 * hour // 7001)
    assert len(thinned) == 100
    assert set(thinned) < set(whole)
    assert (thinned[0], thinned[-1]) == (whole[0], whole[-1])
    assert ("d", "m", begin + 1234 * 7001, 1e6) in thinned


REACHES_OUT = (
    "SELECT * FROM file('/etc/passwd', 'LineAsString', 'line String')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString', 'line String')",
    "SELECT 1 IN (SELECT line FROM url('http://127.0.0.1:9/', 'LineAsString', 'line String'))",
    "/* SELECT */ SELECT * FROM remote('127.0.0.1:9', system.one)",
    "SELECT * FROM s3('http://127.0.0.1:9/x', 'CSV')",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM system.processes",
    "SELECT dictGet('d', 'a', 1)",
    "DESCRIBE file('/etc/passwd')",
    "KILL QUERY WHERE 1",
    "SYSTEM SHUTDOWN",
    "DROP TABLE fieldline.readings",
    "SET readonly = 0",
)


def test_what_a_login_may_do_with_the_pages(tmp_path: Path) -> None:
    """Only who may write may replay; and no statement of the page SQL does more than read, an admin's neither."""
    with clickhouse(tmp_path / "clickhouse", "--users", str(users_file(tmp_path))) as server:
        for name, role in NAMES.items():
            with closing(connect(url(server.port, name), database="default")) as client:
                if role == "admin":
                    migrate(client)
                assert may_write(client) == (role != "reader"), role
                page = Reading(client)
                for statement in REACHES_OUT:
                    with pytest.raises((FieldlineError, ClickHouseError)):
                        page.check(statement)
                for example in queries.names():
                    page.check(_example(example))
                if role == "admin":  # of others the server parses first, and says positions of its own
                    with pytest.raises(ClickHouseError, match=r"failed at position 20 \(fieldline\)"):
                        page.check("SELECT device FORM fieldline.latest")


def test_a_dashboard_whose_login_may_only_read(tmp_path: Path) -> None:
    async def ask(source: Source) -> None:
        asker = Asker(source)
        assert (await asker.named("web_gateways")).rows == []
        assert len((await asker.statement("SELECT number FROM numbers(300000)", {"readonly": 2}, 2001)).rows) == 2001
        assert (await asker.statement("SELECT 7 AS seven", {}, 2001)).records == [{"seven": 7}]

    with clickhouse(tmp_path / "clickhouse", "--users", str(users_file(tmp_path, "seconds_max = 60"))) as server:
        with closing(connect(url(server.port, "root"), database="default")) as client:
            migrate(client)
        source = Source(url(server.port, "ann"))
        try:
            asyncio.run(ask(source))
            assert b"".join(source.stream("SELECT 1 AS one", {}, "CSVWithNames")) == b'"one"\n1\n'
        finally:
            source.close()


def test_it_does_not_start_open_to_other_machines() -> None:
    command = [*FIELDLINE, "analytics", "serve", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "needs a password" in ended.stderr
