"""docs/devices.md, as a firmware author follows it: every command of the page is run, and says what the page says.

A stack on free ports stands for the demo; what installs or starts something is left out.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import coap
from tests.commands import ROOT, plain_environment
from tests.pipeline import make_stack, until

PAGE = ROOT / "docs" / "devices.md"
SET_UP = ("sudo apt-get", "git clone", "cd fieldline", "make demo", ". .venv/")


def commands(page: str) -> list[tuple[str, str | None]]:
    """Each indented line that is a command, and the fenced text that follows it, which is what it prints."""
    found = []
    for match in re.finditer(r"^    (\S.*)\n(?:\n```\n((?:.*\n)*?)```\n)?", page, re.MULTILINE):
        line = match[1]
        if not line.startswith((*SET_UP, "{")):
            found.append((line, match[2]))
    return found


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    stubs = tmp_path / "firmware_stubs"
    shutil.copytree(ROOT / "firmware_stubs", stubs, ignore=shutil.ignore_patterns("ring.bin", "mqtt", "coap"))
    (tmp_path / "stack").mkdir()
    steps = commands(PAGE.read_text())
    assert len(steps) > 10, "the page has its commands"

    async def main() -> None:
        stack = make_stack(tmp_path / "stack")
        local_port = coap.free_port()
        ports = {"1883": stack.ports.mqtt, "5683": stack.ports.coap, "56830": local_port}
        config = stubs / "micropython" / "config.py"
        config.write_text(here(config.read_text(), ports))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = plain_environment() | {"CLICKHOUSE_URL": stack.url, "PATH": path}

        def printed(line: str) -> str:
            command = ["bash", "-c", here(line, ports)]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            return done.stdout + done.stderr

        async with stack.running():
            for line, expected in steps:
                if expected is None:
                    await asyncio.to_thread(printed, line)
                else:
                    await until(lambda: printed(line).strip() == expected.strip(), f"{line}\nprints\n{expected}", 20)  # noqa: B023

    asyncio.run(main())


def here(text: str, ports: dict[str, int]) -> str:
    """The page's ports, replaced by the test's."""
    return re.sub(r"\b(1883|5683|56830)\b", lambda match: str(ports[match[1]]), text)
