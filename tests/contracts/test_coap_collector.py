"""The CoAP collector's answers to libcoap's client, aiocoap's client and raw datagrams, over real sockets."""

import asyncio
import random
from pathlib import Path

import pytest
from aiocoap import Context, Message
from aiocoap.numbers.codes import Code

from edge_agent.collect.coap import CoapCollector
from edge_agent.collect.coap_formats import TAKEN
from edge_agent.config import Coap
from proof.ports import free_port
from telemetry.clock import SystemClock
from telemetry.errors import ConfigError
from tests.coap import (
    ACCEPT,
    ACK,
    BLOCK1,
    BLOCK2,
    GET,
    PUT,
    READING,
    SIZE1,
    Device,
    Sink,
    libcoap,
    message,
    serving,
)


def test_libcoap_posts_good_and_bad_payloads() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            url = f"coap://127.0.0.1:{port}/telemetry/meter-1"
            assert await libcoap("-m", "post", "-e", READING.decode(), url) == ""
            assert "payload is not valid JSON" in await libcoap("-m", "post", "-e", "{oops", url)
            assert "the payload is empty" in await libcoap("-m", "post", url)
            assert "4.05" in await libcoap("-m", "put", "-e", "1", url)
            assert "4.04" in await libcoap("-m", "post", "-e", "1", f"coap://127.0.0.1:{port}/other")
            assert "</telemetry>" in await libcoap("-m", "get", f"coap://127.0.0.1:{port}/.well-known/core")
        assert [chunk.topics for chunk in sink.chunks] == [["telemetry/meter-1"]] * 3
        assert list(sink.columns.value)[:1] == [1830.5]
        assert sink.columns.dead[1].source == "telemetry/meter-1"
        assert sink.columns.dead[1].raw == b"{oops"

    asyncio.run(main())


@pytest.mark.parametrize("block", ["64", "1024"])
def test_libcoap_posts_a_body_in_blocks(block: str, tmp_path: Path) -> None:
    async def main() -> None:
        sink = Sink()
        body = b'{"log": "' + random.Random(7).randbytes(2500).hex().encode() + b'"}'
        (tmp_path / "body").write_bytes(body)
        async with serving(sink.deliver) as port:
            url = f"coap://127.0.0.1:{port}/telemetry/meter-1"
            assert await libcoap("-b", block, "-m", "post", "-f", str(tmp_path / "body"), url) == ""
        assert [chunk.payloads for chunk in sink.chunks] == [[body]]

    asyncio.run(main())


def test_aiocoap_posts_a_body_in_blocks() -> None:
    async def main() -> None:
        sink = Sink()
        body = b'{"log": "' + b"x" * 5000 + b'"}'
        async with serving(sink.deliver, payload_bytes_max=10_000) as port:
            context = await Context.create_client_context(transports=["udp6"])
            uri = f"coap://127.0.0.1:{port}/telemetry/meter-1"
            try:
                response = await context.request(Message(code=Code.POST, uri=uri, payload=body)).response
                assert response.code == Code.CHANGED
                large = Message(code=Code.POST, uri=uri, payload=body * 3)
                assert (await context.request(large).response).code == Code.REQUEST_ENTITY_TOO_LARGE
            finally:
                await context.shutdown()
        assert [chunk.payloads for chunk in sink.chunks] == [[body]]

    asyncio.run(main())


