"""The MQTT connection against Mosquitto, the embedded broker, and servers that behave badly."""

import asyncio
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker_bridge.mqtt.client import (
    SESSION_S_MAX,
    ConnectError,
    Connection,
    ConnectionLostError,
    Messages,
    Options,
    ProtocolError,
    PublishError,
    SubscribeError,
    VersionError,
)
from proof.ports import free_port
from tests.brokers import Broker, embedded, eventually, make_authority, mosquitto

HOST = "127.0.0.1"


DEFAULTS: dict[str, object] = {}
"""Options of every connection that does not say otherwise."""


@pytest.fixture(scope="module", params=["mosquitto", "mosquitto with MQTT 5", "embedded"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    DEFAULTS["version"] = "5" if "5" in request.param else "3.1.1"
    with (embedded if request.param == "embedded" else mosquitto)() as running:
        yield running
    DEFAULTS.clear()


class Inbox:
    """What arrived, in order; acknowledges at once unless told otherwise."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.topics: list[str] = []
        self.payloads: list[bytes] = []
        self.packet_ids: list[int] = []
        self.acknowledge = acknowledge

    def __call__(self, messages: Messages, connection: Connection) -> None:
        self.topics += messages.topics
        self.payloads += messages.payloads
        self.packet_ids += messages.packet_ids
        if self.acknowledge:
            connection.ack(messages.packet_ids)


@asynccontextmanager
async def connected(
    port: int, client_id: str, inbox: Callable[[Messages, Connection], None] | None = None, **options: object
) -> AsyncIterator[Connection]:
    connection = await Connection.open(
        Options(HOST, port, client_id, **DEFAULTS | options),  # type: ignore[arg-type]
        inbox or Inbox(),
    )
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server that is no broker; yields its port."""

    talks: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    running = await asyncio.start_server(serve, HOST, 0)
    async with running:
        yield running.sockets[0].getsockname()[1]
        for task in filter(None, talks):
            task.cancel()
        await asyncio.gather(*filter(None, talks))


def answers(*packets: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server that answers whatever comes with one packet after the other, then keeps silent."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for packet in packets:
            await reader.read(4096)
            writer.write(packet)
        while await reader.read(4096):
            pass

    return talk


ACCEPTED = b"\x20\x02\x00\x00"


def test_messages_arrive_whole_in_order_and_once(broker: Broker) -> None:
    sent = [os.urandom(size) for size in (0, 1, 100, 127, 128, 16_383, 16_384, 300_000)] * 25

    async def scenario() -> None:
        inbox = Inbox()
        async with (
            connected(broker.port, "order-in", inbox) as consumer,
            connected(broker.port, "order-out") as producer,
        ):
            assert await consumer.subscribe(["order/#"]) == [1]
            async with asyncio.TaskGroup() as tasks:
                for number, payload in enumerate(sent):
                    tasks.create_task(producer.publish(f"order/{number}", payload))
            await producer.publish("order/last", b"", qos=0)
            await eventually(lambda: len(inbox.topics) > len(sent), "all messages")
            assert not producer._pubacks
        assert inbox.topics == [f"order/{number}" for number in range(len(sent))] + ["order/last"]
        assert inbox.payloads == [*sent, b""]

    asyncio.run(scenario())


def test_what_is_posted_goes_now_or_never(broker: Broker) -> None:
    async def scenario() -> None:
        inbox = Inbox()
        async with connected(broker.port, "posted", inbox) as consumer, connected(broker.port, "posting") as producer:
            await consumer.subscribe(["posted"])
            producer.post("posted", b"now")
            await eventually(lambda: inbox.payloads == [b"now"], "it arrives")
            with pytest.raises(ProtocolError):
                producer.post("posted/#", b"")
            await producer.close()
            producer.post("posted", b"never")
            await consumer.publish("posted", b"last")
            await eventually(lambda: len(inbox.payloads) > 1, "something else arrives")
        assert inbox.payloads == [b"now", b"last"]

    asyncio.run(scenario())


def test_only_what_was_acknowledged_is_not_sent_again(broker: Broker) -> None:
    async def scenario() -> None:
        first, second = Inbox(acknowledge=False), Inbox()
        async with connected(broker.port, "again-in", first, clean_session=False) as consumer:
            assert not consumer.session_present
            await consumer.subscribe(["again"])
            async with connected(broker.port, "again-out") as producer:
                for number in range(10):
                    await producer.publish("again", b"%d" % number)
            await eventually(lambda: len(first.topics) == 10, "ten messages")
            consumer.ack(first.packet_ids[:4])
        assert "This side closed" in await consumer.closed
        consumer.ack(first.packet_ids)  # harmless now
        async with connected(broker.port, "again-in", second, clean_session=False) as consumer:
            assert consumer.session_present
            await eventually(lambda: len(second.topics) == 6, "six messages again")
        assert second.payloads == [b"%d" % number for number in range(4, 10)]

    asyncio.run(scenario())


def test_a_pause_of_several_keepalives_loses_nothing(broker: Broker) -> None:
    async def scenario() -> None:
        inbox = Inbox()
        async with (
            connected(broker.port, "pause-in", inbox, keepalive_s=1) as consumer,
            connected(broker.port, "pause-out", keepalive_s=1, inflight_max=20) as producer,
        ):
            await consumer.subscribe(["pause"])
            consumer.pause()
            consumer.pause()
            async with asyncio.TaskGroup() as tasks:
                for number in range(2000):
                    tasks.create_task(producer.publish("pause", b"%06d" % number * 1000))
            await asyncio.sleep(2.5)  # two and a half keepalives: the time is what is tested
            assert not inbox.topics
            consumer.resume()
            consumer.resume()
            await eventually(lambda: len(inbox.topics) == 2000, "all messages")
            assert [int(payload[:6]) for payload in inbox.payloads] == list(range(2000))
            await asyncio.sleep(2)  # idle on both sides
            await producer.publish("pause", b"still there")
            await eventually(lambda: inbox.payloads[-1] == b"still there", "the connection outlives idleness")

    asyncio.run(scenario())


def test_a_broker_that_hangs_is_noticed_and_publish_says_so() -> None:
    async def scenario(broker: Broker) -> None:
        assert broker.process
        async with connected(broker.port, "hang", keepalive_s=1, inflight_max=2) as connection:
            broker.process.send_signal(signal.SIGSTOP)
            outcomes = await asyncio.gather(*(connection.publish("t", b"") for _ in range(4)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ConnectionLostError] * 4
            assert "did not answer for 1 s" in str(outcomes[0])
            assert await connection.closed == str(outcomes[0])
            with pytest.raises(ConnectionLostError):
                await connection.publish("t", b"", qos=0)
            with pytest.raises(ConnectionLostError):
                await connection.subscribe(["t"])

    with mosquitto() as broker:
        asyncio.run(scenario(broker))
        broker.kill()


def test_publish_waits_while_the_broker_does_not_read() -> None:
    payload = bytes(100_000)

    async def scenario(broker: Broker) -> None:
        assert broker.process
        inbox = Inbox()
        async with (
            connected(broker.port, "full-in", inbox, keepalive_s=0) as consumer,
            connected(broker.port, "full-out", keepalive_s=0, inflight_max=1000) as connection,
        ):
            await consumer.subscribe(["full"])
            broker.process.send_signal(signal.SIGSTOP)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(200):
                        tasks.create_task(connection.publish("full", payload))
                    await eventually(lambda: not connection._wire.writable.is_set(), "the buffers are full")
                    assert connection._wire._transport.get_write_buffer_size() < 3 * len(payload)
                    broker.process.send_signal(signal.SIGCONT)
            finally:
                broker.process.send_signal(signal.SIGCONT)
            await eventually(lambda: len(inbox.payloads) == 200, "all messages")

    with mosquitto() as broker:
        asyncio.run(scenario(broker))


def test_a_slow_broker_that_still_takes_bytes_is_not_given_up() -> None:
    taken = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.read(4096)
        writer.write(ACCEPTED)
        while data := await reader.read(300_000):
            taken += len(data)
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with server(talk) as port, connected(port, "slow", keepalive_s=1) as connection:
            publication = asyncio.create_task(connection.publish("t", bytes(20_000_000)))
            await asyncio.sleep(2.5)  # two and a half keepalives without a word from the server
            assert 0 < taken < 20_000_000
            assert not connection._wire.reason
            publication.cancel()
            with suppress(asyncio.CancelledError):
                await publication
            connection._wire.fail("enough")

    asyncio.run(scenario())


def test_a_cancelled_publish_keeps_its_place_until_the_broker_answers(broker: Broker) -> None:
    async def scenario() -> None:
        async with connected(broker.port, "cancel", inflight_max=1) as connection:
            publication = asyncio.create_task(connection.publish("t", b"1"))
            await asyncio.sleep(0)
            publication.cancel()
            await connection.publish("t", b"2")
            with pytest.raises(ProtocolError, match="cannot be published to"):
                await connection.publish("t/+", b"")
            await connection.publish("t", b"3")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (1, "does not speak MQTT 3.1.1. Enable"),
        (2, "refuses the client id 'me'. Choose another"),
        (3, "is up but not available"),
        (4, "refuses the username or password. Check"),
        (5, r"does not let the user \(anonymous\) in as 'me'. Check"),
        (77, "refuses the connection with the unknown code 77"),
    ],
)
def test_connack_codes_are_sentences(code: int, sentence: str) -> None:
    async def scenario() -> None:
        async with server(answers(b"\x20\x02\x00" + bytes([code]))) as port:
            with pytest.raises(ConnectError, match=rf"The MQTT broker 127\.0\.0\.1:{port} {sentence}"):
                await Connection.open(Options(HOST, port, "me"), Inbox())

    asyncio.run(scenario())


def test_a_refused_filter_is_named() -> None:
    async def scenario() -> None:
        talk = answers(ACCEPTED, b"\x90\x04\x00\x01\x01\x80")
        async with server(talk) as port, connected(port, "me", username="ada") as connection:
            with pytest.raises(SubscribeError, match=r"refuses the subscription to secret/#. Check .* 'ada'"):
                await connection.subscribe(["open/#", "secret/#"])
            connection._wire.fail("enough")

    asyncio.run(scenario())


def test_a_server_that_talks_rubbish_is_left() -> None:
    async def scenario() -> None:
        async with server(answers(ACCEPTED, b"\x00\x00")) as port, connected(port, "me") as connection:
            await connection.publish("t", b"", qos=0)
            assert "broke the protocol: A packet of type 0" in await connection.closed
        async with server(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
            with pytest.raises(ConnectError, match=r"broke the protocol.*check that port .* is for MQTT"):
                await Connection.open(Options(HOST, port, "me"), Inbox())

    asyncio.run(scenario())


async def refusal(port: int, host: str = HOST, timeout_s: float = 5, **options: object) -> str:
    with pytest.raises(ConnectError) as caught:
        await Connection.open(
            Options(host, port, "me", connect_timeout_s=timeout_s, **options),  # type: ignore[arg-type]
            Inbox(),
        )
    return str(caught.value)


def test_a_broker_that_cannot_be_reached_is_a_sentence() -> None:
    async def scenario() -> None:
        assert re.search(r"refuses connections\. Check that it runs", await refusal(free_port()))
        assert re.search(r"the name '.*' does not resolve\. Check", await refusal(1883, host="no..where"))
        with socket.socket() as deaf:
            deaf.bind((HOST, 0))
            deaf.listen()
            sentence = await refusal(deaf.getsockname()[1], timeout_s=0.2)
            assert "did not answer within 0.2 s. Check host, port" in sentence

        async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            pass

        async with server(hang_up) as port:
            assert "had not answered CONNECT" in await refusal(port)

    asyncio.run(scenario())


def test_a_wrong_password_is_a_sentence() -> None:
    async def scenario(port: int) -> None:
        assert re.search("username or password|does not let", await refusal(port))
        assert re.search("username or password|does not let", await refusal(port, username="ada", password="wrong"))
        async with connected(port, "me", username="ada", password="right") as connection:
            await connection.publish("t", b"")

    with mosquitto(passwords={"ada": "right"}) as broker:
        asyncio.run(scenario(broker.port))


def test_tls_and_what_can_be_wrong_with_it(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority.ca)

    async def scenario(port: int, plain_port: int) -> None:
        inbox = Inbox()
        async with connected(port, "me", inbox, ssl=trusting, keepalive_s=1) as connection:
            await connection.subscribe(["tls"])
            for _ in range(30):
                await connection.publish("tls", bytes(100_000))
            await eventually(lambda: len(inbox.payloads) == 30, "messages over TLS")
            connection.pause()
            await asyncio.gather(*(connection.publish("tls", b"", qos=0) for _ in range(30)))
            await asyncio.sleep(2)  # two keepalives
            connection.resume()
            await eventually(lambda: len(inbox.payloads) == 60, "messages after a pause")
        untrusting = ssl.create_default_context()
        assert "certificate that is not trusted" in await refusal(port, ssl=untrusting)
        wrong_name = await refusal(port, host="localhost", ssl=trusting)
        assert "not trusted: Hostname mismatch" in wrong_name
        assert "had not answered CONNECT" in await refusal(port)
        assert re.search("TLS|reached|answer", await refusal(plain_port, ssl=trusting))

    with mosquitto(tmp_path, tls=authority) as broker, mosquitto(tmp_path) as plain:
        asyncio.run(scenario(broker.port, plain.port))


ACCEPTED_5 = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    ("packet", "sentence", "kind"),
    [
        ("20 03 00 86 00", "refuses the connection: the username or password is wrong. Check", ConnectError),
        ("20 03 00 85 00", "refuses .*: it does not accept the client id 'me'. Choose another", ConnectError),
        ("20 03 00 84 00", "refuses .*: it does not speak MQTT 5. Set version to 3.1.1", VersionError),
        ("20 02 00 01", "does not speak MQTT 3.1.1. Enable that version", VersionError),
        ("20 03 00 c7 00", "refuses the connection: the unknown reason 0xc7. See its log", ConnectError),
        (
            "20 08 00 97 05 1f 00 02 6e 6f",
            r"refuses .*: a quota is exceeded. Raise it there. It says: 'no'\.$",
            ConnectError,
        ),
    ],
)
def test_reason_codes_of_a_refused_connection_are_sentences(packet: str, sentence: str, kind: type) -> None:
    async def scenario() -> None:
        async with server(answers(bytes.fromhex(packet))) as port:
            with pytest.raises(ConnectError, match=rf"The MQTT broker 127\.0\.0\.1:{port} {sentence}") as caught:
                await Connection.open(Options(HOST, port, "me", version="5"), Inbox())
            assert type(caught.value) is kind

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("packet", "sentence"),
    [
        ("e0 01 8e", "ended the connection: another client connected as 'me'. Give each its own client_id."),
        (
            "e0 07 8b 05 1f 00 02 6e 6f",
            "ended the connection: it is shutting down. It will be tried again. It says: 'no'.",
        ),
        ("e0 00", "closed the connection."),
        (
            "e0 09 9c 07 1c 00 04 68 6f 73 74",
            "ended the connection: another server is to be used for now. Change host. The other one is 'host'.",
        ),
    ],
)
def test_why_the_broker_ends_a_connection_is_a_sentence(packet: str, sentence: str) -> None:
    async def scenario() -> None:
        talk = answers(ACCEPTED_5, bytes.fromhex(packet))
        async with server(talk) as port, connected(port, "me", version="5") as connection:
            await connection.publish("t", b"", qos=0)
            assert await connection.closed == f"The MQTT broker 127.0.0.1:{port} {sentence}"

    asyncio.run(scenario())


def test_a_second_client_of_the_same_name_is_told_to_the_first() -> None:
    async def scenario(port: int) -> None:
        async with connected(port, "twin", version="5") as first, connected(port, "twin", version="5"):
            assert re.search("another client connected as 'twin'|closed the connection", await first.closed)

    with mosquitto() as broker:
        asyncio.run(scenario(broker.port))


def test_a_refused_filter_and_a_refused_message_say_why() -> None:
    async def scenario() -> None:
        talk = answers(ACCEPTED_5, b"\x90\x05\x00\x01\x00\x01\xa2", bytes.fromhex("40 09 00 02 97 05 1f 00 02 6e 6f"))
        async with server(talk) as port, connected(port, "me", version="5", inflight_max=1) as connection:
            with pytest.raises(SubscribeError, match=r"subscription to some/#: it has no subscriptions with wildcards"):
                await connection.subscribe(["one", "some/#"])
            with pytest.raises(PublishError, match=r"refuses a message: a quota is exceeded. .* It says: 'no'\.$"):
                await connection.publish("t", b"")
            assert not connection._places.locked()
            connection._wire.fail("enough")

    asyncio.run(scenario())


def test_what_the_broker_grants_takes_effect() -> None:
    limits = "11 00 00 00 3c 13 00 01 21 00 02 27 00 00 01 00"  # expiry 60 s, keepalive 1 s, 2 at a time, 256 bytes
    pings = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pings
        await reader.read(4096)
        writer.write(bytes.fromhex(f"20 13 00 00 10 {limits}"))
        while data := await reader.read(4096):
            pings += data.count(b"\xc0\x00")
            writer.write(b"\xd0\x00")

    async def scenario() -> None:
        async with server(talk) as port, connected(port, "me", version="5", keepalive_s=60) as connection:
            assert connection.session_s == 60
            with pytest.raises(ProtocolError, match=r"a packet of 3\d\d bytes, .* takes 256. Raise its limit"):
                await connection.publish("t", bytes(300))
            waiting = [asyncio.create_task(connection.publish("t", b"")) for _ in range(3)]
            await eventually(lambda: len(connection._pubacks) == 2, "two are on their way, and not three")
            await eventually(lambda: pings >= 2, "it keeps the connection alive as the broker wants it")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            connection._wire.fail("enough")

    asyncio.run(scenario())


def test_mosquitto_sends_as_much_at_a_time_as_mqtt_5_allows() -> None:
    async def scenario(port: int) -> None:
        for version, receive_max, expected in (("5", 300, 300), ("3.1.1", 300, 20)):
            inbox = Inbox(acknowledge=False)
            options = {"version": version, "clean_session": False, "receive_max": receive_max}
            async with connected(port, f"in-{version}", inbox, **options) as consumer:
                assert consumer.session_s == SESSION_S_MAX
                await consumer.subscribe(["full"])
                async with connected(port, "out") as producer:
                    for _ in range(400):
                        await producer.publish("full", b"")
                await eventually(lambda: len(inbox.topics) == expected, f"{expected} messages")  # noqa: B023
            assert len(inbox.topics) == expected

    with mosquitto(inflight_max=20) as broker:
        asyncio.run(scenario(broker.port))
