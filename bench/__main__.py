"""Run the benches and print them as a table and as JSON (var/bench.json).

Tables that a bench makes beside its figures are printed, too, and kept in a JSON file beside that one, named by the
first word of the table's name; its pictures go to --pictures.

Ratios compare two things in the same run on the same machine; absolute figures depend on the machine, which
is printed with them.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from bench import (
    agent,
    collect,
    dashboard,
    embedded,
    footprint,
    formats,
    gateway,
    ingest,
    latency,
    outage,
    spool,
    stages,
    wire,
    workers,
)
from bench.figure import Figure, Table
from bench.growth import backlog, devices, gateways, messages, series

BENCHES: dict[str, Callable[[Path], list[Figure] | list[Figure | Table]]] = {
    "ingest": ingest.run,
    "embedded": embedded.run,
    "workers": workers.run,
    "collect": collect.run,
    "formats": formats.run,
    "stages": stages.run,
    "agent": agent.run,
    "footprint": footprint.run,
    "gateway": gateway.run,
    "wire": wire.run,
    "latency": latency.run,
    "spool": spool.run,
    "outage": outage.run,
}
GROWTH = {
    "growth-messages": messages.run,
    "growth-devices": devices.run,
    "growth-gateways": gateways.run,
    "growth-series": series.run,
    "growth-backlog": backlog.run,
}
ALONE = {"dashboard": dashboard.run}
"""By name only: it takes minutes and some gigabytes of disk."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help=f"which benches: {', '.join(BENCHES)}; growth, which is {', '.join(GROWTH)}; {', '.join(ALONE)}; "
        "default: all of the first",
    )
    parser.add_argument("--out", type=Path, default=Path("var/bench.json"))
    parser.add_argument("--pictures", type=Path, default=Path("var"), help="where the pictures go")
    given = parser.parse_args()
    names = [one for name in given.names or BENCHES for one in (GROWTH if name == "growth" else [name])]
    unknown = sorted(set(names) - set(BENCHES | GROWTH | ALONE))
    if unknown:
        parser.error(f"there is no bench {', '.join(unknown)}")
    console = Console(width=None if os.isatty(1) else 130)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.pictures.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for name in names:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="fieldline-bench-") as directory:
            for made in (BENCHES | GROWTH | ALONE)[name](Path(directory)):
                if isinstance(made, Figure):
                    figures.append(made)
                else:
                    console.print(made.shown)
                    made.keep(given.out.parent / f"{made.name.split('-')[0]}.json", machine)
            for picture in Path(directory).glob("*.png"):
                shutil.copy(picture, given.pictures)
                print(f"Drawn: {given.pictures / picture.name}")
    shown = Shown(title=f"Fieldline bench ({machine})", title_justify="left")
    for heading in ("what", "figure", "budget", ""):
        shown.add_column(heading, justify="right" if heading == "figure" else "left", overflow="fold")
    for figure in figures:
        shown.add_row(figure.what, figure.shown, figure.budget, figure.verdict)
    if figures:
        console.print(shown)
    given.out.write_text(
        json.dumps({"machine": machine, "figures": [figure.as_dict() for figure in figures]}, indent=1)
    )
    print(f"Written to {given.out}")


if __name__ == "__main__":
    main()
