"""What a gateway with 1,000 devices costs: processor, memory and disk writes of the agent, beside thingsboard-gateway.

Each device sends a message of three numbers a second, as JSON with QoS 1, for SECONDS. Only what runs on the gateway is
counted: our agent, or thingsboard-gateway with the settings of `make bench-peers`. It keeps readings in SQLite, as the
agent does in its spool, but acknowledges a message when that is in its queue in memory, before the disk has it; it
forwards to a stand-in for ThingsBoard, where the agent forwards to ingest and waits for receipts. Disk writes are the
kernel's count of what went to the device.
"""

import asyncio
import time
from pathlib import Path

from bench.figure import Figure
from bench.parts import until
from bench.peers import load
from bench.peers.install import install
from bench.peers.peers import PEERS
from bench.peers.stage import Stage, on_stage
from telemetry.errors import FieldlineError

DEVICES, SECONDS, WARM_UP_S = 1000, 60, 5
INSTALLED = Path("var/peers")


def run(directory: Path) -> list[Figure]:
    ours = _used(directory, "fieldline")
    what = f"gateway, {DEVICES:,} devices with a message a second each"
    figures = [Figure(f"{what}: agent, {name}", value, unit) for (name, unit), value in ours.items()]
    try:
        theirs = _used(directory, "thingsboard_gateway")
    except FieldlineError as error:
        print(f"thingsboard-gateway is left out: {error}", flush=True)
        return figures
    figures += [Figure(f"the same: thingsboard-gateway, {name}", value, unit) for (name, unit), value in theirs.items()]
    return figures + [
        Figure(f"the same: {name}, thingsboard-gateway against the agent", theirs[name, unit] / value, "")
        for (name, unit), value in ours.items()
        if value
    ]


def _used(directory: Path, name: str) -> dict[tuple[str, str], float]:
    (peer,) = (peer for peer in PEERS if peer.name == name)
    directory = directory / name
    directory.mkdir()

    async def measured() -> dict[tuple[str, str], float]:
        async with on_stage(peer, install(peer, INSTALLED), directory) as stage:
            return await _steady(stage)

    return asyncio.run(measured())


async def _steady(stage: Stage) -> dict[tuple[str, str], float]:
    """What the gateway's programs used, by (what, unit)."""
    port, gateway = stage.stack.ports.mqtt, stage.peer.gateway
    warm = WARM_UP_S * DEVICES
    await load.publish_paced(port, range(warm), DEVICES, DEVICES)
    before_s, before_bytes, began_s = stage.cpu_s(), stage.written_bytes(), time.monotonic()
    await load.publish_paced(port, range(warm, warm + SECONDS * DEVICES), DEVICES, DEVICES)
    rows = (warm + SECONDS * DEVICES) * len(load.METRICS)
    await until(lambda: stage.rows() >= rows, f"{stage.peer.title} has brought all readings to the table", 60.0)
    took_s = time.monotonic() - began_s
    used_s, written = stage.cpu_s(), stage.written_bytes()
    return {
        ("processor time", "% of a core"): 100 * sum(used_s[name] - before_s[name] for name in gateway) / took_s,
        ("memory at most", "MB"): sum(stage.memory_peak_mb()[name] for name in gateway),
        ("disk writes", "kB/s"): sum(written[name] - before_bytes[name] for name in gateway) / took_s / 1000,
    }
