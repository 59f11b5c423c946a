"""The fleet against faults of what is in front of it: a broker that dies, answers that get lost.

Its books are the devices' side of the promise, so they must be right themselves: what it calls acknowledged is
in the spool, what it had to send twice it says, and nothing it never sent is there. The spool is read from
outside (tests/gateway.py), the books through the journal (tests/reference.py).
"""

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import paho.mqtt.publish as publish
import pytest
from aiocoap.numbers.constants import TransportTuning

from edge_agent.health import read_report as read_agent
from edge_agent.spool_file import read_status
from firmware_stubs import fleet
from firmware_stubs.counts import Counts
from firmware_stubs.fleet import FleetOptions
from proof.stack import Stack, read_report
from tests import reference
from tests.brokers import HOST
from tests.gateway import spooled
from tests.pipeline import SAMPLE, acked, ended, fleet_running, make_stack, until
from tests.proxy import Proxy
from tests.reference import Value
from tests.relay import relay

DEVICE_SIDE = ["device-broker", "edge"]
IN_FLIGHT_MAX = 4 * 2 * FleetOptions().inflight_max
"""Readings on their way to the broker over two connections, four in a message."""


def held(stack: Stack) -> Counter[Value]:
    return spooled(stack.directory / "spool")[0]


def told(stack: Stack) -> Counter[Value]:
    """What the fleet's devices were told is safe."""
    journal, poison = reference.journal(stack.directory / "journal.jsonl")
    assert poison == 0
    return journal


async def in_thread(options: FleetOptions, stop: threading.Event) -> Counts:
    return await asyncio.to_thread(fleet.run, options, stop)


def test_a_recording_reaches_the_spool_reading_by_reading(tmp_path: Path) -> None:
    """As fast as it goes, in the file's order for each device, on both protocols."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        head = tmp_path / "head.csv"
        head.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[:1601]))
        expected = reference.multiset(head)
        async with stack.running(DEVICE_SIDE):
            async with fleet_running(stack, "--csv", str(head), "--speed", "0") as program:
                assert await ended(program) == 0, program.tail()
            await until(lambda: read_status(tmp_path / "spool").records >= expected.total(), "all is in the spool")
            assert held(stack) == told(stack) == expected
            counts = read_report(tmp_path / "fleet.json")
            assert counts["messages_sent"] == counts["messages_acked"] == 1600
            assert counts["readings_acked"] == expected.total()
            vias = Counter((entry["device"], entry["via"]) for entry in lines(stack))
            assert len(vias) == 4, "a device always uses the same protocol"
            assert sorted(via for _, via in vias) == ["coap", "mqtt", "mqtt", "mqtt"]

    asyncio.run(main())


def lines(stack: Stack) -> list[dict[str, str]]:
    return [json.loads(line) for line in (stack.directory / "journal.jsonl").read_text().splitlines()]


def test_synthetic_devices_send_as_many_as_was_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(DEVICE_SIDE):
            options = ("--devices", "1000", "--rate", "2", "--metrics", "2", "--seconds", "2", "--connections", "2")
            async with fleet_running(stack, *options) as program:
                assert await ended(program) == 0, program.tail()
            counts = read_report(tmp_path / "fleet.json")
            assert 0 < counts["messages_acked"] == counts["messages_sent"] <= 2 * 1000 * 3
            names = {entry["device"] for entry in lines(stack)}
            assert names <= {f"dev-{number:05d}" for number in range(1000)}
            over_coap = {entry["device"] for entry in lines(stack) if entry["via"] == "coap"}
            assert over_coap <= {f"dev-{number:05d}" for number in range(750, 1000)}, "the last quarter by name"
            await until(lambda: held(stack).total() >= counts["readings_acked"], "all is in the spool")
            assert held(stack) == told(stack)

    asyncio.run(main())


def test_what_a_broken_connection_swallowed_is_sent_again(tmp_path: Path) -> None:
    """The messages in flight never reach the broker; the lanes reconnect and send them as they were."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        with Proxy() as proxy:
            proxy.target = stack.ports.mqtt
            async with stack.running(DEVICE_SIDE):
                stop = threading.Event()
                options = FleetOptions(
                    mqtt=(HOST, proxy.port),
                    devices=10,
                    rate_hz=20,
                    connections=2,
                    report=tmp_path / "fleet.json",
                    journal=tmp_path / "journal.jsonl",
                )
                running = asyncio.create_task(in_thread(options, stop))
                try:
                    await until(lambda: acked(stack) >= 50, "the fleet sends")
                    for _ in range(2):
                        proxy.swallow_upstream = True
                        # long enough for the acknowledgements of what had passed before
                        await until(partial(sent_since, stack, sent(stack), 60), "messages are swallowed")
                        swallowing = proxy._threads[1:]
                        proxy.cut()
                        for thread in swallowing:
                            thread.join()
                        proxy.swallow_upstream = False
                        await until(partial(acked_since, stack, acked(stack), 50), "it goes on")
                finally:
                    stop.set()
                    counts = await running
                assert counts.messages_acked == counts.messages_sent
                assert counts.unacked == 0
                await until(lambda: held(stack).total() >= counts.readings_acked, "all is in the spool")
                assert held(stack) == told(stack)

    asyncio.run(main())


