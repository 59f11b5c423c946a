"""The CoAP collector and the promise: no acknowledgement before the commit, no message collected twice."""

import asyncio
from pathlib import Path

import pytest

from edge_agent.collect.coap_endpoint import EXCHANGE_LIFETIME_S
from edge_agent.collect.coap_secure import Secure
from edge_agent.config import Dtls
from proof.coap_wire import decode
from proof.mixed_coap import Udp
from proof.mixed_dtls import Secured
from proof.ports import free_port
from proof.rules import IDENTITY
from telemetry.delivery import DURABLE, Chunk, Delivery
from tests.coap import (
    ACK,
    BLOCK1,
    MAX_AGE,
    NON,
    READING,
    REQUEST_TAG,
    Device,
    FakeClock,
    Sink,
    agent,
    message,
    serving,
    until,
)

EMPTY_ACK_DELAY_S = 0.15


def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    """Not even by an empty acknowledgement: it would end the device's retransmissions (RFC 7252 4.2)."""

    async def main() -> None:
        sink = Sink(hold=True)
        async with serving(sink.deliver) as port:
            with Device(port) as device:
                device.send(message(mid=7))
                await until(lambda: len(sink.held) == 1)
                await asyncio.sleep(EMPTY_ACK_DELAY_S)  # when stock aiocoap would send an empty acknowledgement
                device.send(message(mid=7))
                device.send(message(mid=8, token=b"u"))
                await until(lambda: len(sink.held) == 2)
                assert device.is_silent()
                sink.held[0].settle(DURABLE)
                answer = await device.receive()
                assert (answer.type, answer.code, answer.mid, answer.token) == (ACK, "2.04", 7, b"t")
                assert (await device.ask(message(mid=7))).data == answer.data
        assert len(sink.chunks) == 2

    asyncio.run(main())


def test_a_repeated_request_is_answered_again_and_collected_once() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            with Device(port) as device, Device(port) as other:
                first = await device.ask(message())
                for _ in range(3):
                    assert (await device.ask(message())).data == first.data
                bad = await device.ask(message(mid=2, payload=b"x"))
                assert (await device.ask(message(mid=2, payload=b"x"))).data == bad.data
                assert bad.code == "4.00"
                assert len(sink.chunks) == 2
                assert (await other.ask(message())).code == "2.04"
                assert (await device.ask(message(kind=NON, mid=9))).type == NON
                device.send(message(kind=NON, mid=9))
                assert (await device.ask(message(mid=10))).mid == 10
        assert len(sink.chunks) == 5

    asyncio.run(main())


def test_a_message_that_was_taken_is_answered_only_when_it_is_durable_however_late() -> None:
    async def main() -> None:
        sink = Sink(hold=True)
        async with serving(sink.deliver, commit_wait_s_max=0.02) as port:
            with Device(port) as device:
                device.send(message())
                await until(lambda: len(sink.held) == 1)
                await asyncio.sleep(0.1)  # longer than commit_wait_s_max
                assert device.is_silent()
                sink.held[0].settle(DURABLE)
                assert (await device.receive()).code == "2.04"

    asyncio.run(main())


def test_a_message_that_the_spool_did_not_take_in_time_is_not_taken_later() -> None:
    async def main() -> None:
        sink, room = Sink(), asyncio.Event()

        async def deliver(delivery: Delivery[Chunk]) -> None:
            await room.wait()
            await sink.deliver(delivery)

        async with serving(deliver, commit_wait_s_max=0.02) as port:
            with Device(port) as device:
                assert (await device.ask(message())).code == "5.03"
                room.set()
                assert (await device.ask(message(mid=2))).code == "2.04"
        assert len(sink.chunks) == 1

    asyncio.run(main())


def test_too_many_waiting_requests_are_a_503_and_not_taken() -> None:
    async def main() -> None:
        sink = Sink(hold=True)
        async with serving(sink.deliver, requests_max=2) as port:
            with Device(port) as device:
                for mid in (1, 2):
                    device.send(message(mid=mid, token=bytes([mid])))
                await until(lambda: len(sink.held) == 2)
                answer = await device.ask(message(mid=3, token=b"\3"))
                assert (answer.mid, answer.code, answer.number(MAX_AGE)) == (3, "5.03", 10)
                for delivery in sink.held:
                    delivery.settle(DURABLE)
                assert {(await device.receive()).code, (await device.receive()).code} == {"2.04"}
        assert len(sink.chunks) == 2

    asyncio.run(main())


def test_stopping_leaves_waiting_requests_unacknowledged() -> None:
    async def main() -> None:
        sink = Sink(hold=True)
        async with serving(sink.deliver) as port:
            device = Device(port)
            device.send(message())
            await until(lambda: len(sink.held) == 1)
        with device:
            sink.held[0].settle(DURABLE)
            await asyncio.sleep(0)
            assert device.is_silent()

    asyncio.run(main())


