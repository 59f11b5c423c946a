"""`edge listen` without a broker: its limits."""

import asyncio
import io

from rich.console import Console

from broker_bridge.mqtt.client import Connection, Messages
from edge_agent import listen
from edge_agent.config import GatewayConfig, Mqtt
from edge_agent.listen import Inbox, Message, Screen


def messages(count: int, payload: bytes) -> Messages:
    return Messages(["devices/d/telemetry"] * count, [payload] * count, [0] * count, oversized={1: 999_999})


async def _full() -> None:
    inbox, connection = Inbox(), object.__new__(Connection)
    inbox.add(messages(listen.WAITING_MAX + 3, b"x"), connection)
    inbox.add(messages(2, b"x"), connection)
    waiting, missed = inbox.take()
    assert (len(waiting), missed) == (listen.WAITING_MAX, 5)
    assert [message.bytes for message in waiting[:3]] == [None, 999_999, None]
    inbox.add(messages(5, b"x" * (listen.WAITING_BYTES_MAX // 2)), connection)
    waiting, missed = inbox.take()
    assert (len(waiting), missed) == (3, 2)
    assert inbox.take() == ([], 0)


def test_what_waits_has_limits_and_what_is_missed_is_counted() -> None:
    asyncio.run(_full())


def test_readings_of_a_message_and_messages_have_limits() -> None:
    out = io.StringIO()
    screen = Screen(GatewayConfig(gateway="g", mqtt=Mqtt()), 2, Console(file=out, width=40))
    many = "{" + ", ".join(f'"[m]{n}": {n}' for n in range(listen.READINGS_MAX + 7)) + "}"
    screen.show([Message(0, "devices/d/telemetry", many.encode(), None, is_retained=False)], 4)
    assert not screen.is_full
    screen.show([Message(0, "devices/d/telemetry", b'{"a": null}', None, is_retained=False)] * 2, 0)
    assert screen.is_full
    lines = out.getvalue().splitlines()
    assert lines[0] == f"00:00:00.000  devices/d/telemetry  {len(many)} bytes"
    assert lines[1] == "    d  [m]0 = 0  at 1970-01-01T00:00:00.000Z, time of arrival"
    assert lines[listen.READINGS_MAX + 1 :] == [
        "    and 7 readings more",
        "(4 messages more came than could be shown)",
        "00:00:00.000  devices/d/telemetry  11 bytes",
        "    no reading: it has no value that is taken",
    ]
    assert screen.summary() == "2 messages: 57 readings, 0 dead letters. 4 more came than could be shown."
