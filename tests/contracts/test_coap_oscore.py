"""CoAP under OSCORE: what aiocoap's client says, and the promise to devices that speak datagram by datagram.

Their ciphertexts and the opening of the answers are aiocoap's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiocoap import GET, POST, Message
from aiocoap.numbers import codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.collect.coap_numbers import FILE, Numbers
from edge_agent.collect.coap_oscore import Oscore
from edge_agent.collect.oscore_file import load_devices
from proof import coap_wire as wire
from proof.journal import Journal
from proof.mixed_coap import Poster, Udp
from proof.mixed_oscore import DEVICE as DRILLS
from proof.mixed_oscore import OscoreClient, Protected
from proof.mixed_oscore import keys_file as keys_of_drill
from proof.payloads import Values
from proof.ports import free_port
from proof.rules import METRICS
from telemetry.delivery import DURABLE, Chunk, Delivery
from tests.coap import BLOCK1, NON, READING, Device, FakeClock, Sink, agent, message, serving, until
from tests.oscore import (
    CHANGED,
    DEVICES,
    METER,
    TANK,
    UNAUTHORIZED,
    DeviceContext,
    Sealed,
    Talk,
    Unreliable,
    device_folder,
    keys_file,
    oscore_client,
    post,
)

OSCORE, PROXY_URI = 9, 35
CONTINUE, SERVICE_UNAVAILABLE = "2.31 Continue", "5.03 "


def oscore(folder: Path, knows: Callable[[int], bool] = lambda _key: False, **options: bool) -> Oscore:
    return Oscore(load_devices(keys_file(folder)), Numbers(folder, 0), knows, **options)


def meter(folder: Path) -> DeviceContext:
    return DeviceContext(load_devices(keys_file(folder))[0])


@pytest.mark.parametrize("device", DEVICES)
def test_aiocoap_posts_reads_and_uploads(device: str, tmp_path: Path) -> None:
    """With an ID context and without one; a long body comes in blocks inside."""

    async def main() -> None:
        sink, path = Sink(), f"telemetry/{device}"
        async with (
            serving(sink.deliver, oscore=oscore(tmp_path)) as port,
            oscore_client(port, device_folder(tmp_path, device)) as client,
        ):
            long = b'{"log": "' + b"x" * 5000 + b'"}'
            for body in (READING, long):
                assert str((await post(client, port, path, body)).code) == CHANGED
            assert str((await post(client, port, path, READING, transport_tuning=Unreliable())).code) == CHANGED
            bad = await post(client, port, path, b"{", content_format=50)
            assert (str(bad.code), b"not valid JSON" in bad.payload) == ("4.00 Bad Request", True)
            assert str((await post(client, port, path, b"", content_format=41)).code).startswith("4.15")
            core = await client.request(Message(code=GET, uri=f"coap://127.0.0.1:{port}/.well-known/core")).response
            assert core.payload.startswith(b"</telemetry>;")
            with Device(port) as other:
                assert (await other.ask(message())).code == "2.04", "in the clear, too, if it is not forbidden"
        assert [chunk.payloads[0] for chunk in sink.chunks] == [READING, long, READING, b"{", READING]

    asyncio.run(main())


def test_a_key_is_one_device(tmp_path: Path) -> None:
    """Whatever the mapping calls it."""

    async def main() -> None:
        sink, topics = Sink(), ("telemetry/{device}/{metric}", "+/x/{device}/y")
        async with (
            serving(sink.deliver, oscore=oscore(tmp_path), topics=topics) as port,
            oscore_client(port, device_folder(tmp_path, "meter-1")) as client,
        ):
            for path, code in (
                ("telemetry/meter-1", CHANGED),
                ("telemetry/meter-1/power", "4.00 Bad Request"),  # taken; the sink's decoder has no mapping for it
                ("telemetry/tank", "4.03 Forbidden"),
                ("telemetry/tank/meter-1", "4.03 Forbidden"),
                ("telemetry", "4.04 Not Found"),
            ):
                assert str((await post(client, port, path, b"1", content_format=0)).code) == code
        assert [chunk.topics[0] for chunk in sink.chunks] == ["telemetry/meter-1", "telemetry/meter-1/power"]

    asyncio.run(main())


def test_the_clear_can_be_refused(tmp_path: Path) -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver, oscore=oscore(tmp_path, is_required=True)) as port:
            with Device(port) as device:
                answer = await device.ask(message())
                assert (answer.code, "use OSCORE" in answer.text) == ("4.01", True)
                assert (await device.ask(message(".well-known/core", b"", code=GET, mid=2))).code == "4.01"
            async with oscore_client(port, device_folder(tmp_path, "meter-1")) as client:
                assert str((await post(client, port, "telemetry/meter-1", READING)).code) == CHANGED
        assert len(sink.chunks) == 1

    asyncio.run(main())


def test_without_oscore_the_option_is_not_understood() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            with Device(port) as device:
                assert (await device.ask(message(options=((OSCORE, b"\x09\0"),)))).code == "4.02"
        assert not sink.chunks

    asyncio.run(main())


def test_what_cannot_be_opened_is_refused_unsealed_and_costs_no_number(tmp_path: Path) -> None:
    async def main() -> None:
        sink, server = Sink(), oscore(tmp_path)
        async with serving(sink.deliver, oscore=server) as port:
            with Device(port) as device:
                for mid, (options, code, text, state) in enumerate(
                    (
                        ([(OSCORE, b"")], "4.02", "Failed to decode COSE", "Failed to decode"),
                        ([(OSCORE, b"\x09\0\7")], "4.01", "Security context not found", "no device has kid '07'"),
                        ([(OSCORE, b"\x09\0\1")], "4.00", "Decryption failed", "meter-1 has another key"),
                        ([(OSCORE, b"\x09\0\1"), (PROXY_URI, b"coap://a")], "4.02", "this is no proxy", "no proxy"),
                    )
                ):
                    answer = await device.ask(message(mid=mid, payload=b"x" * 20, options=tuple(options)))
                    assert (answer.code, answer.text) == (code, text)
                    assert state in server.state()
        assert not sink.chunks
        assert not (tmp_path / FILE).exists()

    asyncio.run(main())


def test_a_kid_context_may_be_left_out_if_the_kid_is_one_devices_alone(tmp_path: Path) -> None:
    """RFC 8613 6.1: it is there to tell apart who chose the same ID."""
    other = TANK | {"id_context": "aa", "master_secret": "77" * 16}
    file = keys_file(tmp_path, {"tank": TANK, "twin": other, "single": METER | {"id_context": "bb"}})
    server = Oscore(load_devices(file), Numbers(tmp_path, 0), lambda _key: False)

    def device(option: str) -> str:
        exchange = server.begin(Message(code=POST, oscore=bytes.fromhex(option)))
        return exchange.payload.decode() if isinstance(exchange, Message) else exchange.peer.context.keys.device

    unknown = "Security context not found"
    said = [device(option) for option in ("090002", "190001aa02", "190001bb02", "090001", "190001bb01", "190001aa01")]
    assert said == [unknown, "twin", unknown, "single", "single", unknown]


async def has_read_on(port: int) -> None:
    """The server has read all that was sent to it before."""
    with Device(port) as other:
        await other.ask(message(".well-known/core", b"", code=GET))


def test_nothing_is_acknowledged_before_it_is_durable_and_a_repetition_from_elsewhere_waits(tmp_path: Path) -> None:
    async def main() -> None:
        sink, committed = Sink(hold=True), set[int]()
        async with serving(sink.deliver, oscore=oscore(tmp_path, committed.__contains__)) as port:
            with Talk(port, meter(tmp_path)) as talk, Device(port) as elsewhere:
                await talk.begins()
                sealed = talk.says()
                for udp in (talk.udp, talk.udp, elsewhere):
                    udp.send(sealed.data)
                await until(lambda: len(sink.held) == 1)
                await has_read_on(port)
                assert talk.udp.is_silent()
                assert elsewhere.is_silent()
                committed.update(sink.chunks[0].keys)
                sink.held[0].settle(DURABLE)
                assert str((await talk.hears(sealed)).code) == CHANGED
                assert str(talk.context.open(sealed, (await elsewhere.receive()).data).code) == CHANGED
        assert len(sink.chunks) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wrong_ms", "boot_id"), [(0, b"a boot"), (3_600_000, b"a boot"), (-(10**12), b"a boot"), (-(10**12), b"next")]
)
def test_a_message_repeated_to_a_restarted_agent_is_in_the_spool_once(
    wrong_ms: int, boot_id: bytes, tmp_path: Path
) -> None:
    """Committed, the answer lost; wherever it comes from, and whatever became of the clocks: over a reboot, too."""

    async def main() -> None:
        port, clock, context = free_port(), FakeClock(), meter(tmp_path)
        with Talk(port, context) as talk:
            async with agent(tmp_path, port, clock, oscore_keys=keys_file(tmp_path)):
                await talk.begins()
                sealed, bad = talk.says(), talk.says(payload=b"[]")
                assert await talk.code(sealed) == CHANGED
                assert await talk.code(bad) == "4.00 Bad Request"
            clock.wrong_ms = wrong_ms
            clock.ms += 3_600_000
            async with agent(tmp_path, port, clock, boot_id, oscore_keys=keys_file(tmp_path)) as spool:
                for _ in range(2):
                    assert await talk.code(sealed) == CHANGED
                    assert await talk.code(bad) == CHANGED  # durable, says the journal
                    talk.moves()
                assert spool.status().last_seq == 2
                await talk.begins()
                assert await talk.code(talk.says()) == CHANGED
                assert await talk.code(sealed) == CHANGED
                assert spool.status().last_seq == 3
        assert len(set(context.numbers_heard)) == len(context.numbers_heard) == 12, "no nonce comes twice"
        assert b"" not in context.numbers_heard, "none is that of a request"

    asyncio.run(main())


def test_a_message_that_was_not_committed_is_asked_for_once_more_and_stored_once(tmp_path: Path) -> None:
    """Killed before the commit; then what was only said to be new is not believed, but what proves it is."""

    async def main() -> None:
        port, sink = free_port(), Sink(hold=True)
        with Talk(port, meter(tmp_path)) as talk:
            async with serving(sink.deliver, port=port, oscore=oscore(tmp_path)):
                await talk.begins()
                sealed = talk.says()
                talk.udp.send(sealed.data)
                await until(lambda: len(sink.held) == 1)
            async with agent(tmp_path, port, oscore_keys=keys_file(tmp_path)) as spool:
                echo = await talk.is_challenged(sealed)
                again = talk.says({"echo": echo})
                for _ in range(2):
                    assert await talk.code(again) == CHANGED
                    talk.moves()
                    await talk.is_challenged(sealed)
                assert spool.status().last_seq == 1
            async with agent(tmp_path, port, oscore_keys=keys_file(tmp_path)) as spool:
                assert await talk.code(again) == CHANGED
                assert await talk.is_challenged(sealed) != echo
                assert await talk.is_challenged(talk.says({"echo": echo})), "the Echo of an agent that is gone"
                assert spool.status().last_seq == 1

    asyncio.run(main())


def test_what_is_replayed_is_never_stored_again(tmp_path: Path) -> None:
    """At once, after a restart, and after the spool is gone, from any address; also what was refused with 5.03."""

    async def main() -> None:
        port, keys, room = free_port(), keys_file(tmp_path), asyncio.Event()
        sink = Sink()

        async def deliver(delivery: Delivery[Chunk]) -> None:
            await room.wait()
            await sink.deliver(delivery)

        with Talk(port, meter(tmp_path)) as talk:
            async with serving(deliver, port=port, oscore=oscore(tmp_path), commit_wait_s_max=0.02):
                await talk.begins()
                refused = talk.says()
                assert (await talk.code(refused)).startswith(SERVICE_UNAVAILABLE)
                room.set()
                assert await talk.code(talk.says()) == CHANGED, "the same, as a new message"
                talk.moves()
                await talk.is_challenged(refused)
            assert len(sink.chunks) == 1
            recorded = []
            async with agent(tmp_path, port, oscore_keys=keys) as spool:
                await talk.begins()
                for _ in range(40):
                    recorded.append(talk.says())
                    assert await talk.code(recorded[-1]) == CHANGED
                talk.moves()
                assert [await talk.code(sealed) for sealed in recorded] == [CHANGED] * 40
                assert spool.status().last_seq == 40
            (tmp_path / "spool" / "spool.db").unlink()
            async with agent(tmp_path, port, oscore_keys=keys) as spool:
                for known in (False, True):
                    talk.moves()
                    for sealed in (refused, *recorded):
                        await talk.is_challenged(sealed)
                    if not known:
                        await talk.begins()
                assert spool.status().last_seq == 0

    asyncio.run(main())


def test_a_device_that_uses_its_numbers_again_is_told_so(tmp_path: Path) -> None:
    """It has lost them, which it must not. What it says is not taken for what it said; beyond what it had it is new."""

    async def main() -> None:
        port, context = free_port(), meter(tmp_path)
        async with agent(tmp_path, port, oscore_keys=keys_file(tmp_path)) as spool:
            with Talk(port, context) as talk:
                await talk.begins()
                assert await talk.code(talk.says()) == CHANGED
                context.sender_sequence_number = 0
                echo = await talk.is_challenged(talk.says(payload=b'{"power": 5}'))
                answer = await talk.ask(talk.says({"echo": echo}, payload=b'{"power": 5}'))
                assert (str(answer.code), answer.opt.echo) == (UNAUTHORIZED, None)
                assert b"the number 1 is not new" in answer.payload
                assert spool.status().last_seq == 1
                await talk.is_challenged(talk.says(payload=b'{"power": 5}'))
                assert await talk.code(talk.says(payload=b'{"power": 5}')) == CHANGED
                assert spool.status().last_seq == 2

    asyncio.run(main())


BODY = b'{"a": 1, "b": 2, "c": 3, "d": 4}'
PIECES = [BODY[at : at + 16] for at in range(0, len(BODY), 16)]


def test_a_last_block_repeated_to_a_restarted_agent_is_in_the_spool_once(tmp_path: Path) -> None:
    """The blocks are inside, each a message under a number of its own."""

    async def main() -> None:
        port, keys = free_port(), keys_file(tmp_path)
        with Talk(port, meter(tmp_path)) as talk:

            def block(number: int, **inner: Any) -> Sealed:
                value = bytes([number << 4 | 8 * (number == 0)])
                return talk.says(inner, payload=PIECES[number], options=((BLOCK1, value),))

            async with agent(tmp_path, port, oscore_keys=keys):
                await talk.begins()
                assert await talk.code(block(0)) == CONTINUE
                talk.moves()  # an address says nothing
                last = block(1)
                assert await talk.code(last) == CHANGED
                open_ = block(0)
                assert await talk.code(open_) == CONTINUE
            async with agent(tmp_path, port, oscore_keys=keys) as spool:
                answer = await talk.ask(last)
                assert (str(answer.code), answer.opt.block1.block_number) == (CHANGED, 1)
                echo = await talk.is_challenged(block(1))
                assert (await talk.code(block(1, echo=echo))).startswith("4.08"), "its beginning died with the agent"
                assert [await talk.code(block(0)), await talk.code(block(1))] == [CONTINUE, CHANGED]
                assert spool.status().last_seq == 8

    asyncio.run(main())


def test_blocks_outside_are_put_together_and_their_last_one_is_known_after_a_restart(tmp_path: Path) -> None:
    """Whoever cannot send a long ciphertext cuts that: a proxy, most of all."""

    async def main() -> None:
        port, keys = free_port(), keys_file(tmp_path)
        with Talk(port, meter(tmp_path)) as talk:

            def cut(sealed: Sealed, mid: int) -> list[bytes]:
                whole = wire.decode(sealed.data)
                pieces = [whole.payload[at : at + 32] for at in range(0, len(whole.payload), 32)]
                return [
                    whole._replace(
                        mid=mid + number,
                        options=(*whole.options, (BLOCK1, bytes([number << 4 | 8 * (number + 1 < len(pieces)) | 1]))),
                        payload=piece,
                    ).encode()
                    for number, piece in enumerate(pieces)
                ]

            async with agent(tmp_path, port, oscore_keys=keys):
                await talk.begins()
                sealed = talk.says(payload=BODY)
                first, last = cut(sealed, 1)
                answer = await talk.udp.ask(first)
                assert (answer.code, answer.payload) == ("2.31", b"")
                answer = await talk.udp.ask(last)
                assert (answer.code, answer.options[BLOCK1]) == ("2.04", b"\x11")
                assert str(talk.context.open(sealed, answer.data).code) == CHANGED
            async with agent(tmp_path, port, oscore_keys=keys) as spool:
                answer = await talk.udp.ask(last)
                assert (answer.code, answer.options[BLOCK1]) == ("2.04", b"\x11")
                assert str(talk.context.open(sealed, answer.data).code) == CHANGED
                assert (await talk.udp.ask(cut(talk.says(payload=BODY), 5)[1])).code == "4.08"
                begun = [await talk.udp.ask(datagram) for datagram in cut(sealed, 9)]  # begun anew, by a proxy
                assert str(talk.context.open(sealed, begun[1].data).code) == CHANGED
                assert spool.status().last_seq == 4

    asyncio.run(main())


def test_the_drills_device_posts_in_blocks_to_one_agent_after_another(tmp_path: Path) -> None:
    """It shares no code with the gateway, and none with aiocoap."""

    async def messages() -> AsyncIterator[tuple[int, Values]]:
        for at_ms in range(1, 4):
            async with agent(tmp_path, port, oscore_keys=keys) as spool:
                yield at_ms, dict.fromkeys(METRICS, 1.5)
            seqs.append(spool.next_seq)

    port, keys, seqs = free_port(), tmp_path / "keys", list[int]()
    keys_of_drill(keys, "07" * 16)

    async def main() -> None:
        _, udp = await asyncio.get_running_loop().create_datagram_endpoint(Udp, remote_addr=("127.0.0.1", port))
        way = Protected(udp, OscoreClient(keys))
        journal = Journal(tmp_path / "journal")
        await Poster(DRILLS, "CoAP", "cbor", way, journal, in_blocks=True).run(messages())
        journal.close()
        udp.transport.close()
        assert seqs == [len(METRICS) * n + 1 for n in (1, 2, 3)]

    asyncio.run(main())


def test_a_request_that_could_not_be_answered_is_not_collected(tmp_path: Path) -> None:
    """When no number can be reserved on the disk."""

    async def main() -> None:
        sink, server = Sink(), oscore(tmp_path)
        async with serving(sink.deliver, oscore=server) as port:
            with Talk(port, meter(tmp_path)) as talk:
                await talk.begins()
                works = server._numbers
                server._numbers = Numbers(tmp_path / "nothing", 0)
                assert (await talk.udp.ask(talk.says().data)).code == "5.03"
                assert "No such file" in server.state()
                server._numbers = works
                assert await talk.code(talk.says()) == CHANGED
        assert len(sink.chunks) == 1

    asyncio.run(main())


def test_answers_that_the_device_does_not_want_are_not_sent(tmp_path: Path) -> None:
    """RFC 7967, by what is inside: outside, each answer is a 2.04."""

    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver, oscore=oscore(tmp_path)) as port:
            with Talk(port, meter(tmp_path)) as talk:
                await talk.begins()
                for payload, no_response in ((READING, 2), (b"{", 8)):
                    talk.udp.send(talk.says({"no_response": no_response}, kind=NON, payload=payload).data)
                await until(lambda: len(sink.chunks) == 2)
                await has_read_on(port)
                assert talk.udp.is_silent()
                assert await talk.code(talk.says({"no_response": 24}, kind=NON)) == CHANGED

    asyncio.run(main())


async def rendered(_inner: Any) -> Message:
    return Message(code=POST)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plaintext=st.binary(min_size=1, max_size=40), option=st.binary(max_size=12), payload=st.binary(max_size=40))
def test_nothing_that_is_said_raises(plaintext: bytes, option: bytes, payload: bytes, tmp_path: Path) -> None:
    """Neither by those who have no key, nor by those who have one."""
    server, context = oscore(tmp_path), meter(tmp_path)

    async def answer(request: Message) -> Message:
        exchange = server.begin(request)
        if isinstance(exchange, Message):
            return exchange
        return await server.answer(exchange, request.payload, [], rendered)

    context.says_instead = plaintext
    sealed = Message.decode(context.seal(message()).data)
    assert asyncio.run(answer(sealed)).opt.oscore, "what has a key is answered sealed"
    assert asyncio.run(answer(Message(code=POST, oscore=option, payload=payload))).code in {
        codes.BAD_OPTION,
        codes.UNAUTHORIZED,
        codes.BAD_REQUEST,
    }