def sent(stack: Stack) -> int:
    return read_report(stack.directory / "fleet.json")["messages_sent"]


def sent_since(stack: Stack, before: int, count: int) -> bool:
    return sent(stack) >= before + count


TWENTY = ("--devices", "20", "--rate", "10", "--coap-share", "0", "--connections", "2")


def test_a_device_broker_that_keeps_its_queue_is_restarted_while_the_agent_is_away(tmp_path: Path) -> None:
    """It costs nothing. Only what the devices had on their way when it went can have come twice."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        config = tmp_path / f"mosquitto-{stack.ports.mqtt}.conf"
        config.write_text(f"{config.read_text()}persistence true\npersistence_location {tmp_path}/\n")
        broker, agent = stack.programs["device-broker"], stack.programs["edge"]
        async with stack.running(DEVICE_SIDE):
            async with fleet_running(stack, *TWENTY) as program:
                await until(lambda: acked(stack) >= 100, "the fleet sends")
                await agent.stop()
                await until(partial(acked_since, stack, acked(stack), 100), "messages wait in the broker")
                broker.signal(signal.SIGTERM)
                await until(lambda: broker.restarts == 1, "the supervisor has started it again")
                await until(partial(acked_since, stack, acked(stack), 100), "the fleet goes on")
                agent.start()
                assert await program.stop() == 0, program.tail()
            nothing_is_open(stack)
            await agent.until_ready()
            await until_all_is_taken(stack)
            double = held(stack) - told(stack)
            assert not told(stack) - held(stack), "missing"
            assert set(double) <= set(told(stack)), "nothing that was not sent"
            assert double.total() <= IN_FLIGHT_MAX

    asyncio.run(main())


def test_a_device_broker_that_is_killed_with_all_it_held(tmp_path: Path) -> None:
    """The fleet reconnects and leaves nothing unanswered, and from the agent's return on all is as before.

    What this broker had acknowledged and not handed on died with it, which the README does not promise against.
    """

    async def main() -> None:
        stack = make_stack(tmp_path)
        broker = stack.programs["device-broker"]
        async with stack.running(DEVICE_SIDE):
            async with fleet_running(stack, *TWENTY) as program:
                await until(lambda: acked(stack) >= 100, "the fleet sends")
                killed_ms = time.time() * 1000
                broker.kill()
                await until(lambda: broker.restarts == 1, "the supervisor has started it again")
                await until(partial(is_back, stack, killed_ms), "the agent has found the broker again")
                back_ms = time.time() * 1000
                await until(lambda: stamped_after(told(stack), back_ms).total() >= 400, "the fleet goes on")
                assert await program.stop() == 0, program.tail()
            nothing_is_open(stack)
            await until_all_is_taken(stack)
            assert stamped_after(held(stack), back_ms) == stamped_after(told(stack), back_ms)
            assert set(held(stack)) <= set(told(stack)), "nothing that was not sent"
            assert (held(stack) - told(stack)).total() <= IN_FLIGHT_MAX

    asyncio.run(main())


def acked_since(stack: Stack, before: int, count: int) -> bool:
    return acked(stack) >= before + count


def is_back(stack: Stack, since_ms: float) -> bool:
    report = read_agent(stack.directory / "spool")
    return report is not None and report.changed_at > since_ms and report.connected["mqtt"]


def stamped_after(values: Counter[Value], at_ms: float) -> Counter[Value]:
    return Counter({value: count for value, count in values.items() if value[2] > at_ms})


def nothing_is_open(stack: Stack) -> None:
    counts = read_report(stack.directory / "fleet.json")
    assert counts["messages_acked"] == counts["messages_sent"]
    assert counts["unacked"] == 0


async def until_all_is_taken(stack: Stack) -> None:
    """The broker hands on in order: when this message is in the spool, all before it are."""
    last = {"topic": "devices/last/telemetry", "payload": "", "qos": 1}
    await asyncio.to_thread(publish.multiple, [last], HOST, stack.ports.mqtt)
    await until(lambda: bool(spooled(stack.directory / "spool")[1]), "the last message is in the spool")


def test_a_lost_answer_is_repeated_as_the_same_message_and_stored_once(tmp_path: Path) -> None:
    counts, stored, journal = asyncio.run(over_a_lossy_link(tmp_path, swallow=1))
    assert counts.reposted == 0
    assert stored == journal


def test_a_message_posted_anew_is_counted_as_possibly_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange ends without an answer although the gateway has the reading: only then `reposted`."""
    monkeypatch.setattr(TransportTuning, "ACK_TIMEOUT", 0.3)  # the end of an exchange after 1 s, not after 77
    monkeypatch.setattr(TransportTuning, "MAX_RETRANSMIT", 1)
    counts, stored, journal = asyncio.run(over_a_lossy_link(tmp_path, swallow=4))
    double = stored - journal
    assert counts.reposted >= 2
    assert double.total() == 4 * counts.reposted, "each is stored once more, by value"
    assert set(double) <= set(journal)
    assert not journal - stored, "and nothing is missing"


