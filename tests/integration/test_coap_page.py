"""What docs/coap.md says to type for OSCORE, typed as it stands, with aiocoap's command-line client."""

import asyncio
import os
import re
import sys
from pathlib import Path

from proof.ports import free_port
from tests.gateway import spooled
from tests.integration.test_coap_crash import edge_agent

PAGE = Path(__file__).parents[2] / "docs" / "coap.md"


async def typed(commands: str, folder: Path) -> str:
    """What the commands print; they must succeed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-ec",
        commands,
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def test_the_recipe_for_oscore(tmp_path: Path) -> None:
    section = PAGE.read_text().split("\n## With OSCORE\n")[1].split("\n## ")[0]
    keys, post = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (config,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    port = free_port()
    gateway = f"127.0.0.1:{port}"

    async def main() -> None:
        assert await typed(keys.replace("GATEWAY", gateway), tmp_path) == ""
        assert (tmp_path / "coap.oscore.toml").stat().st_mode & 0o777 == 0o600
        agent = edge_agent(tmp_path, port, config)
        agent.start()
        try:
            await agent.until_ready()
            assert "no problems" in await typed("fieldline edge check --config gateway.toml", tmp_path)
            assert await typed(post.replace("GATEWAY", gateway), tmp_path) == ""
            readings, _ = spooled(tmp_path / "spool")
            assert [(device, metric, value) for device, metric, _, value in readings] == [
                ("meter-1", "temperature", 21.5)
            ]
            (tmp_path / "coap.oscore.toml").chmod(0o644)
            said = await typed("fieldline edge check --config gateway.toml || true", tmp_path)
            assert "so others may read the keys. Use: chmod 600" in " ".join(said.split())
        finally:
            await agent.stop()

    asyncio.run(main())
