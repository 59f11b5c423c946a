"""CoAP and a SIGKILL between the commit and its answer: devices repeat their message and are in the spool once."""

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from pathlib import Path

from aiocoap import POST, Context, Message

from edge_agent.collect.oscore_file import load_devices
from edge_agent.health import read_report
from proof.ports import free_port
from proof.stack import FIELDLINE
from proof.supervisor import Program
from tests.coap import libcoap, until
from tests.gateway import spooled
from tests.oscore import DeviceContext, Talk, device_folder, keys_file, oscore_client
from tests.oscore import post as oscore_post
from tests.relay import relay

CHANGED = 0x44
"""The code 2.04 in the second byte of an answer."""
SHORT = {"ts": 1_767_225_600_000, "n": 1}
KEY = "0123456789abcdef"
SECURE_CLIENT = "coap-client-openssl"
LONG = {"ts": 1_767_225_600_000, **{f"metric_{n}": n for n in range(40)}}


def edge_agent(directory: Path, port: int, more: str = "") -> Program:
    """A real agent that collects over CoAP and has no trunk. more: of its section [coap]."""
    config = directory / "gateway.toml"
    config.write_text(f'gateway = "g"\nuplink.port = 9\n[coap]\nbind = "127.0.0.1"\nport = {port}\n{more}')
    program = Program("edge", (*FIELDLINE, "edge", "run", "--config", str(config)), directory / "edge.log")

    def serves() -> bool:
        report = read_report(directory / "spool")
        return report is not None and report.pid == program.pid and report.connected["coap"]

    program.ready = serves
    return program


async def post(context: Context, port: int, device: str, body: bytes) -> str:
    """A post by aiocoap's client; its answer's code."""
    uri = f"coap://127.0.0.1:{port}/telemetry/{device}"
    return str((await context.request(Message(code=POST, uri=uri, payload=body)).response).code)


def test_what_is_repeated_after_a_kill_is_in_the_spool_once(tmp_path: Path) -> None:
    """libcoap's and aiocoap's clients, in one datagram and in blocks; none hears its 2.04 before the kill."""

    async def main() -> None:
        port = free_port()
        agent = edge_agent(tmp_path, port)
        agent.start()
        context = await Context.create_client_context()
        try:
            await agent.until_ready()
            async with relay(port) as link:
                link.swallow_answers, link.swallows = 4, lambda answer: answer[1] == CHANGED

                def upload(device: str, body: object, *options: str) -> asyncio.Task[str]:
                    url = f"coap://127.0.0.1:{link.port}/telemetry/{device}"
                    return asyncio.create_task(libcoap(*options, "-m", "post", "-e", json.dumps(body), url))

                libcoaps = [upload("short", SHORT), upload("long", LONG, "-b", "64")]
                aiocoaps = [
                    asyncio.create_task(post(context, link.port, device, json.dumps(body).encode()))
                    for device, body in (("other-short", SHORT), ("other-long", LONG | {"text": "x" * 2000}))
                ]
                await until(lambda: link.swallowed == 4)  # all four are committed, and nobody knows it
                agent.kill()
                agent.start()
                assert await asyncio.gather(*libcoaps) == ["", ""]
                assert await asyncio.gather(*aiocoaps) == ["2.04 Changed"] * 2
                once = Counter({"short": 1, "long": 40, "other-short": 1, "other-long": 41})
                assert per_device(tmp_path) == once
                assert await upload("long", LONG, "-b", "64") == "", "the same again, on purpose"
                assert per_device(tmp_path) == once + Counter({"long": 40})
        finally:
            await context.shutdown()
            await agent.stop()

    asyncio.run(main())


def test_all_of_coap_at_once_and_a_kill(tmp_path: Path) -> None:
    """In the clear, over DTLS, observed and polled, in one agent; the second one goes on where the first one was."""
    (tmp_path / "coap.psk").write_text(f"meter:{KEY.encode().hex()}\n")
    (tmp_path / "coap.psk").chmod(0o600)
    port, secure_port, device_port = free_port(), free_port(), free_port()
    more = f"[coap.dtls]\npsk_file = 'coap.psk'\nport = {secure_port}\n"
    for path, mode in (("counter", "observe"), ("static", "poll")):
        uri = f"coap://127.0.0.1:{device_port}/{path}"
        more += f"[[coap.resources]]\nuri = '{uri}'\ntopic = 'telemetry/{path}'\nmode = '{mode}'\nevery_s = 0.2\n"

    async def main() -> None:
        agent = edge_agent(tmp_path, port, more)
        device = Program("device", (sys.executable, "-m", "tests.coap_device", str(device_port), "1"), tmp_path / "log")
        device.start()
        try:
            for life in (1, 2):
                agent.start()
                await agent.until_ready()
                before = per_device(tmp_path)
                body = json.dumps(LONG | {"ts": LONG["ts"] + life})
                clear, secure = (
                    f"coap://127.0.0.1:{port}/telemetry/clear",
                    f"coaps://127.0.0.1:{secure_port}/telemetry/s",
                )
                assert await libcoap("-m", "post", "-t", "50", "-e", body, clear) == ""
                keys = ("-u", "meter", "-k", KEY)
                assert await libcoap(*keys, "-b", "64", "-m", "post", "-e", body, secure, client=SECURE_CLIENT) == ""
                await until(lambda before=before: {"counter", "static"} <= set(per_device(tmp_path) - before))
                agent.kill()
            counts = per_device(tmp_path)
            assert counts["clear"] == counts["s"] == 80
            readings, _ = spooled(tmp_path / "spool")
            assert max(readings.values()) == 1, "nothing is in the spool twice"
        finally:
            await device.stop()
            await agent.stop()

    asyncio.run(main())