async def over_a_lossy_link(tmp_path: Path, swallow: int) -> tuple[Counts, Counter[Value], Counter[Value]]:
    """One CoAP device, some of whose first answers are lost: its counts, the spool, and its journal."""
    stack = make_stack(tmp_path)
    async with stack.running(DEVICE_SIDE), relay(stack.ports.coap) as link:
        link.swallow_answers = swallow
        stop = threading.Event()
        options = FleetOptions(
            coap=(HOST, link.port),
            devices=1,
            rate_hz=20,
            connections=1,
            report=tmp_path / "fleet.json",
            journal=tmp_path / "journal.jsonl",
        )
        running = asyncio.create_task(in_thread(options, stop))
        try:
            await until(lambda: acked(stack) >= 10, "messages are acknowledged")
        finally:
            stop.set()
            counts = await running
        assert link.swallowed == swallow
        assert counts.messages_acked == counts.messages_sent
        return counts, held(stack), told(stack)


def test_a_fleet_that_is_stopped_says_what_was_left_without_an_answer(tmp_path: Path) -> None:
    async def main() -> None:
        with Proxy() as nowhere:
            stop = threading.Event()
            options = FleetOptions(mqtt=(HOST, nowhere.port), devices=3, rate_hz=10, seconds=0.5, linger_s=0.2)
            counts = await in_thread(options, stop)
        assert counts.messages_acked == 0
        assert counts.unacked == counts.messages_sent > 0

    asyncio.run(main())
