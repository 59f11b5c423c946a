"""The whole pipeline with real processes, killed in the middle of a run: nothing missing, nothing double.

Judged three ways: the accounting view, the demo's books, and by value: the multiset of what devices were told
is safe (the fleet's journal) against the multiset in the table, by code that shares nothing with the pipeline.
"""

import asyncio
import json
import math
import shutil
import subprocess
from functools import partial
from pathlib import Path

import paho.mqtt.publish as publish
import pytest
from clickhouse_connect import get_client

from edge_agent.spool_file import read_status
from proof.stack import FIELDLINE, Stack, read_report
from tests import reference
from tests.pipeline import SAMPLE, acked, add_fleet, books, ended, fleet_running, make_stack, until
from tests.proxy import Proxy

COAP_CLIENT = next(
    filter(
        None,
        map(shutil.which, ("coap-client", "coap-client-openssl", "coap-client-gnutls", "coap-client-notls")),
    ),
    None,
)


async def check_books(stack: Stack) -> None:
    """The books are right, and every value is in the table as often as devices were told."""
    account = await books(stack)
    assert account.holds, account.line()
    client = stack.client()
    try:
        journal, poison = reference.journal(stack.directory / "journal.jsonl")
        table = reference.table(client)
        assert table == journal, f"missing {journal - table}, double {table - journal}"
        assert client.query("SELECT count() FROM fieldline.dead_letters").result_rows == [(poison,)]
    finally:
        client.close()


