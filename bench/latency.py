"""Published to queryable: from a device's publish until a SELECT has the reading, in two profiles under three loads.

Probes are single readings, published at random moments, beside a fleet in a process of its own. The kernel tells when
ClickHouse has committed an insert (bench/inserted.py), and then it is asked for the probes: asking all the time would
be a load that changes what is measured. A delay ends when the first answer that has the probe is here, so it is too
long by the time of one question, which is printed as the resolution. All of it (fleet, brokers, agent, ingest,
ClickHouse, probes) shares this machine's processors.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.figure import Figure, Table
from bench.inserted import inserted
from bench.parts import TrunkMeter, connected, cpu_s, stack, until, warm
from bench.picture import COLOURS, label, panels, save
from ingest.clickhouse.client import Client
from proof.demo import fleet_command
from proof.ports import free_ports
from proof.stack import Stack, read_report

EVERY_S = 0.1
WARM_UP_S = 4.0
PROFILES = ("default", "low_latency")
TICKS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
AGAIN_S, LOOK_EVERY_S = 0.005, 0.1
"""When to ask again if an insert brought no probe, and if there was no insert."""


@dataclass(frozen=True, slots=True)
class Load:
    """A fleet of `fieldline simulate`; rate_hz: messages per second of each device."""

    name: str
    devices: int
    rate_hz: float
    metrics: int
    probes: int = 250

    @property
    def readings_hz(self) -> float:
        return self.devices * self.rate_hz * self.metrics

    @property
    def options(self) -> list[str]:
        return ["--devices", f"{self.devices}", "--rate", f"{self.rate_hz:g}", "--metrics", f"{self.metrics}"]


LOADS = (Load("light", 4, 0.5, 4), Load("medium", 200, 5, 4), Load("heavy", 500, 16, 8))
"""The heavy one is four fifths of the messages that the fleet's process can send here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen of one profile under one load. delays_s ascending; cores: processor seconds per second."""

    profile: str
    load: Load
    delays_s: list[float]
    resolution_s: float
    stored_hz: float
    batches_hz: float
    wire_bytes: float
    commits_hz: float
    agent_cores: float
    cloud_cores: float

    def quantile(self, share: float) -> float:
        return self.delays_s[int(len(self.delays_s) * share)]


class Probes:
    """Publishes numbered readings, EVERY_S apart on average, and notes when each can be queried first."""

    def __init__(self, port: int, client: Client, device: str = "probe") -> None:
        self._port = port
        self._client = client
        self._device = device
        self._sent: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self._doubts: list[float] = []
        self._is_stopping = False

    async def run(self, probes_max: int = 1_000_000) -> None:
        """Until so many are sent, or `stop` was called, and all are seen."""
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publish(probes_max))
            tasks.create_task(self._look(publishing))

    def stop(self) -> None:
        """Publish no more."""
        self._is_stopping = True

    @property
    def delays(self) -> list[float]:
        """Seconds from publish to visible, ascending."""
        return sorted(self._seen[number] - at_s for number, at_s in self._sent.items())

    @property
    def resolution(self) -> float:
        """By how many seconds a delay may be too long, in the median."""
        return statistics.median(self._doubts)

    def quantile(self, share: float) -> float:
        """Of the delays."""
        return self.delays[int(len(self.delays) * share)]

    async def _publish(self, probes_max: int) -> None:
        chance = random.Random(1)
        async with connected(self._port, f"bench-{self._device}") as device:
            while len(self._sent) < probes_max and not self._is_stopping:
                number = len(self._sent) + 1
                self._sent[number] = time.perf_counter()
                await device.publish(f"devices/{self._device}/telemetry", b'{"n": %d}' % number)
                await asyncio.sleep(chance.uniform(0, 2 * EVERY_S))

    async def _look(self, publishing: "asyncio.Task[None]") -> None:
        async with inserted(self._client, "readings") as insert:
            before_s, pause_s = time.perf_counter(), LOOK_EVERY_S
            while not (publishing.done() and len(self._seen) == len(self._sent)):
                insert_s = await insert.wait(pause_s)
                if len(self._seen) < len(self._sent):
                    before_s = await self._ask(insert_s or before_s)
                pause_s = AGAIN_S if insert_s else LOOK_EVERY_S

    async def _ask(self, invisible_s: float) -> float:
        """Note which probes can be queried now. invisible_s: when they could not; returns when it was asked."""
        query = f"SELECT toUInt32(value) FROM fieldline.readings WHERE device = '{self._device}' AND metric = 'n'"
        asked_s = time.perf_counter()
        rows = (await asyncio.to_thread(self._client.query, query)).result_rows
        answered_s = time.perf_counter()
        for (number,) in rows:
            if number not in self._seen:
                self._seen[number] = answered_s
                self._doubts.append(answered_s - max(invisible_s, self._sent[number]))
        return asked_s


def run(directory: Path) -> list[Figure | Table]:
    outcomes = [one for profile in PROFILES for one in asyncio.run(profiled(directory / profile, profile, LOADS))]
    draw(outcomes, directory / "latency.png")
    return [*(figure for outcome in outcomes for figure in _figures(outcome)), _table(outcomes)]


