"""`python -m bench.screenshots`: pictures of the dashboard on the demo's live data, into docs/pictures.

A stack of its own is started, four turbines are replayed through it at ten times the demo's speed while Chromium looks.
Also prints, per page, when its first content was painted, and the dashboard's resident memory.
"""

import asyncio
import subprocess
import tempfile
from pathlib import Path

import psutil
from playwright.async_api import Browser, Page, async_playwright

from proof.demo import fleet_command
from proof.ports import free_ports
from proof.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
SAMPLE = ROOT / "data" / "la_haute_borne" / "2015-03.csv"
DESK, PHONE = (1440, 900), (390, 844)
SERIES = "devices=R80711,R80721&metrics=Ws_avg,P_avg&span_ms=604800000"
SQL = "SELECT toDate(measured_at) AS day, device, round(avg(value)) AS power\nFROM fieldline.readings\n"
SQL += "WHERE metric = 'P_avg'\nGROUP BY day, device\nORDER BY day, device"
SHOTS = (
    ("fleet", "/", "light", DESK),
    ("explorer", f"/explorer?{SERIES}", "dark", DESK),
    ("sql", "/sql", "dark", DESK),
    ("custody", "/custody", "light", DESK),
    ("phone-fleet", "/", "dark", PHONE),
    ("phone-explorer", f"/explorer?{SERIES}", "light", PHONE),
)
PNG_BYTES_MAX = 200_000
SETTLE_MS = 5000


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), free_ports())
        web = stack.add_dashboard()
        report = stack.directory / "fleet.json"
        arguments = ("--csv", str(SAMPLE), "--speed", "36000", "--seconds", "90")
        fleet = stack.add("fleet", (*fleet_command(stack.ports, report), *arguments), restart=False)
        async with stack.running(), async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
            )
            for device, payload in (("mill", "n/a"), ("mill", '{"speed": }'), ("kettle", '{"temperature": 81.5}')):
                publish(stack, device, payload)
            await asyncio.sleep(12)
            for name, path, scheme, size in SHOTS:
                await shoot(browser, f"http://127.0.0.1:{stack.ports.web}{path}", name, scheme, size)
            print(f"dashboard: {psutil.Process(web.pid).memory_info().rss / 1e6:.0f} MB resident")
            await browser.close()
            await fleet.stop()


def publish(stack: Stack, device: str, payload: str) -> None:
    topic = f"devices/{device}/telemetry"
    command = ["mosquitto_pub", "-p", str(stack.ports.mqtt), "-q", "1", "-t", topic, "-m", payload]
    subprocess.run(command, check=True, timeout=10)


async def shoot(browser: Browser, url: str, name: str, scheme: str, size: tuple[int, int]) -> None:
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_selector("h1")
    await page.wait_for_timeout(SETTLE_MS)
    await act(page, name)
    file = PICTURES / f"dashboard-{name}.png"
    await page.screenshot(path=file)
    assert file.stat().st_size < PNG_BYTES_MAX, f"{file} is too large"
    painted_ms = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"{name}: first content after {painted_ms:.0f} ms, {file.stat().st_size / 1000:.0f} kB")
    await context.close()


async def act(page: Page, name: str) -> None:
    """What a person would do to see more."""
    if name == "sql":
        await page.locator(".cm-content").click()
        await page.keyboard.press("Control+a")
        await page.keyboard.insert_text(SQL)
        await page.keyboard.press("Escape")
        await page.keyboard.press("Control+Enter")
        await page.wait_for_selector(".ag-cell")
        await page.mouse.move(0, 0)
        await page.wait_for_timeout(1000)
    if name == "custody":
        await page.get_by_role("button", name="Show").first.click()
        await page.wait_for_selector("pre.raw")


if __name__ == "__main__":
    asyncio.run(main())