def test_a_stage_that_fails_is_a_500_and_the_next_message_is_taken() -> None:
    async def main() -> None:
        sink, fail = Sink(), [True]

        async def deliver(delivery: Delivery[Chunk]) -> None:
            if fail.pop():
                fail.append(False)
                raise RuntimeError("oh")
            fail.append(False)
            await sink.deliver(delivery)

        async with serving(deliver) as port:
            with Device(port) as device:
                assert (await device.ask(message())).code == "5.00"
                assert (await device.ask(message(mid=2))).code == "2.04"

    asyncio.run(main())


def test_keys_stay_the_same_when_a_message_is_repeated_after_a_restart() -> None:
    async def main() -> None:
        sink, clock, port = Sink(), FakeClock(), free_port()
        with Device(port) as device:
            async with serving(sink.deliver, clock, port=port):
                await device.ask(message())
                await device.ask(message(mid=2))
                await device.ask(message(mid=3, token=b"u"))
                await device.ask(message(mid=3, payload=b'{"power": 2}'))  # the same message id: not collected
            first, other, third = sink.chunks
            assert first.redelivered == {0}
            assert not set(first.keys) & set(other.keys)
            assert not set(third.keys) & set(other.keys)
            for elapsed_s in (0, 100, EXCHANGE_LIFETIME_S - 101):
                clock.ms += int(elapsed_s * 1000)
                async with serving(sink.deliver, clock, port=port):
                    await device.ask(message())
                assert set(sink.chunks[-1].known_as[0]) & set(first.keys)
                assert sink.chunks[-1].redelivered == {0}

    asyncio.run(main())


def test_a_message_id_may_be_used_again_after_its_lifetime() -> None:
    """A device that sleeps, wakes, and begins with the same message id loses nothing."""

    async def main() -> None:
        sink, clock = Sink(), FakeClock()
        async with serving(sink.deliver, clock) as port:
            with Device(port) as device:
                for _ in range(3):
                    await device.ask(message())
                    await device.ask(message())
                    clock.ms += int(EXCHANGE_LIFETIME_S * 1000) + 1
        assert [chunk.redelivered for chunk in sink.chunks] == [{0}, set(), set()]

    asyncio.run(main())


def test_a_message_repeated_to_a_restarted_agent_is_in_the_spool_once(tmp_path: Path) -> None:
    """The real spool: committed, the acknowledgement lost in a crash, sent again with the same message id."""

    async def main() -> None:
        port = free_port()
        with Device(port) as device:
            for mids in ([1, 2], [1, 2, 3]):
                async with agent(tmp_path, port) as spool:
                    for mid in mids:
                        assert (await device.ask(message(mid=mid))).code == "2.04"
                    bad = await device.ask(message(mid=50, payload=b"[]"))
                    last_seq = spool.status().last_seq
            assert last_seq == 4
            assert bad.code == "2.04"  # the journal knows that it is durable, not that it is a dead letter

    asyncio.run(main())


HOUR_MS = 3_600_000
STEPS_MS = [0, HOUR_MS, -HOUR_MS, -10 * 365 * 24 * HOUR_MS]
"""By how much a wall clock is set; the last one to before it is believed."""


@pytest.mark.parametrize("step_ms", STEPS_MS)
def test_a_clock_that_is_set_makes_no_repetition_a_new_message(step_ms: int, tmp_path: Path) -> None:
    """Neither a message in one datagram nor a last block, repeated to a restarted agent."""

    async def main() -> None:
        port, clock, body = free_port(), FakeClock(), blocks(READING, 20)
        with Device(port) as device:
            async with agent(tmp_path, port, clock):
                assert (await device.ask(message())).code == "2.04"
                assert [(await device.ask(block)).code for block in body] == ["2.31", "2.31", "2.04"]
            clock.wrong_ms = step_ms
            clock.ms += int(EXCHANGE_LIFETIME_S * 1000) - 1
            async with agent(tmp_path, port, clock) as spool:
                assert (await device.ask(message())).code == "2.04"
                assert (await device.ask(body[-1])).code == "2.04"
                assert spool.status().last_seq == 2

    asyncio.run(main())


@pytest.mark.parametrize("step_ms", STEPS_MS)
def test_a_clock_that_is_set_between_dtls_sessions_makes_no_repetition_a_new_message(
    step_ms: int, tmp_path: Path
) -> None:
    """Repeated in another session with the same agent, and with the next."""

    async def main() -> None:
        port, clock, key = free_port(), FakeClock(), b"k" * 16
        file = tmp_path / "psk"
        file.write_text(f"{IDENTITY}:{key.hex()}\n")
        file.chmod(0o600)
        loop = asyncio.get_running_loop()
        transport, udp = await loop.create_datagram_endpoint(Udp, remote_addr=("127.0.0.1", port))

        async def post() -> int:
            """The answer's code in a session of its own."""
            session = Secured(udp, key)
            await session.send(message())
            async with asyncio.timeout(10):
                while not (said := await session.receive(1)):
                    pass
            return decode(said[0]).code

        for _ in range(2):
            secure = Secure(Dtls(psk_file=file, port=port), "127.0.0.1")
            async with agent(tmp_path, free_port(), clock, secure=secure) as spool:
                for _ in range(2):
                    assert await post() == 0x44, "2.04"
                    clock.wrong_ms = step_ms
                last_seq = spool.status().last_seq
        transport.close()
        assert last_seq == 1

    asyncio.run(main())