OSCORE = "[coap.oscore]\nkeys_file = 'coap.oscore.toml'\nrequired = true\n"


def test_what_aiocoap_repeats_under_oscore_after_a_kill_is_in_the_spool_once(tmp_path: Path) -> None:
    """In one message, and in blocks, each of which is a message under its own number; the last answer is lost."""
    keys_file(tmp_path)
    bodies = {"meter-1": SHORT, "tank": LONG | {"text": "x" * 2000}}

    async def main() -> None:
        port = free_port()
        agent = edge_agent(tmp_path, port, OSCORE)
        agent.start()
        try:
            await agent.until_ready()
            async with contextlib.AsyncExitStack() as stack:
                links = {device: await stack.enter_async_context(relay(port)) for device in bodies}
                clients = {
                    device: await stack.enter_async_context(oscore_client(link.port, device_folder(tmp_path, device)))
                    for device, link in links.items()
                }

                async def upload(device: str, ts: int) -> str:
                    body = json.dumps(bodies[device] | {"ts": ts}).encode()
                    return str(
                        (await oscore_post(clients[device], links[device].port, f"telemetry/{device}", body)).code
                    )

                answers = Counter[str]()
                for device, link in links.items():
                    assert await upload(device, 1) == "2.04 Changed"
                    link.swallow_answers = 1
                    link.swallows = lambda _, device=device: answers.update([device])
                    assert await upload(device, 2) == "2.04 Changed"
                assert answers == {"meter-1": 1, "tank": 3}, "a body of three blocks"
                waiting = []
                for device, link in links.items():
                    link.swallows = lambda _, device=device: answers.subtract([device]) or not answers[device]
                    waiting.append(asyncio.create_task(upload(device, 3)))
                await until(lambda: all(link.swallowed for link in links.values()))
                agent.kill()
                agent.start()
                assert await asyncio.gather(*waiting) == ["2.04 Changed"] * 2
                assert per_device(tmp_path) == Counter({"meter-1": 3, "tank": 3 * 41})
        finally:
            await agent.stop()

    asyncio.run(main())


def test_kills_at_any_moment_under_oscore_store_all_that_was_said_once(tmp_path: Path) -> None:
    """Devices repeat each message, one of them from port to port, until it is answered; an Echo makes it a new one."""
    chance, said = random.Random(7), Counter[str]()

    async def posts(talk: Talk, device: str, until_killed: asyncio.Event) -> None:
        while not until_killed.is_set():
            said[device] += 1
            reading = {"path": f"telemetry/{device}", "payload": json.dumps({"ts": said[device], "n": 1}).encode()}
            sealed, answer = talk.says(**reading), None
            while answer is None or str(answer.code) != "2.04 Changed":
                talk.udp.send(sealed.data)
                try:
                    async with asyncio.timeout(0.25):
                        answer = await talk.hears(sealed)
                except (TimeoutError, OSError):  # OSError: nobody listens now
                    await asyncio.sleep(0.05)
                    if device == "tank":
                        talk.moves()
                    continue
                if str(answer.code) == "4.01 Unauthorized":
                    assert answer.opt.echo
                    sealed = talk.says({"echo": answer.opt.echo}, **reading)
                else:
                    assert str(answer.code) == "2.04 Changed"

    async def main() -> None:
        port = free_port()
        agent = edge_agent(tmp_path, port, OSCORE)
        killed = asyncio.Event()
        try:
            with contextlib.ExitStack() as stack:
                async with asyncio.TaskGroup() as devices:
                    for keys in load_devices(keys_file(tmp_path)):
                        talk = stack.enter_context(Talk(port, DeviceContext(keys)))
                        devices.create_task(posts(talk, keys.device, killed))
                    for _ in range(6):
                        agent.start()
                        await agent.until_ready()
                        await asyncio.sleep(chance.uniform(0.1, 0.3))
                        agent.kill()
                    agent.start()
                    killed.set()
            readings, dead = spooled(tmp_path / "spool")
            assert not dead
            assert max(readings.values()) == 1, "nothing is in the spool twice"
            assert per_device(tmp_path) == said
            assert min(said.values()) > 20
        finally:
            await agent.stop()

    asyncio.run(main())


def per_device(directory: Path) -> Counter[str]:
    readings, dead = spooled(directory / "spool")
    assert not dead
    counts: Counter[str] = Counter()
    for (device, *_), count in readings.items():
        counts[device] += count
    return counts
