"""The drill's mixed devices, as a program: every transport, seven formats, and metrics for every processing rule.

They run beside the fleet of turbines until SIGTERM, then wait for their last answers; status 1 when some are
missing after LINGER_S. What they said and were told is in the journal (proof/journal.py).
"""

import argparse
import asyncio
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from proof.journal import Journal
from proof.mixed_coap import Clear, Poster, Resources, Udp
from proof.mixed_mqtt import EdgeNode, Publisher
from proof.payloads import Values
from proof.rules import METRICS, WINDOW_S

EVERY_S = 0.2
LINGER_S = 110.0
V3, V5 = paho.MQTTv311, paho.MQTTv5
OVER_MQTT = (
    ("csv", V3, 1),
    ("senml-json", V3, 1),
    ("struct", V3, 2),
    ("cbor", V5, 1),
    ("influx", V5, 1),
    ("msgpack", V5, 2),
)
"""Format, version and QoS."""


class Source:
    """The messages of one device, each when it is due, until `stop`; then one that closes its windows."""

    def __init__(self, device: str, seed: int, stop: threading.Event) -> None:
        self._chance = random.Random(f"{seed} {device}")  # noqa: S311 - made-up values, not secrets
        self._stop = stop
        self._at_ms = 0
        self._band = 0.0

    def __iter__(self) -> Iterator[tuple[int, Values]]:
        while not self._stop.wait(EVERY_S):
            yield self._next()
        yield self._last()

    async def over_time(self) -> AsyncIterator[tuple[int, Values]]:
        while not self._stop.is_set():
            await asyncio.sleep(EVERY_S)
            yield self._next()
        yield self._last()

    def _next(self) -> tuple[int, Values]:
        self._at_ms = max(self._at_ms + 1, time.time_ns() // 1_000_000)
        self._band += self._chance.gauss(0, 0.4)
        values = dict.fromkeys(METRICS, 0.0) | {"band": round(self._band, 2)}
        return self._at_ms, {
            metric: value if metric == "band" else round(self._chance.uniform(0, 25), 2)
            for metric, value in values.items()
        }

    def _last(self) -> tuple[int, Values]:
        at_ms, values = self._next()
        return at_ms + 2000 * WINDOW_S, values


async def run(given: argparse.Namespace) -> int:
    """Until SIGTERM."""
    stop, given_up = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(len(OVER_MQTT) + 2))  # all at once: the edge node, and who waits
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    journal = Journal(given.journal)
    source = partial(Source, seed=given.seed, stop=stop)
    works = [asyncio.to_thread(EdgeNode(given.mqtt, journal, given_up).run, iter(source("node")))]
    for fmt, version, qos in [(fmt, V3, 1) for fmt, *_ in OVER_MQTT] if given.plain_mqtt else OVER_MQTT:
        device = f"drill-{fmt}"
        port = given.bad_mqtt if qos == 2 else given.mqtt
        publisher = Publisher(device, fmt, port, version, qos, journal, given_up)
        works.append(asyncio.to_thread(publisher.run, iter(source(device))))
    works += [
        Poster("drill-coap", "CoAP", "json", Clear(await _udp(given.coap)), journal).run(source("coap").over_time()),
        Poster(
            "drill-blocks", "CoAP in blocks", "senml-json", Clear(await _udp(given.coap)), journal, in_blocks=True
        ).run(source("blocks").over_time()),
        Resources(await _udp(own=given.resources), journal).run(source("resources").over_time()),
    ]
    if given.coaps:
        from proof.mixed_dtls import Secured  # noqa: PLC0415 - pyOpenSSL is an extra

        way = Secured(await _udp(given.coaps), bytes.fromhex(given.key_file.read_text().strip().partition(":")[2]))
        works.append(Poster("drill-coaps", "CoAP over DTLS", "cbor", way, journal).run(source("coaps").over_time()))
    if given.oscore_file:
        from proof.mixed_oscore import DEVICE, OscoreClient, Protected  # noqa: PLC0415 - cryptography is an extra

        sealed = Protected(await _udp(given.coap), OscoreClient(given.oscore_file))
        poster = Poster(DEVICE, "CoAP under OSCORE", "cbor", sealed, journal, in_blocks=True)
        works.append(poster.run(source("oscore").over_time()))
    ended = asyncio.gather(*works)
    stopped = asyncio.ensure_future(asyncio.to_thread(stop.wait))
    futures: list[asyncio.Future[Any]] = [ended, stopped]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    try:
        async with asyncio.timeout(LINGER_S):
            await ended
    except TimeoutError:
        given_up.set()
        journal.failed.append("some devices were left without an answer")
    finally:
        stop.set()
        given_up.set()
        journal.close()
    print("; ".join(journal.failed) or dict(journal.counts))
    return 1 if journal.failed else 0


async def _udp(far: int | None = None, own: int | None = None) -> Udp:
    """A socket of 127.0.0.1 to the port `far`, or on the port `own`."""
    _, made = await asyncio.get_running_loop().create_datagram_endpoint(
        Udp,
        local_addr=("127.0.0.1", own) if own else None,
        remote_addr=("127.0.0.1", far) if far else None,
    )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.mixed", description=__doc__)
    for name in ("mqtt", "bad-mqtt", "coap", "resources", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--coaps", type=int, help="the agent's port with DTLS")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--oscore-file", type=Path, help="the gateway's keys for OSCORE")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--plain-mqtt", action="store_true", help="3.1.1 and QoS 1 only, for the embedded broker")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
