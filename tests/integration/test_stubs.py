"""The device programs in C and MicroPython against a real broker and a real agent, everything killed or restarted.

What a device has said "kept" of must be in the spool in the end, by value. Exactly once from those that can promise it:
over CoAP, and over MQTT with QoS 2 (MicroPython's). Over MQTT with QoS 1 what was on its way when the connection broke
may be there twice, and nothing else.
"""

import asyncio
import json
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proof.faults import faketime, faketime_environment
from proof.stack import Stack
from tests import coap
from tests.brokers import HOST, Broker, mosquitto, wait_until
from tests.gateway import spooled
from tests.pipeline import make_stack, until
from tests.proxy import Proxy
from tests.relay import Relay, relay
from tests.stubs import Stub, build_c, messages_of, stopping, temperature

C_MQTT, C_COAP, PY_MQTT, PY_MQTT_QOS_1, PY_COAP = "c-mqtt", "c-coap", "py-mqtt", "py-mqtt-qos-1", "py-coap"
AT_LEAST_ONCE = C_MQTT, PY_MQTT_QOS_1
WINDOW = 16
"""How many messages mqtt.c has on their way."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_c(tmp_path_factory.mktemp("c"))


@dataclass
class Site:
    """A gateway whose devices reach it over links that can lose what it says."""

    stack: Stack
    broker: Broker
    link: Proxy
    radio: Relay
    stubs: dict[str, Stub]

    async def progress(self, readings: int = 10) -> None:
        """Wait until each device that runs has so many readings more acknowledged."""
        goals = [(stub, stub.acknowledged + readings) for stub in self.stubs.values() if stub.is_running]
        for stub, goal in goals:
            await until(
                lambda stub=stub, goal=goal: stub.acknowledged >= goal, f"{stub.name} goes on:\n{stub.log[-500:]}"
            )

    def held(self, name: str) -> dict[int, int]:
        return messages_of(spooled(self.stack.directory / "spool")[0], name)


@asynccontextmanager
async def site(folder: Path, programs: Path, broker_options: str = "") -> AsyncIterator[Site]:
    """Broker, agent, links and all five devices, which are not started yet."""
    async with AsyncExitStack() as exits:
        broker = exits.enter_context(mosquitto(folder, persistence=True, extra=broker_options))
        stack = make_stack(folder, mqtt_port=broker.port)
        await exits.enter_async_context(stack.running(["edge"]))
        link, radio = exits.enter_context(Proxy()), await exits.enter_async_context(relay(stack.ports.coap))
        link.target = broker.port
        coap_c, coap_py = programs / "coap", {"TRANSPORT": "coap", "LOCAL_PORT": coap.free_port()}
        stubs = [
            Stub.in_c(programs / "mqtt", folder, C_MQTT, link.port),
            Stub.in_c(coap_c, folder, C_COAP, radio.port, local_port=coap.free_port()),
            Stub.in_micropython(folder, PY_MQTT, link.port),
            Stub.in_micropython(folder, PY_MQTT_QOS_1, link.port, QOS=1),
            Stub.in_micropython(folder, PY_COAP, radio.port, **coap_py),
        ]
        exits.enter_context(stopping(*stubs))
        yield Site(stack, broker, link, radio, {stub.name: stub for stub in stubs})


def in_doubt(stub: Stub) -> set[tuple[str, int]]:
    """What a device with QoS 1 may have sent and not heard of; its log may be a window behind."""
    if stub.name not in AT_LEAST_ONCE:
        return set()
    acknowledged = stub.numbers("acknowledged")[-1]
    return {(stub.name, number) for number in range(acknowledged + 1, acknowledged + 1 + 2 * WINDOW)}


def test_every_reading_that_a_device_keeps_arrives_once(programs: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path, programs) as at:
            stubs = at.stubs
            for stub in stubs.values():
                stub.start()
            await at.progress()
            at.stack.programs["edge"].kill()
            await at.progress()

            doubtful: set[tuple[str, int]] = set()
            for _ in range(2):  # the answers are lost, and then the power of all devices
                at.link.swallow_downstream, at.radio.swallow_answers = True, 6
                await until(lambda: at.radio.swallow_answers < 4, "answers get lost")
                for stub in stubs.values():
                    stub.kill()
                    doubtful |= in_doubt(stub)
                at.link.cut()
                at.link.swallow_downstream, at.radio.swallow_answers = False, 0
                for stub in stubs.values():
                    stub.start()
                await at.progress()

            at.broker.stop()
            doubtful.update(*map(in_doubt, stubs.values()))
            at.broker.start()
            at.stack.programs["edge"].kill()
            await at.progress()

            for stub in stubs.values():  # while it works, at any moment
                stub.kill()
                doubtful |= in_doubt(stub)
                stub.start(count=20)
            for stub in stubs.values():
                await asyncio.to_thread(stub.ended)
            for name, stub in stubs.items():
                kept = set(stub.numbers("kept"))
                await until(lambda name=name, kept=kept: kept <= set(at.held(name)), f"all of {name} is in the spool")
                held = at.held(name)
                assert set(held) == set(range(min(kept), max(kept) + 1)), f"{name}: nothing but what was kept"
                assert len(set(held) - kept) <= 3, "kept, but killed before it could say so"
                twice = {(name, number) for number, count in held.items() if count > 1}
                assert twice <= doubtful

    asyncio.run(main())


@pytest.mark.parametrize("language", ["c", "micropython"])
def test_without_a_clock_what_was_measured_gets_its_date_when_the_clock_is_set(
    language: str, programs: Path, tmp_path: Path
) -> None:
    library, clock = faketime(), tmp_path / "clock"
    assert library is not None, "install faketime (tests/install-tools)"
    environment = faketime_environment(library, clock)

    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            if language == "c":
                device = Stub.in_c(programs / "mqtt", tmp_path, "d", stack.ports.mqtt)
            else:
                device = Stub.in_micropython(tmp_path, "d", stack.ports.mqtt)
            device.environment = environment
            with stopping(device):
                clock.write_text("@1970-01-01 00:00:10\n")
                device.start()
                await until(lambda: len(device.numbers("kept")) >= 3, "it measures without a clock")
                device.kill()
                undated = device.numbers("kept")
                began_ms = time.time() * 1000
                device.start()
                await until(lambda: len(device.numbers("kept")) >= len(undated) + 10, "and after a power cut again")
                assert not device.acknowledged, "and waits for the clock"
                set_ms = time.time() * 1000
                clock.write_text("+0\n")
                await until(lambda: device.acknowledged > len(undated) + 15, "all is acknowledged")
            dated = {number: at_ms for (_, metric, at_ms, number) in spooled(tmp_path / "spool")[0] if metric == "n"}
            earlier, waited = undated, device.numbers("kept")[len(undated) :][:10]
            assert all(dated[number] >= set_ms - 1000 for number in earlier), "nobody knows: the time of arrival"
            times = [dated[number] for number in waited]
            assert times == sorted(set(times)), "each has its own"
            assert began_ms - 1 <= times[0] < times[-1] <= set_ms + 1, "when they were measured"

    asyncio.run(main())


SLOW_LOOKUP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <unistd.h>
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    usleep(500000);
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, __func__);
    return real(name, service, hints, found);
}
"""