async def profiled(directory: Path, profile: str, loads: Sequence[Load]) -> list[Outcome]:
    """One profile's pipeline under one load after the other."""
    word = f'profile = "{profile}"\n'
    pipeline = stack(directory, free_ports(), gateway_toml=word, ingest_toml=word)
    async with pipeline.running():
        with closing(await asyncio.to_thread(pipeline.client)) as client:
            await warm(pipeline)
            return [await _under(pipeline, client, profile, load) for load in loads]


async def _under(pipeline: Stack, client: Client, profile: str, load: Load) -> Outcome:
    report = pipeline.directory / "fleet.json"
    command = [*fleet_command(pipeline.ports, report), "--coap-share", "0", *load.options]
    fleet = pipeline.add("fleet", command, restart=False)
    fleet.start()
    try:
        await until(lambda: read_report(report).get("readings_acked", 0) > 0, "the fleet sends")
        await asyncio.sleep(WARM_UP_S)
        async with TrunkMeter().running(pipeline.ports.trunk) as meter:
            return await _measured(pipeline, client, meter, profile, load)
    finally:
        await fleet.stop()
        report.unlink(missing_ok=True)


async def _measured(pipeline: Stack, client: Client, meter: TrunkMeter, profile: str, load: Load) -> Outcome:
    pids = [pipeline.programs[name].pid for name in ("edge", "ingest", "clickhouse")]
    probes = Probes(pipeline.ports.mqtt, client, f"probe-{load.name}")
    cpu_before, began_s, began_ms = list(map(cpu_s, pids)), time.perf_counter(), time.time_ns() // 1_000_000
    await probes.run(load.probes)
    took_s = time.perf_counter() - began_s
    agent, *cloud = (after - before for after, before in zip(map(cpu_s, pids), cpu_before, strict=True))
    ((stored, commits),) = client.query(
        "SELECT count(), uniqExact(ingested_at) FROM fieldline.readings "
        f"WHERE ingested_at BETWEEN fromUnixTimestamp64Milli({began_ms}) AND now64(3)"
    ).result_rows
    return Outcome(
        profile,
        load,
        probes.delays,
        probes.resolution,
        stored / took_s,
        meter.batches / took_s,
        meter.bytes / stored,
        commits / took_s,
        agent / took_s,
        sum(cloud) / took_s,
    )


def _figures(outcome: Outcome) -> list[Figure]:
    what = f"published to queryable, {outcome.profile}, {outcome.load.name} load"
    is_quick = outcome.profile == "low_latency"
    p50_max_s = (None if outcome.load.name == "heavy" else 0.15) if is_quick else 1.5
    return [
        Figure(f"{what}, p50", outcome.quantile(0.5), "s", at_most=p50_max_s),
        Figure(f"{what}, p99", outcome.quantile(0.99), "s", at_most=None if is_quick else 3),
    ]


def _table(outcomes: list[Outcome]) -> Table:
    headings = ("profile", "load", "readings/s", "p50 ms", "p99 ms", "resolution ms")
    costs = ("batches/s", "trunk B/reading", "commits/s", "agent cores", "ingest and ClickHouse cores")
    rows = [
        [
            o.profile,
            o.load.name,
            o.stored_hz,
            *(round(1000 * s, 1) for s in (o.quantile(0.5), o.quantile(0.99), o.resolution_s)),
            *(round(n, 2) for n in (o.batches_hz, o.wire_bytes, o.commits_hz, o.agent_cores, o.cloud_cores)),
        ]
        for o in outcomes
    ]
    return Table("latency", "Published to queryable, and what it costs", (*headings, *costs), rows)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """A panel for each load, in it a histogram for each profile; the time has a logarithmic axis."""
    loads = list(dict.fromkeys(outcome.load for outcome in outcomes))
    canvas, found = panels("Published by a device until a SELECT has it", len(loads), 1, (9, 2.4 * len(loads)))
    edges = np.geomspace(TICKS_S[0], TICKS_S[-1], 90)
    for panel, load in zip(found, loads, strict=True):
        label(panel, f"{load.name} load: {load.readings_hz:,.0f} readings/s", y="share of readings, %")
        for outcome, colour in zip([o for o in outcomes if o.load is load], COLOURS, strict=False):
            delays = np.clip(outcome.delays_s, edges[0], edges[-1])
            p50, p99 = outcome.quantile(0.5), outcome.quantile(0.99)
            name = f"{outcome.profile}: p50 {1000 * p50:,.0f} ms, p99 {1000 * p99:,.0f} ms"
            weights = np.full(len(delays), 100 / len(delays))
            panel.hist(delays, edges, weights=weights, color=colour, alpha=0.75, label=name)
            panel.axvline(p50, color=colour, linewidth=1.2)
            panel.axvline(p99, color=colour, linewidth=1.2, linestyle=":")
        panel.set_xscale("log")
        panel.set_xticks(TICKS_S, [f"{tick * 1000:g} ms" if tick < 1 else f"{tick:g} s" for tick in TICKS_S])
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=9, frameon=False)
    found[-1].set_xlabel("from publish to queryable (solid line: p50, dotted: p99)", fontsize=9)
    save(canvas, path)
