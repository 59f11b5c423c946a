"""Run the benches and print them as a table and as JSON (var/bench.json).

Ratios compare two things in the same run on the same machine; absolute figures depend on the machine, which
is printed with them.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import agent, collect, ingest, latency, outage, spool, wire, workers
from bench.figure import Figure

BENCHES: dict[str, Callable[[Path], list[Figure]]] = {
    "ingest": ingest.run,
    "workers": workers.run,
    "collect": collect.run,
    "agent": agent.run,
    "wire": wire.run,
    "latency": latency.run,
    "spool": spool.run,
    "outage": outage.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which benches: {', '.join(BENCHES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("var/bench.json"))
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(BENCHES))
    if unknown:
        parser.error(f"there is no bench {', '.join(unknown)}")
    figures: list[Figure] = []
    for name in given.names or BENCHES:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="fieldline-bench-") as directory:
            figures += BENCHES[name](Path(directory))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    table = Table(title=f"Fieldline bench ({machine})", title_justify="left")
    for heading in ("what", "figure", "budget", ""):
        table.add_column(heading, justify="right" if heading == "figure" else "left", overflow="fold")
    for figure in figures:
        table.add_row(figure.what, figure.shown, figure.budget, figure.verdict)
    Console(width=None if os.isatty(1) else 130).print(table)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({"machine": machine, "figures": [figure.as_dict() for figure in figures]}, indent=1)
    )
    print(f"Written to {given.out}")


if __name__ == "__main__":
    main()