def test_what_is_measured_while_the_brokers_name_is_looked_up_is_sent(programs: Path, tmp_path: Path) -> None:
    library = tmp_path / "slow_lookup.so"
    compiler = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(compiler, input=SLOW_LOOKUP, text=True, check=True, timeout=60)
    with mosquitto(tmp_path) as broker:
        stub = Stub.in_c(programs / "mqtt", tmp_path, C_MQTT, broker.port)
        stub.environment["LD_PRELOAD"] = str(library)
        with stopping(stub):
            stub.start(count=5)
            stub.ended()


def test_what_is_measured_while_a_connection_is_made_is_sent_over_it(programs: Path, tmp_path: Path) -> None:
    """To a server that accepts nobody: one connection waits in its queue, the next one is not answered."""
    with (
        socket.create_server((HOST, 0), backlog=0) as listener,
        socket.create_connection(listener.getsockname()),
        mosquitto(tmp_path) as broker,
    ):
        stub = Stub.in_c(programs / "mqtt", tmp_path, C_MQTT, listener.getsockname()[1])
        with stopping(stub):
            stub.start(count=5)
            wait_until(lambda: len(stub.numbers("kept")) == 5, "it measures")
            assert not stub.acknowledged
            with Proxy(broker.port, listener):
                stub.ended()
            assert "again in" not in stub.log, "the first connection did"


