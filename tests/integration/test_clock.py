"""A gateway that boots in 1970: real processes, the agent's wall clock held by libfaketime, a kill in between."""

import asyncio
import json
import time
from functools import partial
from pathlib import Path

import paho.mqtt.publish as publish

from edge_agent.spool_file import read_status
from proof.faults import faketime, faketime_environment
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY, TIME_NOT_BELIEVED
from tests.brokers import HOST
from tests.pipeline import make_stack, until


def test_what_a_gateway_took_in_1970_stands_at_its_true_time(tmp_path: Path) -> None:
    library, clock = faketime(), tmp_path / "clock"
    assert library is not None, "install faketime (tests/install-tools)"
    environment = faketime_environment(library, clock)
    stack = make_stack(tmp_path)
    edge = stack.programs["edge"]
    edge.environment = environment
    sent_ms: list[tuple[float, float]] = []
    dated_ms = round(time.time() * 1000) - 5_000

    async def send(*payloads: dict[str, object]) -> None:
        """Messages that are spooled within the times that are noted for each."""
        before_ms, held = time.time() * 1000, read_status(tmp_path / "spool").last_seq
        messages = [{"topic": "devices/d/telemetry", "payload": json.dumps(each), "qos": 1} for each in payloads]
        await asyncio.to_thread(publish.multiple, messages, HOST, stack.ports.mqtt)
        full = held + len(payloads)
        await until(lambda: read_status(tmp_path / "spool").last_seq == full, "the messages are spooled")
        sent_ms.extend([(before_ms, time.time() * 1000)] * len(payloads))

    async def main() -> None:
        clock.write_text("@1970-01-01 00:00:10\n")
        async with stack.running():
            await send({"n": 0}, {"n": 1, "ts": dated_ms}, {"n": 2, "ts": 12})
            await until(partial(said, "The gateway's clock is not set"), "the agent says why nothing is sent")
            edge.kill()
            await until(lambda: edge.restarts == 1 and edge.is_running, "the agent starts again, still in 1970")
            await edge.until_ready()
            await send({"n": 3})
            assert read_status(tmp_path / "spool").mark == 0, "nothing was sent"
            clock.write_text("+0\n")
            await send({"n": 4})
            await until(lambda: read_status(tmp_path / "spool").mark == 5, "everything is committed")
            client = stack.client()
            rows = client.query(
                "SELECT value, toUnixTimestamp64Milli(measured_at), toUnixTimestamp64Milli(received_at), quality "
                "FROM fieldline.readings ORDER BY value"
            ).result_rows
            client.close()
        arrival = TIME_FROM_GATEWAY
        qualities = [arrival, TIME_FROM_DEVICE, arrival | TIME_NOT_BELIEVED, arrival, arrival]
        assert [(value, quality) for value, _, _, quality in rows] == list(enumerate(qualities))
        for (value, measured, received, _), (before_ms, after_ms) in zip(rows, sent_ms, strict=True):
            assert before_ms - 100 <= received <= after_ms + 100
            assert measured == (dated_ms if value == 1 else received)

    def said(words: str) -> bool:
        return words in (tmp_path / "logs" / "edge.log").read_text()

    asyncio.run(main())