@pytest.mark.parametrize("victim", ["edge", "ingest", "clickhouse", "trunk-broker"])
def test_a_kill_in_the_middle_of_a_run_costs_nothing(victim: str, tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running():
            options = ("--csv", str(SAMPLE), "--speed", "150000", "--seconds", "9", "--poison", "0.01")
            async with fleet_running(stack, *options) as fleet:
                for messages in (800, 1800):
                    await until(lambda n=messages: acked(stack) >= n, f"{messages} messages are acknowledged")
                    stack.programs[victim].kill()
                    await until(lambda: stack.programs[victim].is_running, f"{victim} is started again")
                assert await ended(fleet) == 0, fleet.tail()
            assert stack.programs[victim].restarts == 2
            assert read_report(tmp_path / "fleet.json")["reposted"] == 0
            await check_books(stack)

    asyncio.run(main())


def test_a_recording_as_fast_as_it_goes_gives_the_files_own_statistics(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running():
            async with fleet_running(stack, "--csv", str(SAMPLE), "--speed", "0") as fleet:
                assert await ended(fleet) == 0, fleet.tail()
            await check_books(stack)
            client = stack.client()
            rows = client.query(
                "SELECT device, metric, count(), sumKahan(value), min(value), max(value) "
                "FROM fieldline.readings GROUP BY device, metric"
            ).result_rows
            client.close()
        expected = reference.statistics(SAMPLE)
        assert {(row[0], row[1]) for row in rows} == set(expected)
        for device, metric, count, total, low, high in rows:
            want = expected[device, metric]
            assert (count, low, high) == (want[0], want[2], want[3]), (device, metric)
            assert math.isclose(total, want[1], rel_tol=1e-12), (device, metric)

    asyncio.run(main())


def test_an_agent_without_any_network_delivers_once_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["clickhouse"]):
            stack.programs["edge"].start()  # no device broker, no trunk: CoAP devices are served all the same
            await until((tmp_path / "spool" / "agent.json").exists, "the agent runs")
            fleet = add_fleet(stack, "--devices", "5", "--rate", "20", "--coap-share", "1", "--seconds", "3")
            fleet.start()
            assert await ended(fleet) == 0, fleet.tail()
            waiting = read_status(tmp_path / "spool").records
            assert waiting == read_report(tmp_path / "fleet.json")["readings_acked"] > 0
            for name in ("trunk-broker", "ingest", "device-broker"):
                await stack.start(name)
            await check_books(stack)
            await until(lambda: read_status(tmp_path / "spool").records == 0, "the receipts have come")

    asyncio.run(main())


def test_redelivered_messages_whose_acknowledgement_was_lost_are_spooled_once(tmp_path: Path) -> None:
    """Mosquitto marks them DUP. The proxy swallows the agent's PUBACKs, then the agent is killed."""

    async def main() -> None:
        with Proxy() as proxy:
            stack = make_stack(tmp_path, mqtt_port=proxy.port)
            proxy.target = stack.ports.mqtt
            async with stack.running(["device-broker", "edge"]):
                proxy.swallow_upstream = True
                messages = [
                    {"topic": f"devices/d{n}/telemetry", "payload": json.dumps({"n": n}), "qos": 1} for n in range(150)
                ]
                await asyncio.to_thread(publish.multiple, messages, "127.0.0.1", stack.ports.mqtt)
                await until(lambda: read_status(tmp_path / "spool").last_seq == 150, "all are in the spool")
                stack.programs["edge"].kill()
                proxy.cut()
                proxy.swallow_upstream = False
                await stack.programs["edge"].until_ready()
                last = {"topic": "devices/d0/telemetry", "payload": '{"last": 1}', "qos": 1}
                await asyncio.to_thread(publish.multiple, [last], "127.0.0.1", stack.ports.mqtt)
                await until(lambda: read_status(tmp_path / "spool").last_seq >= 151, "the last one is in the spool")
                assert read_status(tmp_path / "spool").last_seq == 151, "a redelivered message was spooled twice"

    asyncio.run(main())


BAD_PAYLOADS = [
    b'{"a": 1',
    b'{"a": [1]}',
    b'{"a": NaN}',
    b"[1, 2]",
    b'{"ts": 99999999999999, "a": 1}',
    b"\xff\xfe",
    b'{"a": "' + b"x" * 1_000_000 + b'"}',
]


def test_bad_input_becomes_dead_letters_and_nothing_valid_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running():
            bad = [("devices/bad/telemetry", payload) for payload in BAD_PAYLOADS]
            bad.append(("devices/bad/telemetry", b""))
            messages: list[dict[str, object]] = []
            for number, (topic, payload) in enumerate(bad):
                good = json.dumps({"n": number})
                messages.append({"topic": "devices/good/telemetry", "payload": good, "qos": 1})
                messages.append({"topic": topic, "payload": payload, "qos": 1})
            await asyncio.to_thread(publish.multiple, messages, "127.0.0.1", stack.ports.mqtt)
            answers = [
                await coap_post(stack, "bad", '{"a": [1]}'),
                await coap_post(stack, "good", '{"n": 100}'),
            ]
            assert "4.00" in answers[0], answers
            assert "'a' is an array" in answers[0], answers
            assert "4.0" not in answers[1], answers
            client = stack.client()
            count = "SELECT (SELECT count() FROM fieldline.readings), (SELECT count() FROM fieldline.dead_letters)"
            expected = [(len(bad) + 1, len(bad) + 1)]
            await until(lambda: client.query(count).result_rows == expected, f"{expected} are in the tables")
            rows = client.query(
                "SELECT hex(raw), reason FROM fieldline.dead_letters WHERE source = 'devices/bad/telemetry'"
            ).result_rows
            client.close()
            kept = {raw.lower(): reason for raw, reason in rows}
            assert set(kept) == {payload.hex() for _, payload in bad}
            assert all(len(reason) > 10 for reason in kept.values()), "each has a sentence"
            assert "1000009 bytes" in kept[BAD_PAYLOADS[-1].hex()]

    asyncio.run(main())


async def coap_post(stack: Stack, device: str, payload: str) -> str:
    """libcoap's client, as a firmware author tries it; what it printed."""
    assert COAP_CLIENT is not None, "install libcoap3-bin (tests/install-tools)"
    uri = f"coap://127.0.0.1:{stack.ports.coap}/telemetry/{device}"
    command = [COAP_CLIENT, "-m", "post", "-t", "50", "-e", payload, uri]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    return str(done.stdout + done.stderr)


def test_the_demo_as_a_user_runs_it_twice_with_guests(tmp_path: Path) -> None:
    """`fieldline demo`, with mosquitto_pub and coap-client feeding it and a plain client reading it."""

    async def main() -> None:
        for run in (1, 2):
            stack = Stack(tmp_path / "data", make_stack(tmp_path).ports)
            ports = stack.ports
            command = [*demo_command(tmp_path), "--seconds", "6"]
            for name in ("mqtt", "coap", "trunk", "clickhouse"):
                command += [f"--{name}-port", str(getattr(ports, name))]
            demo = stack.add(f"demo-{run}", command, restart=False)
            demo.start()
            await until(lambda demo=demo: "Everything runs" in demo.tail(50), "the demo runs")
            guest = ["mosquitto_pub", "-p", str(ports.mqtt), "-q", "1", "-t", "devices/kettle/telemetry"]
            guest += ["-m", '{"temperature": 81.5}']
            await asyncio.to_thread(subprocess.run, guest, check=True, timeout=30)
            assert "4." not in await coap_post(stack, "tank", '{"level": 0.4}')
            await until(partial(guests_are_in, ports.clickhouse, 2 * run), "the guests' readings are in")
            status = await ended(demo)
            last = demo.tail(1)
            assert status == 0, demo.tail(30)
            assert last.startswith("accounting: sent="), last
            assert last.endswith("duplicates=0 missing=0"), last

    asyncio.run(main())


def guests_are_in(port: int, count: int) -> bool:
    """As any program would ask."""
    client = get_client(host="127.0.0.1", port=port)
    try:
        query = "SELECT count() FROM fieldline.readings WHERE device IN ('kettle', 'tank')"
        return bool(client.query(query).result_rows == [(count,)])
    finally:
        client.close()


def demo_command(directory: Path) -> list[str]:
    return [*FIELDLINE, "demo", "--dir", str(directory / "data"), "--speed", "36000"]
