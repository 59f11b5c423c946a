"""CoAP devices of a fleet (aiocoap), each lane with a UDP port of its own, as separate devices have.

A message is one confirmable POST. aiocoap repeats it with the same message id for about a minute, so an agent
that restarts recognises it. Only when such an exchange ends without any answer is the message posted anew
(`reposted`): the gateway may then have it twice. So "port unreachable", which a restarting agent's machine says,
is not listened to, as the small stacks of devices do not either.

Answers: 2.04 taken; 4.00 refused for good, but kept as a dead letter; 4.13 too long, kept nowhere (`rejected`);
4.08 (blocks are missing after a restart) and 5.03 not taken, try again.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import aiocoap
from aiocoap import Context
from aiocoap import Message as Request
from aiocoap.error import Error

from firmware_stubs.counts import Book
from firmware_stubs.message import Message

JSON = 50
"""CoAP's number of application/json."""
ANSWER_S_MAX = 90.0
BUSY_S = 1.0
LOOK_S = 0.05


@dataclass(slots=True)
class CoapLanes:
    """Sends messages over `ports` UDP ports at once until they end or `stop` is set."""

    address: tuple[str, int]
    book: Book
    stop: threading.Event
    ports: int
    linger_s: float
    in_flight: int = 0

    async def run(self, messages: Iterator[Message], started_s: float) -> None:
        """started_s: time.monotonic() at which `due_s` is 0."""
        contexts = [await _context() for _ in range(self.ports)]
        lanes = [
            asyncio.create_task(self._lane(context, messages, started_s), name="coap-lane") for context in contexts
        ]
        try:
            pending = set(lanes)
            while pending and not self.stop.is_set():
                _, pending = await asyncio.wait(pending, timeout=LOOK_S)
            if pending:
                await asyncio.wait(pending, timeout=self.linger_s)
        finally:
            for lane in lanes:
                lane.cancel()
            results = await asyncio.gather(*lanes, return_exceptions=True)
            self.book.unacked(self.in_flight)
            for context in contexts:
                await context.shutdown()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _lane(self, context: Context, messages: Iterator[Message], started_s: float) -> None:
        for message in messages:
            wait_s = started_s + message.due_s - time.monotonic()
            while wait_s > 0 and not self.stop.is_set():
                await asyncio.sleep(min(wait_s, LOOK_S))
                wait_s = started_s + message.due_s - time.monotonic()
            if self.stop.is_set():
                return
            self.in_flight += 1
            self.book.sent()
            await self._post(context, message)
            self.in_flight -= 1

    async def _post(self, context: Context, message: Message) -> None:
        """Post until there is an answer that settles the message."""
        host, port = self.address
        uri = f"coap://{host}:{port}/telemetry/{quote(message.device, safe='')}"
        while True:
            request = Request(code=aiocoap.POST, uri=uri, payload=message.payload, content_format=JSON)
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    response = await context.request(request).response
            except (Error, OSError, TimeoutError):
                self.book.reposted()
                await asyncio.sleep(BUSY_S)
                continue
            if response.code.is_successful():
                self.book.acked(message, "coap")
                return
            if response.code == aiocoap.BAD_REQUEST:
                self.book.refused(message, response.payload.decode(errors="replace"))
                return
            if response.code == aiocoap.REQUEST_ENTITY_TOO_LARGE:
                self.book.rejected()
                return
            await asyncio.sleep(response.opt.max_age or BUSY_S)


async def _context() -> Context:
    context = await Context.create_client_context()
    for interface in context.request_interfaces:
        if not hasattr(interface, "token_interface"):
            continue  # OSCORE, where its libraries are installed: it stands on the others
        interface.token_interface.dispatch_error = _ignore
    return context


def _ignore(_error: object, _remote: object) -> None:
    """An ICMP error, see above."""
