"""Group commit (invariant 1): a delivery is settled once its records are in the database, never before, in order.

The spool, its thread and the decoder are real, see tests/committing.py.
"""

import asyncio
import errno
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import commit as module
from edge_agent.config import GatewayConfig, Process
from edge_agent.decode import Decoder
from edge_agent.spool_file import read_status
from telemetry.columns import DeadLetter
from telemetry.delivery import Chunk
from telemetry.errors import SpoolCorruptError, SpoolFullError
from telemetry.records import Records
from tests.brokers import eventually
from tests.coap import FakeClock
from tests.committing import TOPIC, Rig, rig
from tests.records import NEW_YEAR_MS
from tests.spool import ALL, BLOB, MIB

RETRY_S = module.RETRY_S


def test_all_is_settled_after_its_commit_and_in_order_of_arrival(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            for n in range(100):
                await it.deliver(str(n), 3 * n + 1, 3 * n + 2, 3 * n + 3)
                if n % 7 == 0:
                    await asyncio.sleep(0)
            await it.until_settled(100)
            assert it.names == [str(n) for n in range(100)]
            assert all(last_seq >= 3 * n + 3 for n, (*_, last_seq) in enumerate(it.settled)), "acked before durable"
            assert it.values() == list(range(1, 301))
            assert it.commit.counts.records == 300
            assert it.commit.counts.commits == it.appends < 100

    asyncio.run(main())


def test_a_window_is_closed_while_no_message_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device that fell silent: by the clock alone, durably, and once."""
    monkeypatch.setattr(module, "WINDOWS_EVERY_S", 0.01)
    clock = FakeClock()
    clock.ms = NEW_YEAR_MS
    rule = Process(metric="n", window_s=60, aggregates=("count", "max"))

    async def look(it: Rig) -> None:
        """Long enough that what is due has been seen."""
        done = it.commit.looks + 3
        await eventually(lambda: it.commit.looks >= done, "windows are looked at")

    async def main() -> None:
        async with rig(tmp_path, process=(rule,), clock=clock) as it:
            await it.deliver("a", 3, 4)
            await it.until_settled(1)
            clock.ms += 69_000
            await look(it)
            assert it.values() == []
            clock.ms += 2000
            await eventually(lambda: it.values() == [2, 4], "count and maximum are in the spool")
            await it.deliver("b", 5)
            await it.until_settled(2)
        async with rig(tmp_path, process=(rule,), clock=clock) as it:
            clock.ms += 3_600_000
            await look(it)
            assert it.values() == [2, 4, 5], "what came too late is as it came, and nothing is there twice"

    asyncio.run(main())


def test_what_is_ignored_is_settled_and_counted_and_takes_no_seq(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            ignored = {"topic": "debug/#", "ignore": True}
            config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "mappings": [ignored, {}]})
            it.commit._decoder = Decoder(config, it.spool.series_id)
            for topics in (["debug"], ["debug/a", TOPIC, "debug/b"], ["debug/c"], [TOPIC]):
                chunk = Chunk(NEW_YEAR_MS, topics, [b'{"n": 1}'] * len(topics), [0] * len(topics))
                await it.commit.deliver(it.delivery(topics[0], chunk))
            await it.until_settled(4)
            assert it.names == ["debug", "debug/a", "debug/c", TOPIC]
            counts = it.commit.counts
            assert (counts.messages, counts.ignored, counts.records, counts.dead_letters) == (6, 4, 2, 0)
            assert read_status(it.path).last_seq == 2

    asyncio.run(main())


def test_nothing_is_settled_while_the_disk_is_at_work(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            it.gate.clear()
            await it.deliver("a", 1)
            await eventually(lambda: it.appends == 1, "the commit has begun")
            await it.deliver("b", 2)
            await it.deliver("c", 3)
            await asyncio.sleep(0.05)  # time for a settle that must not be
            assert it.names == []
            it.gate.set()
            await it.until_settled(3)
            assert [(name, last_seq) for name, _, last_seq in it.settled] == [("a", 1), ("b", 3), ("c", 3)]
            assert it.appends == 2, "while one commit waits for the disk the next group grows"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot write the spool: [Errno 5] Input/output error"),
        (SpoolFullError("The spool is full."), "The spool is full."),
    ],
)
def test_a_commit_that_fails_settles_and_takes_nothing_until_it_succeeds(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)

    async def main() -> None:
        async with rig(tmp_path) as it:
            it.failures = [error] * 1000
            await it.deliver("a", 1, 2)
            await eventually(lambda: bool(it.commit.trouble), "it says that it cannot")
            assert it.commit.trouble == sentence
            waiting = [asyncio.create_task(it.deliver(name, n)) for name, n in (("b", 3), ("c", 4))]
            tries = it.appends
            await eventually(lambda: it.appends > tries + 3, "it tries again and again")
            assert it.settled == []
            assert not any(task.done() for task in waiting), "it takes nothing meanwhile"
            assert it.commit.counts.messages == 2
            it.failures.clear()
            await it.until_settled(3)
            await asyncio.gather(*waiting)
            assert it.names == ["a", "b", "c"]
            assert it.values() == [1, 2, 3, 4]
            assert it.commit.trouble == ""
            await it.deliver("d", 5)
            await it.until_settled(4)

    asyncio.run(main())


def test_a_full_spool_pushes_back_until_a_receipt_frees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)

    async def main() -> None:
        async with rig(tmp_path, bytes_max=MIB) as it:
            taken = 0
            while not it.commit.trouble:
                chunk = Chunk(NEW_YEAR_MS, ["no/mapping"], [BLOB], [taken])
                await it.commit.deliver(it.delivery(str(taken), chunk))
                taken += 1
                await eventually(lambda n=taken: it.commit.trouble or len(it.settled) == n, "settled, or full")  # type: ignore[misc]  # n is bound
            assert "The spool is full" in it.commit.trouble
            settled = len(it.settled)
            assert 0 < settled == taken - 1
            await asyncio.to_thread(it.spool.trim, settled)
            it.spool.trim(settled)
            await it.until_settled(taken)
            assert it.names == [str(n) for n in range(taken)]
            assert it.spool.next_seq == taken + 1

    asyncio.run(main())


def test_a_message_decoded_once_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    decoded: list[Chunk] = []

    async def main() -> None:
        async with rig(tmp_path) as it:
            decode = it.decoder.decode

            def spy(chunk: Chunk, *more: object) -> object:
                decoded.append(chunk)
                return decode(chunk, *more)  # type: ignore[arg-type]  # as they came

            monkeypatch.setattr(it.decoder, "decode", spy)
            it.failures = [OSError("no")] * 5
            await it.deliver("a", 1)
            await it.deliver("b", 2)
            await it.until_settled(2)
            assert [chunk.keys for chunk in decoded] == [[1], [2]]
            assert it.values() == [1, 2]

    asyncio.run(main())


def test_a_repeated_message_is_settled_and_not_spooled_twice(tmp_path: Path) -> None:
    """Whether its first copy is in the journal, in the commit that is going on, or in the open group."""

    async def main() -> None:
        async with rig(tmp_path) as it:
            await it.deliver("in the journal", 1)
            await it.until_settled(1)
            it.gate.clear()
            await it.deliver("being committed", 2)
            await eventually(lambda: it.appends == 2, "the commit has begun")
            await it.deliver("open", 3)
            await it.deliver("again", 1, 2, 3, 4, repeated=True)
            assert len(it.settled) == 1, "of the three only one is durable"
            it.gate.set()
            await it.until_settled(4)
            assert it.names == ["in the journal", "being committed", "open", "again"]
            assert it.values() == [1, 2, 3, 4]
            assert (it.commit.counts.messages, it.commit.counts.repeated) == (7, 3)
            await it.deliver("only repetitions", 4, 2, repeated=True)
            await it.until_settled(5)
        async with rig(tmp_path) as it:
            await it.deliver("after a restart", 1, 4, 5, repeated=True)
            await it.until_settled(1)
            assert it.values() == [1, 2, 3, 4, 5]

    asyncio.run(main())


def test_equal_messages_that_are_no_repetitions_are_both_spooled(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            await it.deliver("a", 1)
            await it.deliver("a again", 1)
            await it.deliver("qos 0", 7, 7, qos=0)
            await it.until_settled(3)
            assert it.values() == [1, 1, 7, 7]
            assert not it.spool.knows(0)

    asyncio.run(main())


def test_a_refusal_is_durable_and_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            chunk = Chunk(NEW_YEAR_MS, [TOPIC, TOPIC], [b'{"n": 1}', b"junk"], [1, 2])
            await it.commit.deliver(it.delivery("a", chunk))
            await it.until_settled(1)
            ((_, outcome, last_seq),) = it.settled
            assert list(outcome.refused) == [1]
            assert last_seq == 2
            run = it.spool.read(0, ALL, ALL)
            assert isinstance(run, Records)
            assert run.columns.dead == {1: DeadLetter(TOPIC, b"junk", outcome.refused[1])}
            assert it.commit.counts.dead_letters == 1

    asyncio.run(main())


def test_a_full_group_blocks_its_senders(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path, records_max=2) as it:
            it.gate.clear()
            await it.deliver("a", 1, 2, 3)
            await eventually(lambda: it.appends == 1, "the commit has begun")
            await it.deliver("b", 4)
            await it.deliver("c", 5)
            blocked = asyncio.create_task(it.deliver("d", 6))
            await asyncio.sleep(0.05)  # time to be taken, which must not be
            assert not blocked.done()
            assert it.commit.counts.messages == 5
            it.gate.set()
            await blocked
            await it.until_settled(4)
            assert it.values() == [1, 2, 3, 4, 5, 6]

    asyncio.run(main())


def test_the_uplink_is_woken_once_the_records_are_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as it:
            seen: list[int] = []
            it.commit.on_commit = lambda: seen.append(read_status(tmp_path).last_seq)
            await it.deliver("a", 1)
            await eventually(lambda: seen == [1], "it is woken")

    asyncio.run(main())


@pytest.mark.parametrize("at", ["the disk", "an error"])
def test_a_cancelled_commit_settles_nothing_and_nothing_is_twice(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be interrupted: its commit may succeed unheard. The journal knows the redelivery."""
    monkeypatch.setattr(module, "RETRY_S", 0.02)

    async def main() -> None:
        async with rig(tmp_path, run=False) as it:
            running = asyncio.create_task(it.commit.run())
            if at == "the disk":
                it.gate.clear()
            else:
                it.failures = [OSError("no")] * 1_000_000
            await it.deliver("a", 1, 2)
            await eventually(lambda: it.appends > 0, "the commit has begun")
            waiting = asyncio.create_task(it.deliver("b", 3))  # taken, or not: it must not be settled
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            waiting.cancel()
            await asyncio.wait([waiting])
            it.gate.set()
            await asyncio.sleep(0.05)  # time for a settle that must not be
            assert it.settled == []
        async with rig(tmp_path) as it:
            await it.deliver("again", 1, 2, 3, repeated=True)
            await it.until_settled(1)
            assert it.values() == [1, 2, 3]

    asyncio.run(main())


def test_a_corrupt_spool_ends_it_with_nothing_settled(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path, run=False) as it:
            it.failures = [SpoolCorruptError("malformed")]
            await it.deliver("a", 1)
            with pytest.raises(SpoolCorruptError):
                await it.commit.run()
            assert it.settled == []

    asyncio.run(main())


plans = st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=25)
failures = st.lists(st.booleans(), max_size=6)


