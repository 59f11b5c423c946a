"""What the demo shows: a live table on a terminal, a line every few seconds elsewhere."""

import math
import shutil
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from edge_agent.spool_file import Status
from proof.account import Account
from proof.ports import Ports

PLAIN_EVERY_S = 5.0
RATE_OVER_S = 5.0
COAP_CLIENTS = ("coap-client", "coap-client-openssl", "coap-client-gnutls", "coap-client-notls")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the whole pipeline. None: that part did not answer."""

    at_s: float
    wall_s: float
    counts: dict[str, int]
    spool: Status | None
    rows: int | None
    latency_ms: float | None
    latest: list[tuple[str, ...]]
    restarts: dict[str, int] = field(default_factory=dict)


class Display:
    """A context manager around the time that the fleet sends."""

    def __init__(self, directory: Path, ports: Ports) -> None:
        self._directory = directory
        self._ports = ports
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._samples: deque[Sample] = deque()
        self._plain_due_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
        sys.stdout.flush()

    def say_how_to_look(self, *, has_dashboard: bool) -> None:
        """What a user can do while it runs."""
        ports, coap_client = self._ports, next(filter(shutil.which, COAP_CLIENTS), COAP_CLIENTS[0])
        query = "SELECT device, metric, value, unit FROM fieldline.latest"
        dashboard = f"The dashboard is at http://127.0.0.1:{ports.web}/\n" if has_dashboard else ""
        self.say(
            f"Everything runs. {dashboard}In another terminal, try:\n"
            f'  {_program()} sql --url http://127.0.0.1:{ports.clickhouse} "{query}"\n'
            f"  mosquitto_pub -p {ports.mqtt} -q 1 -t devices/kettle/telemetry -m '{{\"temperature\": 81.5}}'\n"
            f"  {coap_client} -m post -t 50 -e '{{\"level\": 0.4}}' coap://127.0.0.1:{ports.coap}/telemetry/tank\n"
            "Ctrl-C stops sending and closes the books."
        )

    def show(self, sample: Sample) -> None:
        """Take a sample in and show it."""
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at_s - self._samples[0].at_s > RATE_OVER_S:
            self._samples.popleft()
        if self._live is not None:
            self._live.update(self._table(sample), refresh=True)
        elif sample.at_s >= self._plain_due_s:
            self._plain_due_s = sample.at_s + PLAIN_EVERY_S
            self.say("  ".join(f"{name}: {value}" for name, value in self._facts(sample)))

    def end(self, account: Account) -> None:
        """The books; the accounting line is the last one."""
        if not account.holds:
            self.say(f"The books are not right; the programs' logs are in {self._directory}/logs.")
        print(account.line(), flush=True)

    def _table(self, sample: Sample) -> Group:
        where = Table(title="Fieldline: four wind turbines, end to end", title_justify="left", min_width=78)
        where.add_column("where")
        where.add_column("now", justify="right")
        for name, value in self._facts(sample):
            where.add_row(name, value)
        latest = Table(title="The latest in ClickHouse", title_justify="left", min_width=78)
        for heading in ("turbine", "measured at (UTC)", "wind m/s", "power kW", "outside °C"):
            latest.add_column(heading, justify="left" if heading == "turbine" else "right")
        for row in sample.latest:
            latest.add_row(*row)
        return Group(where, latest) if sample.latest else Group(where)

    def _facts(self, sample: Sample) -> list[tuple[str, str]]:
        first = self._samples[0]
        span_s = sample.at_s - first.at_s
        counts, spool = sample.counts, sample.spool
        acked, acked_before = counts.get("messages_acked", 0), first.counts.get("messages_acked", 0)
        facts = [
            ("devices: messages acknowledged", f"{acked:,} ({_rate(acked - acked_before, span_s)})"),
            ("devices: readings in them", f"{counts.get('readings_acked', 0):,}"),
        ]
        if spool is not None:
            facts.append(("gateway: spool depth", f"{spool.records:,} records, {spool.bytes / 1e6:.2f} MB"))
            lag_s = max(0.0, sample.wall_s - spool.oldest_at / 1000) if spool.records else 0.0
            facts.append(("trunk: receipt lag", f"{lag_s:.1f} s"))
        if sample.rows is None:
            facts.append(("cloud: rows in ClickHouse", "not answering"))
        else:
            new = sample.rows - (first.rows if first.rows is not None else sample.rows)
            facts.append(("cloud: rows in ClickHouse", f"{sample.rows:,} ({_rate(new, span_s)})"))
        if sample.latency_ms is not None and not math.isnan(sample.latency_ms):
            facts.append(("cloud: latency, gateway to insert, median", f"{sample.latency_ms / 1000:.2f} s"))
        return facts + [(f"{name}: restarted", f"{count} times") for name, count in sample.restarts.items()]


def _program() -> str:
    """How this program was called, as a user would type it again."""
    called = sys.argv[0]
    return called if Path(called).name == "fieldline" and shutil.which("fieldline") is None else "fieldline"


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s" if seconds > 0 else "-"
