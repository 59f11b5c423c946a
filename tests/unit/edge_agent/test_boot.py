"""A gateway that learns the time late: what it took before gets its date, once, and is sent only then."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent import chunk
from edge_agent.boot import BOOT_ID, Began, Boot, Run, beginnings
from edge_agent.chunk import Uptime
from edge_agent.plausibility import CLOCK_SET_MS_MIN
from edge_agent.spool import Spool, open_spool
from edge_agent.spool_copy import SpoolCopy
from telemetry.columns import DEAD, TIME_ESTIMATED, TIME_FROM_DEVICE, TIME_FROM_GATEWAY, Columns, DeadLetter, Series
from telemetry.records import Records
from tests.records import NEW_YEAR_MS, Record, numbered, records
from tests.spool import ALL, config, content

DAY = 86_400_000


@dataclass
class HandSet:
    """A clock that is set by hand. true_ms: the true time; wrong_ms: what the wall clock shows too much."""

    true_ms: int = NEW_YEAR_MS
    booted_ms: int = NEW_YEAR_MS - 20_000
    wrong_ms: int = -NEW_YEAR_MS

    def now_ms(self) -> int:
        return self.true_ms + self.wrong_ms

    def monotonic_s(self) -> float:
        return (self.true_ms - self.booted_ms) / 1000

    def passes(self, ms: int = 1000) -> None:
        self.true_ms += ms

    def reboots(self, off_ms: int, wrong_ms: int) -> None:
        self.true_ms += off_ms
        self.booted_ms, self.wrong_ms = self.true_ms, wrong_ms


class Gateway:
    """A spool and a clock; remembers when each seq truly arrived, and what was read of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.waits, self.clock = path, True, HandSet()
        self.boot_id = b"%016d" % 0
        self.arrived: dict[int, int] = {}
        self.sent: dict[int, Record] = {}
        self.open()

    def open(self) -> None:
        self.spool: Spool = open_spool(config(self.path), "g")
        assert self.spool.series_id(Series("device", "metric", "")) == 0
        self.spool.boot = Boot(self.clock, waits=self.waits, id_=self.boot_id)

    def restarts(self) -> None:
        self.spool.close()
        self.open()

    def reboots(self, off_ms: int, wrong_ms: int) -> None:
        self.spool.close()
        self.clock.reboots(off_ms, wrong_ms)
        self.boot_id = b"%016d" % (int(self.boot_id) + 1)
        self.open()

    def takes(self, count: int, device_at_ms: int | None = None) -> None:
        """Each record some time after the one before."""
        made = Columns()
        for _ in range(count):
            self.clock.passes(700)
            now = self.clock.now_ms()
            self.arrived[self.spool.next_seq + len(made)] = self.clock.true_ms
            made.series.append(0)
            made.received_at.append(now)
            made.measured_at.append(now if device_at_ms is None else device_at_ms)
            made.value.append(1.5)
            made.quality.append(TIME_FROM_GATEWAY if device_at_ms is None else TIME_FROM_DEVICE)
        self.spool.append(made)

    def reads(self, after_seq: int, records_max: int = ALL) -> int:
        """How many records came. What was read before must be the same now."""
        run = self.spool.read(after_seq, records_max, ALL)
        if run is None:
            return 0
        assert isinstance(run, Records)
        for seq, record in enumerate(records(run.columns), run.first_seq):
            assert self.sent.setdefault(seq, record) == record, "sent twice with other values"
        return len(run.columns)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Its clock is in 1970."""
    made = Gateway(tmp_path)
    yield made
    made.spool.close()


def times(gateway: Gateway) -> list[tuple[int, int, int]]:
    """(measured_at, received_at, quality) of all that waits."""
    found, at = [], gateway.spool.mark
    while isinstance(run := gateway.spool.read(at, ALL, ALL), Records):
        found += zip(run.columns.measured_at, run.columns.received_at, run.columns.quality, strict=True)
        at = run.last_seq
    return found


def test_what_came_before_the_clock_was_set_gets_its_date(gateway: Gateway) -> None:
    gateway.takes(3)
    gateway.takes(1, device_at_ms=NEW_YEAR_MS - 5)
    assert gateway.reads(0) == 0, "it waits"
    gateway.restarts()
    gateway.takes(2)
    gateway.clock.wrong_ms = 0
    gateway.takes(1)
    gateway.clock.passes(3_600_000)
    arrived = list(gateway.arrived.values())
    measured = [*arrived[:3], NEW_YEAR_MS - 5, *arrived[4:]]
    quality = [1, 1, 1, 0, 1, 1, 1]
    assert times(gateway) == list(zip(measured, arrived, quality, strict=True))
    assert gateway.spool.status().oldest_at == arrived[0]


def test_a_commit_during_which_the_clock_is_set(gateway: Gateway) -> None:
    made = numbered(1, 3)
    gateway.takes(1)
    for place, at in enumerate((gateway.clock.now_ms(), gateway.clock.now_ms() + 5, gateway.clock.true_ms + 10)):
        made.received_at[place] = made.measured_at[place] = at
        made.quality[place] = TIME_FROM_GATEWAY
    made.add_dead(DeadLetter("t", b"?", "r"), gateway.clock.now_ms() + 7)
    gateway.clock.wrong_ms = 0
    gateway.spool.append(made)
    now = gateway.clock.true_ms
    assert [at for at, _, _ in times(gateway)[1:]] == [now, now + 5, now + 10, now + 7]
    assert [at for _, at, _ in times(gateway)[1:]] == [now, now + 5, now + 10, now + 7]


def test_boots_that_never_learned_the_time_end_before_what_came_after(gateway: Gateway) -> None:
    """Two of them; the first may have ended when the second began. Distances within each are true."""
    gateway.takes(3)
    gateway.takes(1, device_at_ms=NEW_YEAR_MS)
    gateway.reboots(DAY, -NEW_YEAR_MS)
    second_began = gateway.clock.true_ms
    gateway.takes(2)
    gateway.reboots(2 * DAY, 0)
    third_began = gateway.clock.true_ms
    gateway.takes(1)
    truth = list(gateway.arrived.values())
    got = times(gateway)
    off = third_began - truth[5]
    assert off == 2 * DAY
    estimate = TIME_FROM_GATEWAY | TIME_ESTIMATED
    assert got[4:] == [
        (truth[4] + off, truth[4] + off, estimate),
        (third_began, third_began, estimate),
        (truth[6], truth[6], TIME_FROM_GATEWAY),
    ]
    off = second_began + 2 * DAY - truth[3]
    assert got[:4] == [
        *[(at + off, at + off, estimate) for at in truth[:3]],
        (NEW_YEAR_MS, truth[3] + off, TIME_FROM_DEVICE),
    ]


def test_a_boot_that_learned_the_time_is_dated_exactly_after_the_next_one_too(gateway: Gateway) -> None:
    gateway.takes(2)
    gateway.clock.wrong_ms = 0
    gateway.clock.passes(DAY)
    gateway.takes(1)
    gateway.reboots(DAY, -NEW_YEAR_MS)
    gateway.takes(1)
    assert times(gateway) == [(at, at, TIME_FROM_GATEWAY) for at in list(gateway.arrived.values())[:3]]
    with closing(SpoolCopy(gateway.path / "spool.db")) as copy:
        copied = copy.read(0, ALL, ALL)
        assert isinstance(copied, Records)
        assert list(copied.columns.received_at)[:3] == list(gateway.arrived.values())[:3]
        assert copied.columns.received_at[3] < CLOCK_SET_MS_MIN, "nobody knows, and it is not made up"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_a_seq_is_always_sent_with_the_same_values(seed: int, gateway: Gateway) -> None:
    chance = random.Random(seed)
    if chance.random() < 0.3:
        gateway.reboots(DAY, 0)
    exact: set[int] = set()
    boots: list[list[int]] = [[]]
    for _ in range(60):
        event = chance.choice(["take", "take", "read", "read", "set", "slew", "restart", "reboot"])
        if event == "take":
            before = set(gateway.arrived)
            for _ in range(chance.choice([1, 3, 120])):
                gateway.takes(chance.randint(1, 4), chance.choice([None, None, NEW_YEAR_MS]))
            boots[-1] += gateway.arrived.keys() - before
            if gateway.clock.wrong_ms > -DAY:
                exact |= set(boots[-1])
        elif event == "read" and gateway.spool.next_seq > 1:
            gateway.reads(chance.randint(0, gateway.spool.next_seq - 2), chance.choice([1, 10, ALL]))
        elif event == "set" and gateway.clock.wrong_ms < -DAY:
            gateway.clock.wrong_ms = 0
        elif event == "slew":
            gateway.clock.passes(chance.randint(1, DAY))
            gateway.clock.wrong_ms += chance.randint(-3, 3)
        elif event == "restart":
            gateway.restarts()
        elif event == "reboot":
            gateway.reboots(chance.randint(1, DAY), chance.choice([0, -NEW_YEAR_MS]))
            boots.append([])
    gateway.clock.wrong_ms = 0
    while missing := gateway.arrived.keys() - gateway.sent.keys():
        assert gateway.reads(min(missing) - 1)
    with closing(SpoolCopy(gateway.path / "spool.db")) as copy:
        run = copy.read(0, ALL, ALL)
        assert isinstance(run, Records)
        assert dict(enumerate(records(run.columns), 1)) == gateway.sent, "no older version is left in the file"
        received, quality = run.columns.received_at, run.columns.quality
    for seq, at in gateway.arrived.items():
        assert CLOCK_SET_MS_MIN <= received[seq - 1] <= gateway.clock.true_ms + 1000
        if seq in exact:
            assert not quality[seq - 1] & TIME_ESTIMATED
            assert abs(received[seq - 1] - at) < 1000, "the slews of the clock, and no more"
    for boot in filter(None, boots):
        off = [received[seq - 1] - gateway.arrived[seq] for seq in boot]
        assert max(off) - min(off) < 1000, "distances are true, in whatever order it was read"
    assert content(gateway.spool) == gateway.sent


def test_a_gateway_that_is_never_told_the_time_need_not_wait(gateway: Gateway) -> None:
    gateway.takes(2)
    gateway.waits = False
    gateway.restarts()
    gateway.takes(1)
    undated = [(at - NEW_YEAR_MS, at - NEW_YEAR_MS, TIME_FROM_GATEWAY) for at in gateway.arrived.values()]
    assert times(gateway) == undated
    gateway.waits = True
    gateway.restarts()
    gateway.clock.wrong_ms = 0
    assert times(gateway) == undated, "what may have been sent stays as it was"


def test_a_damaged_chunk_among_undated_ones_is_declared(gateway: Gateway) -> None:
    for _ in range(4):
        gateway.takes(1)
    with closing(sqlite3.connect(gateway.path / "spool.db")) as db, db:
        (body,) = db.execute("SELECT body FROM chunks WHERE first_seq = 2").fetchone()
        db.execute("UPDATE chunks SET body = ? WHERE first_seq IN (2, 4)", (body[:30] + b"?" + body[31:],))
    gateway.reboots(DAY, 0)
    found = content(gateway.spool)
    assert [seq for seq, it in found.items() if isinstance(it, str)] == [2, 4]
    assert all(at > CLOCK_SET_MS_MIN for at, _, _ in times(gateway))


def test_a_new_epoch_keeps_what_dates_its_records(gateway: Gateway) -> None:
    gateway.takes(2)
    gateway.spool.renew_epoch()
    gateway.clock.wrong_ms = 0
    assert [at for _, at, _ in times(gateway)] == list(gateway.arrived.values())


def test_an_undated_body_reads_like_another() -> None:
    made = numbered(1, 20)
    uptime = Uptime(bytes(range(16)), -5)
    body = chunk.pack("00" * 8, 1, made, uptime)
    assert records(chunk.unpack(body)) == records(made)
    assert chunk.uptime(body) == chunk.uptime(body[: chunk.HEAD_BYTES]) == uptime
    assert chunk.uptime(chunk.pack("00" * 8, 1, made)) is None
    assert chunk.uptime(chunk.restamp("11" * 8, 9, body)) == uptime
    assert DEAD in made.series


def test_what_is_known_of_a_boot_is_not_estimated() -> None:
    a, b = (Uptime(bytes([n]) * 16, 0) for n in (1, 2))
    known = {b.boot: Began(5000, is_estimate=False)}
    assert beginnings([Run(a, 100), Run(b, 100)], 9000, known) == {a.boot: Began(4900, is_estimate=True), **known}


def test_the_kernels_boot_id() -> None:
    assert BOOT_ID.exists()
    assert Boot(HandSet()).id == Boot(HandSet()).id
