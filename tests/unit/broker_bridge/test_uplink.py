"""The uplink on a real spool and a real broker, against a cloud that says what the test wants.

Invariant 3 is asserted under every test (see tests/uplink.py): the spool is trimmed only as far as receipts of
its epoch went, whatever the broker acknowledged.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker_bridge import contract
from broker_bridge import uplink as module
from broker_bridge.contract import Status
from edge_agent.spool import open_spool
from proof.ports import free_port
from telemetry.columns import DeadLetter
from telemetry.ranges import SeqRanges
from tests.brokers import Broker, mosquitto
from tests.cloud import Cloud
from tests.records import numbered
from tests.spool import BLOB, MIB, config
from tests.uplink import edge, gateways, trunk


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with mosquitto() as started:
        yield started


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_S_MIN", 0.1)
    monkeypatch.setattr(module, "HELLO_S_MAX", 0.2)


def test_it_asks_first_and_then_sends_what_is_behind_the_mark(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 75) as (it, cloud):
            await cloud.until(lambda: len(cloud.hellos) >= 3, "it asks until it is answered")
            assert cloud.batches == []
            assert set(cloud.hellos) == {it.spool.epoch}
            assert it.uplink.state() == f"connected to 127.0.0.1:{broker.port}, waiting for a receipt"
            await cloud.receipt(40)
            await cloud.until_spans((41, 50), (51, 60), (61, 70), (71, 75))
            await it.until_trimmed(40)
            assert it.uplink.state() == f"connected to 127.0.0.1:{broker.port}"
            assert it.uplink.connected
            sent = [value for batch in cloud.batches for value in batch.value.tolist()]
            assert [value for value in sent if value == value] == [
                seq / 8 for seq in range(41, 76) if seq % 5 and seq % 7
            ]
            await it.append(numbered(76, 3))
            await cloud.receipt(75)
            await cloud.until(lambda: cloud.spans[-1] == (76, 78), "what is new follows")

    asyncio.run(main())


def test_receipts_are_the_credit(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 30, window_batches_max=3) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20), (21, 30))
            await it.append(numbered(31, 65))
            await cloud.receipt(0, (11, 20))
            await cloud.until_spans((1, 10), (11, 20), (21, 30), (31, 40))
            assert it.trims == []
            for mark in range(30, 91, 10):
                assert len(cloud.batches) <= mark // 10 - 1 + 3
                await cloud.receipt(mark)
                await it.until_trimmed(mark)
            await cloud.receipt(95)
            await it.until_trimmed(95)
            assert cloud.spans == [(first, min(first + 9, 95)) for first in range(1, 96, 10)]

    asyncio.run(main())


def test_live_readings_go_before_a_long_backlog(broker: Broker, tmp_path: Path) -> None:
    """What comes now is on its way at once, and the backlog fills the other places."""

    async def main() -> None:
        limits = {"window_batches_max": 4, "long_rows": 100, "first_rows": 5}
        async with trunk(tmp_path, broker.port, 400, **limits) as (it, cloud):

            async def confirm(until_mark: int) -> None:
                """Receipts for all that came, until the backlog has come so far."""
                while it.spool.mark < until_mark:
                    come, batches = SeqRanges(cloud.spans), len(cloud.spans)
                    await cloud.receipt(come.mark, *come.ahead)
                    await cloud.until(lambda: len(cloud.spans) > batches or it.spool.mark == 405, "the next")  # noqa: B023

            await cloud.greeted(0)
            await cloud.until_spans((396, 400), (1, 5))
            await it.append(numbered(401, 3))
            await cloud.until_spans((396, 400), (1, 5), (401, 403))
            await confirm(200)
            await it.append(numbered(404, 2))
            await cloud.until(lambda: (404, 405) in cloud.spans, "the newest do not wait for the backlog")
            assert it.spool.mark < 395
            await confirm(405)
            await it.append(numbered(406, 3))
            await cloud.until(lambda: cloud.spans[-1] == (406, 408), "one lane again")
            assert sum(last - first + 1 for first, last in cloud.spans) == 408, "nothing went twice"

    asyncio.run(main())


def test_what_the_broker_acknowledged_frees_nothing(tmp_path: Path) -> None:
    """A broker that took everything and was wiped: all of it comes again (invariant 3)."""

    async def main() -> None:
        with mosquitto() as own:
            async with trunk(tmp_path, own.port, 35) as (it, cloud):
                for _ in range(2):
                    cloud.batches.clear()
                    cloud.hellos.clear()
                    await cloud.greeted(0)
                    await cloud.until_spans((1, 10), (11, 20), (21, 30), (31, 35))
                    assert it.trims == []
                    assert it.spool.status().records == 35
                    own.restart()
                    await cloud.connect(own.port)

    asyncio.run(main())


def test_a_lost_receipt_is_asked_for_again(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 35, resend_s=0.3) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until(lambda: len(cloud.batches) == 4, "all batches")
            await cloud.until(lambda: len(cloud.hellos) >= 2, "it asks again")
            await cloud.receipt(35)
            await it.until_trimmed(35)
            assert cloud.spans == [(1, 10), (11, 20), (21, 30), (31, 35)], "nothing went twice"

    asyncio.run(main())


def test_lost_batches_are_sent_again(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 35, resend_s=0.3) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until(lambda: len(cloud.batches) == 4, "all batches")
            hellos = len(cloud.hellos)
            await cloud.until(lambda: len(cloud.hellos) > hellos, "it asks again")
            cloud.batches.clear()
            await cloud.receipt(10, (21, 30))
            await cloud.until(lambda: cloud.spans[:2] == [(11, 20), (31, 35)], "what is missing comes again")
            await cloud.receipt(35)
            await it.until_trimmed(35)

    asyncio.run(main())


def test_what_is_committed_ahead_of_the_mark_is_skipped(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 70, window_batches_max=9) as (it, cloud):
            await cloud.greeted(10, (13, 30), (41, 55))
            await cloud.until_spans((11, 12), (31, 40), (56, 65), (66, 70))
            await cloud.receipt(10, (13, 55))
            await cloud.receipt(55)
            await it.until_trimmed(55)

    asyncio.run(main())


def test_another_worker_s_receipt_means_start_again_behind_it(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 40) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20), (21, 30), (31, 40))
            await cloud.receipt(15, worker="w2")
            await cloud.until(lambda: len(cloud.batches) == 7, "what w1 held in memory comes again")
            assert cloud.spans[4:] == [(16, 25), (26, 35), (36, 40)]
            await it.until_trimmed(15)

    asyncio.run(main())


def test_a_worker_that_starts_is_asked_at_once(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 20) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20))
            cloud.hellos.clear()
            await cloud.worker_started("w2")
            await cloud.until(lambda: cloud.hellos, "it asks")
            await cloud.receipt(0, worker="w2")
            await cloud.until_spans((1, 10), (11, 20), (1, 10), (11, 20))
            assert it.trims == []

    asyncio.run(main())


@pytest.mark.parametrize(("mark", "ahead"), [(500, ()), (20, ((26, 500),)), (25, ((26, 35),))])
def test_a_receipt_beyond_the_spool_s_end_begins_a_new_epoch(
    mark: int, ahead: tuple[tuple[int, int], ...], broker: Broker, tmp_path: Path
) -> None:
    """The disk lost commits that it had confirmed: seqs would be given twice, and what is new passed over."""

    async def main() -> None:
        async with trunk(tmp_path, broker.port, 30) as (it, cloud):
            old = it.spool.epoch
            await cloud.greeted(5)
            await it.until_trimmed(5)
            await cloud.until_spans((6, 15), (16, 25), (26, 30))
            values = [batch.value.tobytes() for batch in cloud.batches]
            cloud.batches.clear()
            await cloud.receipt(mark, *ahead)
            await cloud.until(lambda: cloud.hellos[-1] != old, "it asks with a new epoch")
            await cloud.receipt(30, epoch=old)
            assert cloud.batches == []
            await cloud.receipt(0)
            await cloud.until_spans((1, 10), (11, 20), (21, 25))
            assert [batch.value.tobytes() for batch in cloud.batches] == values
            assert {batch.header.epoch for batch in cloud.batches} == {it.spool.epoch} != {old}
            await cloud.receipt(25)
            await it.until_trimmed(25)

    asyncio.run(main())


def test_another_epoch_s_receipt_frees_nothing(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 35) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until(lambda: len(cloud.batches) == 4, "all batches")
            await cloud.receipt(30, epoch="another")
            await cloud.receipt(10_000, epoch="another", worker="w2")
            await cloud.receipt(0, refused="no", epoch="")
            await cloud.until(lambda: "the cloud refuses" in it.uplink.state(), "it has heard all of them")
            assert (it.spool.mark, it.trims, len(cloud.batches)) == (0, [], 4)
            await cloud.receipt(20)
            await it.until_trimmed(20)

    asyncio.run(main())


def test_a_late_receipt_takes_nothing_back(broker: Broker, tmp_path: Path) -> None:
    """What an earlier receipt covered is gone from the spool: an older word must not make it look there."""

    async def main() -> None:
        async with trunk(tmp_path, broker.port, 30) as (it, cloud):
            await cloud.greeted(30)
            await it.until_trimmed(30)
            await cloud.receipt(10, worker="w0")
            await it.append(numbered(31, 5))
            await cloud.until_spans((31, 35))
            await cloud.receipt(10, (31, 35), worker="w0")
            await it.until_trimmed(35)

    asyncio.run(main())


def test_junk_from_the_cloud_changes_nothing(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 30) as (it, cloud):
            await cloud.until(lambda: cloud.hellos, "a hello")
            topic = contract.receipt_topic(it.gateway)
            epoch = it.spool.epoch
            for junk in (b"", b"{", b"[]", f'{{"epoch": "{epoch}", "mark": 1e999}}'.encode(), b"\xff" * 70_000):
                await cloud.say(topic, junk)
            await cloud.receipt(20)
            await cloud.until_spans((21, 30))
            assert it.trims == [(epoch, 20)]

    asyncio.run(main())


def test_a_loss_is_declared_to_the_cloud(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        gateway = next(gateways)
        with closing(open_spool(config(tmp_path, bytes_max=MIB, when_full="drop_oldest"), gateway)) as spool:
            for number in range(8):
                large = numbered(8 * number, 7)
                large.add_dead(DeadLetter("t", BLOB, "large"), number)
                spool.append(large)
            lost = spool.status().lost
        assert 0 < lost < 64
        async with (
            Cloud.connected(broker.port, gateway) as cloud,
            edge(tmp_path, broker.port, cloud, batch_rows_max=100) as it,
        ):
            await cloud.greeted(3)
            await cloud.until(lambda: cloud.spans and cloud.spans[-1][1] == 64, "all of it")
            first = cloud.batches[0]
            assert cloud.spans[0] == (4, lost)
            assert first.loss is not None
            assert "evicted: the spool was full" in first.loss.reason
            assert cloud.spans[1][0] == lost + 1
            await cloud.receipt(64)
            await it.until_trimmed(64)

    asyncio.run(main())


def test_a_broker_that_is_away_at_first_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        cloud = Cloud(next(gateways))
        with closing(open_spool(config(tmp_path), cloud.gateway)) as spool:
            spool.append(numbered(1, 20))
        async with edge(tmp_path, port, cloud) as it:
            await cloud.until(lambda: f"127.0.0.1:{port}" in it.uplink.state(), "it says who is away")
            assert not it.uplink.connected
            with mosquitto(port=port):
                await cloud.connect(port)
                await cloud.greeted(0)
                await cloud.until_spans((1, 10), (11, 20))
                assert it.uplink.connected
                await cloud.receipt(20)
                await it.until_trimmed(20)
                await cloud.disconnect()
            await cloud.until(lambda: not it.uplink.connected, "it knows that the broker is gone")

    asyncio.run(main())


def test_it_reports_its_status(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 20) as (it, cloud):
            await cloud.until(lambda: cloud.statuses, "a status")
            assert cloud.statuses[0] == Status(it.spool.epoch, "0", 1, 0, 20, 0, 0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_cloud_that_forgets_gets_everything_in_the_end(seed: int, broker: Broker, tmp_path: Path) -> None:
    """Batches and receipts are lost, commits come out of order, workers die with what they held."""
    chance = random.Random(seed)
    records = 600

    async def main() -> None:
        async with trunk(tmp_path, broker.port, 300, resend_s=0.15, window_batches_max=6) as (it, cloud):
            committed, worker, taken, answered = SeqRanges(), 0, 0, 0
            values: dict[int, float] = {}
            while it.spool.mark < records:
                if it.spool.next_seq <= records and chance.random() < 0.2:
                    await it.append(numbered(it.spool.next_seq, 20))
                if chance.random() < 0.02:
                    worker, taken = worker + 1, len(cloud.batches)
                    await cloud.worker_started(f"w{worker}")
                held = cloud.batches[taken:]
                if len(held) > 2 or chance.random() < 0.3:
                    taken += len(held)
                    for batch in chance.sample(held, len(held)):
                        if chance.random() < 0.8:
                            committed.add(batch.header.first_seq, batch.header.last_seq)
                            values.update(enumerate(batch.value.tolist(), batch.header.first_seq))
                if (held or len(cloud.hellos) > answered) and chance.random() < 0.8:
                    answered = len(cloud.hellos)
                    await cloud.receipt(committed.mark, *committed.ahead, worker=f"w{worker}")
                await asyncio.sleep(0.005)
            assert list(committed) == [(1, records)]
            expected = enumerate(numbered(1, records).value, 1)
            assert all(values[seq] == value for seq, value in expected if value == value)
            assert len(cloud.promised) == 1

    async def within() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(within())
