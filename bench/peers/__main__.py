"""`make bench-peers`: the same work by what the registries offer, beside Fieldline, in one run on one machine.

Devices publish JSON with QoS 1 to a Mosquitto; the readings must end up in a ClickHouse table. Each peer is installed
into var/peers, runs alone, and goes through three runs (bench/peers/runs.py). docs/peers.md says what was compared and
what that leaves out.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from bench.peers import runs
from bench.peers.install import install, versions
from bench.peers.peer import Peer
from bench.peers.peers import PEERS
from bench.peers.report import Result, draw, show
from bench.peers.stage import Stage, on_stage
from proof.stack import mosquitto
from telemetry.errors import FieldlineError

T = TypeVar("T")


def main() -> int:
    known = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("var/bench-peers.json"))
    parser.add_argument("--picture", type=Path, default=Path("var/bench-peers.png"))
    parser.add_argument("--installed", type=Path, default=Path("var/peers"), help="where the peers are installed")
    given = parser.parse_args()
    unknown = sorted(set(given.peers) - set(known))
    if unknown:
        parser.error(f"there is no peer {', '.join(unknown)}")
    if mosquitto() is None:
        print("Mosquitto is missing: the comparison needs it as its broker. Install it (Debian: mosquitto).")
        return 1
    began_s = time.monotonic()
    results: list[Result] = []
    left_out: list[str] = []
    for peer in PEERS:
        if not given.peers or peer.name in given.peers:
            try:
                results.append(_measure(peer, given.installed))
            except (FieldlineError, TimeoutError) as error:
                left_out.append(f"{peer.title} is left out: {error}")
                print(left_out[-1], flush=True)
    report(results, left_out, given.out, given.picture)
    print(f"It took {(time.monotonic() - began_s) / 60:.0f} minutes.")
    return 1 if left_out else 0


def report(results: list[Result], left_out: list[str], out: Path, picture: Path) -> None:
    """Print the table, and write the JSON and the picture."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    show(results, machine, Console(width=None if os.isatty(1) else 140))
    print("\n".join(left_out), end="\n" if left_out else "")
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "results": [result.as_dict() for result in results], "left_out": left_out}
    out.write_text(json.dumps(document, indent=1))
    if results:
        draw(results, machine, picture)
    print(f"Written to {out} and {picture}")


def _measure(peer: Peer, root: Path) -> Result:
    where = install(peer, root)
    outcomes = []
    for name, run in (("throughput", runs.throughput), ("kills", runs.kills), ("outage", runs.outage)):
        print(f"{peer.title}: {name} ...", flush=True)
        outcomes.append(asyncio.run(_alone(peer, where, run)))
    return Result(peer, versions(peer, where), *outcomes)


async def _alone(peer: Peer, where: Path, run: Callable[[Stage], Awaitable[T]]) -> T:
    """A run on an empty stage, which is taken down afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="fieldline-peers-"))
    try:
        async with on_stage(peer, where, directory) as stage:
            return await run(stage)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