def test_a_message_id_used_again_after_its_lifetime_is_a_new_message_wherever_the_clock_was_set(tmp_path: Path) -> None:
    """To the second where the wall clock showed the time of the first one, too."""

    async def main() -> None:
        port, clock = free_port(), FakeClock()
        with Device(port) as device:
            for taken in range(1, 5):
                async with agent(tmp_path, port, clock) as spool:
                    assert (await device.ask(message())).code == "2.04"
                    assert spool.status().last_seq == taken
                clock.ms += 260_000
                clock.wrong_ms = -260_000 * taken * (taken % 2)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wrong_ms", "boot_id", "taken"), [(0, b"next", 1), (0, None, 1), (-(10**12), b"next", 2)], ids=repr
)
def test_after_a_reboot_the_wall_clock_tells_if_it_is_set(
    wrong_ms: int, boot_id: bytes | None, taken: int, tmp_path: Path
) -> None:
    """A clock that each boot begins in 1994 would take new messages for old ones: we choose repetition."""

    async def main() -> None:
        port, clock = free_port(), FakeClock()
        clock.wrong_ms = wrong_ms
        with Device(port) as device:
            async with agent(tmp_path, port, clock, boot_id and b"first"):
                assert (await device.ask(message())).code == "2.04"
            clock.ms += 30_000
            clock.booted_s = clock.ms / 1000 - 10
            async with agent(tmp_path, port, clock, boot_id) as spool:
                assert (await device.ask(message())).code == "2.04"
                assert spool.status().last_seq == taken

    asyncio.run(main())


def blocks(body: bytes, mid: int, token: bytes = b"t") -> list[bytes]:
    """A body as a device sends it in blocks of 16 bytes, with message ids from `mid` on."""
    pieces = [body[at : at + 16] for at in range(0, len(body), 16)]
    last = len(pieces) - 1
    return [
        message(payload=piece, mid=mid + n, token=token, options=((BLOCK1, bytes([n << 4 | 8 * (n < last)])),))
        for n, piece in enumerate(pieces)
    ]


def test_a_last_block_repeated_to_a_restarted_agent_is_in_the_spool_once(tmp_path: Path) -> None:
    """Committed, the answer lost in a crash: only the last block comes again."""

    async def main() -> None:
        port = free_port()
        first, again = blocks(READING, 1), blocks(READING, 20)
        with Device(port) as device, Device(port) as other:
            async with agent(tmp_path, port):
                assert [(await device.ask(block)).code for block in first] == ["2.31", "2.31", "2.04"]
            async with agent(tmp_path, port) as spool:
                answer = await device.ask(first[-1])
                assert (answer.code, answer.options[BLOCK1]) == ("2.04", b"\x20")
                assert (await device.ask(first[-1])).data == answer.data
                assert spool.status().last_seq == 1
                # Not the block that was committed: another sender's, another message, one that is not the last.
                assert (await other.ask(first[-1])).code == "4.08"
                assert (await device.ask(again[-1])).code == "4.08"
                assert (await other.ask(first[1])).code == "4.08"
                # The same once more, on purpose: in the same words, but messages of their own.
                assert [(await device.ask(block)).code for block in blocks(READING, 30)] == ["2.31", "2.31", "2.04"]
                assert spool.status().last_seq == 2

    asyncio.run(main())


def test_a_whole_body_of_a_restarted_device_is_never_taken_for_a_repetition(tmp_path: Path) -> None:
    """Both restarted: the device's message ids begin anew, and its bodies have the same last block."""

    async def main() -> None:
        port = free_port()
        with Device(port) as device:
            for body in (b'{"a_long_name": 1, "a": 1}', b'{"a_long_name": 2, "a": 1}'):
                async with agent(tmp_path, port) as spool:
                    assert [(await device.ask(block)).code for block in blocks(body, 1)] == ["2.31", "2.04"]
                    last_seq = spool.status().last_seq
            assert last_seq == 4

    asyncio.run(main())


def test_uploads_at_the_same_time_are_told_apart_by_their_request_tag() -> None:
    """RFC 9175 3."""

    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            with Device(port) as device:
                for number, mids in ((b"\x08", (1, 2)), (b"\x10", (3, 4))):
                    for tag, mid in zip((b"a", b"b"), mids, strict=True):
                        options = ((BLOCK1, number), (REQUEST_TAG, tag))
                        await device.ask(
                            message(payload=(tag * 16)[: 16 if number == b"\x08" else 1], mid=mid, options=options)
                        )
        assert [chunk.payloads for chunk in sink.chunks] == [[b"a" * 17], [b"b" * 17]]

    asyncio.run(main())
