"""What the comparison found, as a table for people, as JSON, and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from bench import picture
from bench.peers.peer import Peer
from bench.peers.runs import RATE_HZ, Custody, Throughput

OTHERS_SHARE_MAX = 0.1
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Result:
    """One peer's runs."""

    peer: Peer
    versions: Mapping[str, str]
    throughput: Throughput
    kills: Custody
    outage: Custody

    @property
    def rows_per_s(self) -> float | None:
        """Median of the rounds; None if one was not completed."""
        rates = [each.rows / each.seconds for each in self.throughput.rounds if each.seconds is not None]
        return statistics.median(rates) if len(rates) == len(self.throughput.rounds) else None

    def cpu_s_per_million(self, programs: Sequence[str]) -> float:
        """User and system seconds of these programs for a million rows."""
        rounds = self.throughput.rounds
        used = sum(each.cpu_s[name] for each in rounds for name in programs)
        return used / sum(each.rows for each in rounds) * MILLION

    def memory_mb(self, programs: Sequence[str]) -> float:
        """The sum of their largest resident sizes."""
        return sum(self.throughput.memory_mb[name] for name in programs)

    @property
    def others_share(self) -> float:
        """Of the machine's time, what programs used that have no part in this; the worst round."""
        return max(each.others_share for each in self.throughput.rounds)

    def as_dict(self) -> dict[str, object]:
        """For the JSON."""
        peer = self.peer
        return {
            "name": peer.name,
            "title": peer.title,
            "versions": dict(self.versions),
            "offered_messages_a_round": self.throughput.offered_messages,
            "rows_per_second": self.rows_per_s,
            "cpu_seconds_per_million_rows": {
                "all of its processes": self.cpu_s_per_million(peer.own),
                "on the gateway": self.cpu_s_per_million(peer.gateway),
                "stand-ins for what is not here": self.cpu_s_per_million(peer.stand_ins),
                "ClickHouse": self.cpu_s_per_million(["clickhouse"]),
                "device broker": self.cpu_s_per_million(["device-broker"]),
            },
            "memory_peak_mb": {"all": self.memory_mb(peer.own), "on the gateway": self.memory_mb(peer.gateway)},
            "machine_share_of_others": self.others_share,
            "kills": asdict(self.kills),
            "outage": asdict(self.outage),
            "throughput": asdict(self.throughput),
        }


def table(results: Sequence[Result], machine: str) -> Table:
    """For the terminal."""
    shown = Table(title=f"The same work by others ({machine})", title_justify="left")
    headings = (
        "",
        "messages a round",
        "rows/s",
        "CPU s per million rows",
        "of it on the gateway",
        "ClickHouse's",
        "memory MB",
        "killed 3 times: missing / double",
        "ClickHouse away 20 s: missing / double",
    )
    for heading in headings:
        shown.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for result in results:
        peer = result.peer
        aside = f" + {result.cpu_s_per_million(peer.stand_ins):.1f} for stand-ins" if peer.stand_ins else ""
        shown.add_row(
            peer.title,
            f"{result.throughput.offered_messages:,}",
            "did not finish" if result.rows_per_s is None else f"{result.rows_per_s:,.0f}",
            f"{result.cpu_s_per_million(peer.own):,.1f}{aside}",
            f"{result.cpu_s_per_million(peer.gateway):,.1f}",
            f"{result.cpu_s_per_million(['clickhouse']):,.1f}",
            f"{result.memory_mb(peer.own):,.0f}",
            _custody(result.kills),
            _custody(result.outage),
        )
    return shown


def _custody(outcome: Custody) -> str:
    return f"{outcome.missing:,} / {outcome.double:,} of {outcome.acknowledged:,}"


def remarks(results: Sequence[Result]) -> list[str]:
    """What a reader of the table must know beside it."""
    said = [f"{result.peer.title}: {', '.join(map(' '.join, result.versions.items()))}" for result in results]
    said += [
        f"{result.peer.title}: of {result.throughput.offered_messages:,} messages a round "
        f"{result.throughput.missing:,} readings are missing and {result.throughput.double:,} double, without a fault."
        for result in results
        if result.throughput.missing or result.throughput.double
    ]
    noisy = [
        f"{result.peer.title} {result.others_share:.0%}" for result in results if result.others_share > OTHERS_SHARE_MAX
    ]
    if noisy:
        said.append(f"The machine was not idle; others used of its time, at worst: {', '.join(noisy)}.")
    return said


def draw(results: Sequence[Result], machine: str, path: Path) -> None:
    """Bars: how fast, for how much CPU, in how much memory, and what was lost or stored twice."""
    title = f"JSON over MQTT QoS 1 into ClickHouse: the same work, one after another ({machine})"
    canvas, found = picture.panels(title, 2, 2, (13, 9))
    names = [result.peer.title for result in results]
    speeds = [result.rows_per_s or 0 for result in results]
    _bars(found[0], "Rows into ClickHouse", "rows per second", names, {"": speeds})
    costs = {
        "all of its processes": [result.cpu_s_per_million(result.peer.own) for result in results],
        "of these, on the gateway": [result.cpu_s_per_million(result.peer.gateway) for result in results],
        "ClickHouse's, for its inserts": [result.cpu_s_per_million(["clickhouse"]) for result in results],
    }
    _bars(found[1], "CPU for a million rows (logarithmic)", "seconds, user and system", names, costs)
    found[1].set_xscale("log")
    found[1].set_xlim(0.5, max(map(max, costs.values())) * 6)
    memory = {
        "all of its processes": [result.memory_mb(result.peer.own) for result in results],
        "of these, on the gateway": [result.memory_mb(result.peer.gateway) for result in results],
    }
    _bars(found[2], "Largest resident memory", "MB", names, memory)
    faults = {
        "killed 3 times: missing": [result.kills.missing for result in results],
        "killed 3 times: double": [result.kills.double for result in results],
        "ClickHouse away 20 s: missing": [result.outage.missing for result in results],
        "ClickHouse away 20 s: double": [result.outage.double for result in results],
    }
    of = max((result.kills.acknowledged for result in results), default=0)
    _bars(found[3], f"Faults, at {RATE_HZ} messages a second", f"readings, of {of:,} acknowledged", names, faults)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(canvas, path)


def _bars(panel: Axes, title: str, unit: str, names: Sequence[str], named: Mapping[str, Sequence[float]]) -> None:
    """A bar for each name and kind, with its number beside it."""
    height = 0.8 / len(named)
    for index, (kind, values) in enumerate(named.items()):
        places = [place + (index - (len(named) - 1) / 2) * height for place in range(len(names))]
        bars = panel.barh(places, values, height * 0.9, label=kind, color=picture.COLOURS[index])
        numbers = [f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}" for value in values]
        panel.bar_label(bars, labels=numbers, padding=3, fontsize=7)
    picture.label(panel, title, unit)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlim(0, max(1.0, *(max(values) for values in named.values())) * 1.2)
    if len(named) > 1:
        panel.legend(fontsize=8, frameon=False, loc="upper right")


def show(results: Sequence[Result], machine: str, console: Console) -> None:
    """The table and its remarks."""
    console.print(table(results, machine))
    for remark in remarks(results):
        console.print(remark)
