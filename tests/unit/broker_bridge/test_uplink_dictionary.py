"""Series are defined once per dictionary; who has forgotten one gets everything behind the mark with another."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_bridge import uplink as module
from ingest.dictionaries import Dictionaries
from tests.brokers import Broker, mosquitto
from tests.cloud import Cloud
from tests.records import numbered, series_of
from tests.uplink import Edge, trunk


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with mosquitto() as started:
        yield started


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_S_MIN", 0.1)
    monkeypatch.setattr(module, "HELLO_S_MAX", 0.2)


def named(cloud: Cloud, first: int, last: int) -> None:
    """The last batches are of these seqs, and every reading has its series' own name."""
    made, at = numbered(first, last - first + 1), len(cloud.batches) - 1
    while cloud.batches[at].header.first_seq > first:
        at -= 1
    told = [batch.names[i] if i >= 0 else None for batch in cloud.batches[at:] for i in batch.series]
    assert told == [series_of(id_) if id_ >= 0 else None for id_ in made.series]


async def forget(it: Edge, cloud: Cloud, first: int) -> str:
    """The worker loses what it was told; the dictionary of the batch that shows it."""
    cloud.dictionaries = Dictionaries()
    cloud.undefined.clear()
    await it.append(numbered(first, 10))
    await cloud.until(lambda: cloud.undefined, "a batch that is not understood")
    return cloud.undefined[0]


def test_a_series_is_defined_once(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 75, window_batches_max=9) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until(lambda: len(cloud.batches) == 8, "all batches")
            assert cloud.undefined == []
            assert len(cloud.dictionaries) == 4
            named(cloud, 1, 75)
            await cloud.receipt(75)
            await it.until_trimmed(75)

    asyncio.run(main())


def test_what_a_worker_has_forgotten_is_defined_again_behind_the_mark(broker: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with trunk(tmp_path, broker.port, 20) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20))
            await cloud.receipt(10)
            dictionary = await forget(it, cloud, 21)
            await cloud.receipt(10, undefined=dictionary)
            await cloud.until_spans((1, 10), (11, 20), (11, 20), (21, 30))
            named(cloud, 11, 30)
            await cloud.receipt(30, undefined=dictionary)
            await it.until_trimmed(30)
            await it.append(numbered(31, 5))
            await cloud.until_spans((1, 10), (11, 20), (11, 20), (21, 30), (31, 35))
            assert len(cloud.hellos) == 1

    asyncio.run(main())


def test_a_worker_without_room_gets_batches_that_define_their_own(broker: Broker, tmp_path: Path) -> None:
    """It is asked for no more than two dictionaries, however often it forgets."""

    async def main() -> None:
        async with trunk(tmp_path, broker.port, 20, window_batches_max=9) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20))
            for first in (21, 31):
                await cloud.receipt(first - 1)
                dictionary = await forget(it, cloud, first)
                await cloud.receipt(first - 1, undefined=dictionary)
                await cloud.until(lambda first=first: cloud.spans[-1] == (first, first + 9), "it comes again")
            named(cloud, 31, 40)
            for first in (41, 51):
                cloud.dictionaries = Dictionaries()
                await it.append(numbered(first, 10))
                await cloud.until(lambda first=first: cloud.spans[-1] == (first, first + 9), "it defines its own")
            named(cloud, 41, 60)
            assert len(cloud.dictionaries) == 0
            await cloud.worker_started("w2")
            await cloud.until(lambda: len(cloud.hellos) == 2, "it asks the next worker")
            await cloud.receipt(50, worker="w2")
            await cloud.until(lambda: len(cloud.dictionaries) == 4, "which is told again")
            assert cloud.spans[-1] == (51, 60)

    asyncio.run(main())


def test_an_old_batch_that_is_not_understood_makes_it_do_nothing(broker: Broker, tmp_path: Path) -> None:
    """Somebody plays recordings: what they name is not its present dictionary."""

    async def main() -> None:
        async with trunk(tmp_path, broker.port, 20) as (it, cloud):
            await cloud.greeted(0)
            await cloud.until_spans((1, 10), (11, 20))
            for undefined in ("00000000", "it's", "", "\ud7ff"):
                await cloud.receipt(0, undefined=undefined)
            await cloud.receipt(20)
            await it.until_trimmed(20)
            await it.append(numbered(21, 10))
            await cloud.until_spans((1, 10), (11, 20), (21, 30))
            assert cloud.undefined == []

    asyncio.run(main())


def test_another_connection_is_another_dictionary(tmp_path: Path) -> None:
    async def main() -> None:
        with mosquitto() as own:
            async with trunk(tmp_path, own.port, 20) as (it, cloud):
                await cloud.greeted(0)
                await cloud.until_spans((1, 10), (11, 20))
                own.restart()
                await cloud.connect(own.port)
                cloud.hellos.clear()
                cloud.dictionaries = Dictionaries()
                await cloud.greeted(10)
                await cloud.until_spans((1, 10), (11, 20), (11, 20))
                assert cloud.undefined == []
                named(cloud, 11, 20)
                await cloud.receipt(20)
                await it.until_trimmed(20)

    asyncio.run(main())