@pytest.mark.parametrize(("bind", "to"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::", "127.0.0.1"), ("::1", "::1")])
def test_it_listens_on_either_family(bind: str, to: str) -> None:
    async def main() -> None:
        async with serving(Sink().deliver, bind=bind) as port:
            with Device(port, to) as device:
                answer = await device.ask(message())
                assert (answer.type, answer.code, answer.mid, answer.token) == (ACK, "2.04", 1, b"t")

    asyncio.run(main())


def collector(**settings: object) -> CoapCollector:
    return CoapCollector(Coap.model_validate(settings), SystemClock(), 1000, (), lambda _key: False, None)


def test_a_taken_port_is_a_sentence() -> None:
    async def main() -> None:
        async with serving(Sink().deliver) as port:
            with pytest.raises(ConfigError) as raised:
                await collector(bind="127.0.0.1", port=port).run(Sink().deliver)
            assert str(raised.value) == (
                f"cannot listen for CoAP on 127.0.0.1:{port}: Address already in use. "
                "Stop the program that has this port, or choose another coap.port."
            )

    asyncio.run(main())


def test_an_address_of_another_machine_is_a_sentence() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"Set coap.bind to an address of this machine"):
            await collector(bind="192.0.2.1", port=free_port()).run(Sink().deliver)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (message("x"), "4.04", "post to /telemetry/{device}"),
        (message("telemetry"), "4.04", "post to /telemetry/{device}"),
        (message("telemetry/"), "4.04", "post to /telemetry/{device}"),
        (message("telemetry/a/b"), "4.04", "post to /telemetry/{device}"),
        (message(code=GET, payload=b""), "4.05", "post to /telemetry/{device}"),
        (message(code=PUT), "4.05", "post to /telemetry/{device}"),
        (message(".well-known/core"), "4.05", "get it"),
        (message(options=((35, b"coap://x"),)), "4.02", "option 35 is not understood"),
        (
            message("telemetry/a\x07"),
            "4.00",
            "the device's name 'a\\x07' has characters that cannot be printed",
        ),
        (message(options=((BLOCK1, b"\x12"),)), "4.08", "blocks are missing; begin anew with block 0"),
        (
            message(options=((BLOCK1, b"\x08"),)),
            "4.00",
            "the block's length is not what its Block1 option says",
        ),
        (
            message(options=((BLOCK1, b"\x0f"),)),
            "4.00",
            "the block's length is not what its Block1 option says",
        ),
    ],
)
def test_what_is_refused(request_: bytes, code: str, text: str) -> None:
    async def main() -> None:
        async with serving(Sink().deliver) as port:
            with Device(port) as device:
                answer = await device.ask(request_)
                assert (answer.code, answer.text) == (code, text)

    asyncio.run(main())


def test_a_body_over_the_limit_is_refused_with_the_limit() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver, payload_bytes_max=1000) as port:
            with Device(port) as device:
                whole = await device.ask(message(payload=b"x" * 1001))
                announced = await device.ask(
                    message(mid=2, payload=b"x" * 64, options=((BLOCK1, b"\x0a"), (SIZE1, b"\x04\x00")))
                )
                for number in range(15):
                    block = (BLOCK1, (number << 4 | 8 | 2).to_bytes(2, "big"))
                    step = await device.ask(message(mid=10 + number, payload=b"x" * 64, options=(block,)))
                    assert step.code == "2.31"
                last = await device.ask(message(mid=30, payload=b"x" * 64, options=((BLOCK1, b"\xf2"),)))
                for answer in (whole, announced, last):
                    assert (answer.code, answer.number(SIZE1)) == ("4.13", 1000)
        assert not sink.chunks

    asyncio.run(main())


def test_a_datagram_of_more_than_an_ethernet_frame_is_taken_whole() -> None:
    async def main() -> None:
        sink = Sink()
        payload = b'{"log": "' + b"x" * 40_000 + b'"}'
        async with serving(sink.deliver) as port:
            with Device(port) as device:
                assert (await device.ask(message(payload=payload))).code == "2.04"
        assert sink.chunks[0].payloads == [payload]

    asyncio.run(main())


LINKS = (
    '</telemetry>;rt="fieldline.telemetry";ct="{}";title="POST /telemetry/{{device}}, /telemetry/{{device}}/x",'
    "</.well-known/core>;ct=40"
).format(" ".join(map(str, TAKEN)))