@settings(deadline=None, max_examples=40)
@given(plans, failures, st.integers(1, 6))
def test_whatever_fails_and_repeats_each_message_is_there_once(
    plan: list[tuple[int, bool, bool]], failing: list[bool], records_max: int
) -> None:
    """plan: for each delivery its messages, whether it repeats the one before, whether the loop runs before it."""

    async def main(path: Path) -> None:
        async with rig(path, records_max=records_max) as it:
            it.failures = [OSError("no") if kind else SpoolFullError("full") for kind in failing]
            number, last = 0, (0, 0)
            ends = []
            for index, (count, repeats, pause) in enumerate(plan):
                if repeats and index:
                    await it.deliver(str(index), *range(*last), repeated=True)
                else:
                    last = number + 1, number + count + 1
                    number += count
                    await it.deliver(str(index), *range(*last))
                ends.append(number)
                if pause:
                    await asyncio.sleep(0)
            await it.until_settled(len(plan))
            assert it.names == [str(index) for index in range(len(plan))]
            assert all(seq >= end for end, (*_, seq) in zip(ends, it.settled, strict=True)), "acked before durable"
            assert it.values() == list(range(1, number + 1))

    module.RETRY_S = 0.0
    try:
        with TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder)))
    finally:
        module.RETRY_S = RETRY_S