def test_a_full_ring_says_what_it_refused_and_the_broker_who_has_gone(tmp_path: Path) -> None:
    build = tmp_path / "small"
    build.mkdir()
    build_c(build, RING_RECORDS=4)
    with mosquitto(tmp_path, persistence=True) as broker:
        watch = ["mosquitto_sub", "-p", str(broker.port), "-i", "watch", "-c", "-q", "1", "-v", "-t", "devices/d/#"]
        subprocess.run([*watch, "-E"], check=True, timeout=20)  # from now on the broker keeps what comes
        broker.stop()
        device = Stub.in_c(build / "mqtt", tmp_path, "d", broker.port)
        with stopping(device):
            device.start()
            wait_until(lambda: device.log.count("dropped a reading") > 6, "the ring is full")
            broker.start()
            wait_until(lambda: device.acknowledged > 6, "what waited is acknowledged")
        heard = []
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            for line in watching.stdout:
                heard.append(line.rstrip().split(" ", 1))
                if heard[-1] == ["devices/d/status", '{"online":false}']:
                    break
            watching.terminate()
        assert ["devices/d/status", '{"online":true}'] in heard
        messages = [json.loads(text) for topic, text in heard if topic == "devices/d/telemetry"]
        assert [message["n"] for message in messages] == device.numbers("kept")[: len(messages)]
        assert all(message["temperature"] == temperature(message["n"]) for message in messages)
        refused = device.log.count("dropped a reading")
        assert [message.get("dropped", 0) for message in messages[:6]] == [0, 0, 0, 0, refused, 0]