def test_the_links_come_whole_and_in_blocks() -> None:
    """RFC 6690; what may be posted, and as what."""

    async def main() -> None:
        async with serving(Sink().deliver, topics=("devices/{device}", "telemetry/{device}/x")) as port:
            url = f"coap://127.0.0.1:{port}/.well-known/core"
            assert (await libcoap("-m", "get", url)).strip() == LINKS
            assert (await libcoap("-m", "get", "-b", "16", url)).strip() == LINKS
            with Device(port) as device:
                other = message(".well-known/core", b"", code=GET, mid=99, options=((ACCEPT, b"\x32"),))
                assert (await device.ask(other)).code == "4.06"
                text = ""
                for number in range(20):
                    block = (BLOCK2, (number << 4).to_bytes(2, "big"))
                    got = await device.ask(message(".well-known/core", b"", code=GET, mid=number, options=(block,)))
                    text += got.text
                    if not got.number(BLOCK2) & 8:
                        break
                assert text == LINKS

    asyncio.run(main())


def test_the_content_format_picks_the_decoder() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            url = f"coap://127.0.0.1:{port}/telemetry/m"
            for number in ("50", "42"):
                assert await libcoap("-m", "post", "-t", number, "-e", '{"power": 1}', url) == ""
            assert await libcoap("-m", "post", "-e", '{"power": 1}', url) == ""
            refused = await libcoap("-m", "post", "-t", "41", "-e", "<power/>", url)
            assert refused.startswith("4.15 Content-Format 41 is not taken; send ")
            assert "50 (json)" in refused
        assert [chunk.formats for chunk in sink.chunks] == [{0: TAKEN[50]}, {}, {}]
        assert list(sink.columns.value) == [1, 1, 1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "payload", "metric"),
    [
        (0, b"21.5", "value"),
        (60, b"\xa1\x65power\xf9\x4d\x60", "power"),
        (110, b'[{"n": "power", "v": 21.5}]', "power"),
        (112, b"\x81\xa2\x00\x65power\x02\xf9\x4d\x60", "power"),
    ],
)
def test_each_content_format_is_decoded(number: int, payload: bytes, metric: str, tmp_path: Path) -> None:
    """On a path whose mapping says json."""
    (tmp_path / "payload").write_bytes(payload)

    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver) as port:
            url = f"coap://127.0.0.1:{port}/telemetry/m"
            assert await libcoap("-m", "post", "-t", str(number), "-f", str(tmp_path / "payload"), url) == ""
        assert list(sink.columns.value) == [21.5]
        assert [(series.device, series.metric) for series in sink.ids] == [("m", metric)]

    asyncio.run(main())


def test_a_path_of_a_mapping_may_be_longer() -> None:
    async def main() -> None:
        sink = Sink()
        async with serving(sink.deliver, topics=("telemetry/{device}/+",)) as port:
            with Device(port) as device:
                assert (await device.ask(message("telemetry/m/power"))).code == "4.00"  # the sink has no such mapping
                assert (await device.ask(message("telemetry/m/power/x", mid=2))).code == "4.04"
        assert [chunk.topics for chunk in sink.chunks] == [["telemetry/m/power"]]

    asyncio.run(main())


def test_datagrams_that_are_not_coap_are_survived() -> None:
    async def main() -> None:
        sink, chance = Sink(), random.Random(11)
        async with serving(sink.deliver) as port:
            with Device(port) as device:
                for turn in range(1500):
                    data = bytearray(message(mid=turn + 100))
                    if turn % 3 == 0:
                        data = bytearray(chance.randbytes(chance.randrange(60)))
                    for _ in range(chance.randrange(4)):
                        if data:
                            data[chance.randrange(min(len(data), 40))] = chance.randrange(256)
                    device.send(bytes(data[: chance.randrange(len(data) + 1)] if turn % 5 == 0 else data))
                    if turn % 100 == 0:
                        await asyncio.sleep(0)
            with Device(port) as device:
                await until_answered(device)

    async def until_answered(device: Device) -> None:
        for mid in range(1, 50):
            try:
                async with asyncio.timeout(1):
                    answer = await device.ask(message("telemetry/after", mid=mid))
            except TimeoutError:
                continue  # the socket's buffer was full of the others
            assert answer.code == "2.04"
            return
        raise AssertionError("the collector is silent")

    asyncio.run(main())