@dataclass
class Script:
    """A broker of one connection at a time that does as it is told, and no more."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    @asynccontextmanager
    async def accepting(cls) -> AsyncIterator[tuple[int, "asyncio.Queue[Script]"]]:
        """The port, and its connections as they come."""
        accepted: asyncio.Queue[Script] = asyncio.Queue()
        server = await asyncio.start_server(lambda reader, writer: accepted.put_nowait(cls(reader, writer)), HOST, 0)
        try:
            yield server.sockets[0].getsockname()[1], accepted
        finally:
            server.close()

    async def expect(self, kind: int) -> tuple[int, bytes]:
        """Flags and body of the next packet, which must be of this kind."""
        async with asyncio.timeout(20):
            first, length = await self.reader.readexactly(2)
            assert length < 128
            body = await self.reader.readexactly(length)
        assert first >> 4 == kind, f"{first:#x} {body!r}"
        return first & 15, body

    async def greet(self, *, session: bool) -> None:
        _, connect = await self.expect(1)
        assert connect[7] & 0x2E == 0x2C, "a kept session, and a retained will with QoS 1"
        self.writer.write(bytes([0x20, 2, session, 0]))
        flags, online = await self.expect(3)
        assert (flags, online.endswith(b'{"online": true}')) == (1, True)

    def close(self) -> None:
        self.writer.close()


def test_qos_2_survives_a_power_cut_at_each_of_its_steps(tmp_path: Path) -> None:
    async def main() -> None:
        async with Script.accepting() as (port, accepted):
            device = Stub.in_micropython(tmp_path, "d", port)
            with stopping(device):
                device.start(count=1)
                broker = await accepted.get()
                await broker.greet(session=False)
                flags, published = await broker.expect(3)
                assert flags == 2 << 1, "QoS 2, not a repetition"
                id_bytes = published[2 + published[1] :][:2]

                async def restarted(*, session: bool) -> Script:
                    device.kill()
                    broker.close()
                    device.start(count=1)  # it measures another one, which has to wait
                    again = await accepted.get()
                    await again.greet(session=session)
                    return again

                broker = await restarted(session=True)
                assert await broker.expect(3) == (8 | 2 << 1, published), "the same message, marked"
                broker.writer.write(b"\x50\2" + id_bytes)
                assert await broker.expect(6) == (2, id_bytes)

                broker = await restarted(session=True)
                assert await broker.expect(6) == (2, id_bytes), "PUBREC was remembered: it is not published again"

                broker = await restarted(session=False)
                assert await broker.expect(3) == (8 | 2 << 1, published), "unless the broker has lost it"
                broker.writer.write(b"\x50\2" + id_bytes)
                await broker.expect(6)
                broker.writer.write(b"\x70\2" + id_bytes)
                _, following = await broker.expect(3)
                assert following != published
                assert device.acknowledged == 1
                broker.close()

    asyncio.run(main())


@dataclass
class Gateway:
    """A CoAP server that says what it is told to; repetitions it answers again by itself."""

    sock: socket.socket
    said: dict[bytes, bytes] = field(default_factory=dict)

    async def hear(self) -> tuple[bytes, object]:
        """The next request that has no answer yet, and its sender."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while True:
                request, device = await loop.sock_recvfrom(self.sock, 2048)
                if request not in self.said:
                    return request, device
                await loop.sock_sendto(self.sock, self.said[request], device)

    async def answer(self, code: int, *rest: int) -> bytes:
        """Answer the next request with this code, options and payload; what it was."""
        request, device = await self.hear()
        self.said[request] = bytes([0x68, code]) + request[2:12] + bytes(rest)
        await asyncio.get_running_loop().sock_sendto(self.sock, self.said[request], device)
        return request


@pytest.mark.parametrize("language", ["c", "micropython"])
def test_what_a_gateway_answers_decides_what_is_posted_next(language: str, programs: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind((HOST, 0))
            gateway, port, local_port = Gateway(sock), sock.getsockname()[1], coap.free_port()
            if language == "c":
                device = Stub.in_c(programs / "coap", tmp_path, "d", port, local_port=local_port)
            else:
                device = Stub.in_micropython(tmp_path, "d", port, TRANSPORT="coap", LOCAL_PORT=local_port)
            with stopping(device):
                device.start()
                silent, _ = await gateway.hear()
                device.kill()
                device.start(count=2)
                refused = await gateway.answer(0xA3, 0xD1, 1, 0)  # 5.03, Max-Age 0
                assert refused == silent, "after silence the same message, also after a power cut"
                assert (refused[:2], refused[-1:]) == (b"\x48\2", b"}"), "confirmable, a token of 8 bytes, POST"
                taken = await gateway.answer(0x44)
                assert taken[2:12] != refused[2:12], "after 5.03 another message"
                assert taken[12:] == refused[12:], "of the same reading"
                dead = await gateway.answer(0x80, 0xFF, *b"no reading")
                assert dead[12:] != taken[12:], "after 2.04 the next reading"
                assert (await gateway.answer(0x44))[12:] != dead[12:], "and after 4.00: the gateway has the bytes"
                while device.is_running:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await gateway.answer(0x44)
                device.ended()
                assert re.search(r"^answered 4\.00 .*no reading", device.log, re.MULTILINE)

    asyncio.run(main())
