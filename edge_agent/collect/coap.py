"""The CoAP collector: a server (RFC 7252, block-wise bodies by RFC 7959) that devices POST their readings to.

  POST /telemetry/{device}   the payload in the format that gateway.toml gives the topic telemetry/{device}
  GET /.well-known/core      what is there (RFC 6690)

Each request is a chunk of one message. Its answer waits for the commit and is the acknowledgement itself
(piggybacked, RFC 7252 5.2.1). There is no empty acknowledgement before it: that would end the device's
retransmissions before the message is durable, and an agent that is killed then could never answer. The answers:

  2.04  its readings are durable               4.04, 4.05, 4.02  there is nothing, not so, not understood
  4.00  it is a dead letter, durable, and why  4.08  blocks are missing: begin anew
  5.03  not now, try again after Max-Age       4.13  the body is too long; Size1 says how long it may be

5.03 means that the message was not taken: requests_max others wait, or the spool has not taken it for
commit_wait_s_max. A message that was taken gets no answer but the one after its commit, however late.

Repetitions. While the agent runs, a request whose message id comes again is answered again and not collected
again (`coap_endpoint.Recent`). After a restart that memory is empty, so for EXCHANGE_LIFETIME_S every message
is handed over as one that the spool may know by its key. A key covers address, port, message id, token and
body, and a time slot of 256 s; a message bears the keys of two slots, its own and the next, and is looked up
by the first. So a repetition is found for at least 256 s, while a device that wakes every ten minutes with
the same message id and the same value does not lose its reading.
"""

import asyncio
import hashlib
import logging
from typing import Any

from aiocoap.message import Message
from aiocoap.numbers import codes
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import NON
from aiocoap.optiontypes import BlockOption

from edge_agent.collect.coap_blocks import Blocks, Step
from edge_agent.collect.coap_endpoint import EXCHANGE_LIFETIME_S, Recent, listen
from edge_agent.config import Coap
from telemetry.clock import Clock
from telemetry.delivery import Chunk, Deliver, Delivery, Outcome

log = logging.getLogger(__name__)

RETRY_S = 10
"""Max-Age of a 5.03: after how many seconds to try again."""
DIAGNOSTIC_BYTES_MAX = 512
SLOT_MS = 256_000
LINKS = b'</telemetry>;ct=50;title="POST /telemetry/{device}"'
UNDERSTOOD = {
    OptionNumber.URI_HOST,
    OptionNumber.URI_PORT,
    OptionNumber.URI_PATH,
    OptionNumber.URI_QUERY,
    OptionNumber.ACCEPT,
    OptionNumber.BLOCK1,
    OptionNumber.BLOCK2,
}
"""The critical options; any other one is answered 4.02 (RFC 7252 5.4.1)."""
NOT_PART_OF_KEY = [OptionNumber.BLOCK1, OptionNumber.BLOCK2, OptionNumber.OBSERVE]

assert SLOT_MS > EXCHANGE_LIFETIME_S * 1000, "a repetition comes in its own slot or in the next"


class CoapCollector:
    """A `Collector`. `payload_bytes_max` limits a body, in one datagram or in blocks."""

    def __init__(self, config: Coap, clock: Clock, payload_bytes_max: int = 256 * 1024) -> None:
        self._config = config
        self._clock = clock
        self._payload_bytes_max = payload_bytes_max
        self._blocks = Blocks(payload_bytes_max)
        self._recent = Recent(clock.monotonic_s())
        self._waiting = 0
        self._listening = False

    async def run(self, deliver: Deliver) -> None:
        """Serve until cancelled. Raises ConfigError when the address cannot be had."""
        self._deliver = deliver
        self._recent = Recent(self._clock.monotonic_s())
        clock, config = self._clock, self._config
        context = await listen(config.bind, config.port, self, self._recent, clock.monotonic_s)
        self._listening = True
        try:
            await asyncio.get_running_loop().create_future()  # until cancelled: aiocoap does the rest
        finally:
            self._listening = False
            await context.shutdown()

    def state(self) -> str:
        """One short sentence for people."""
        if not self._listening:
            return "CoAP: not listening"
        waiting = f", {self._waiting} requests wait for the spool" if self._waiting else ""
        return f"CoAP: listening on {self._config.bind} port {self._config.port}{waiting}"

    @property
    def connected(self) -> bool:
        """Whether the server listens."""
        return self._listening

    async def render_to_pipe(self, pipe: Any) -> None:
        """Answer the request of an aiocoap pipe; what aiocoap calls, in a task per request."""
        request = pipe.request
        try:
            response = await self._answer(request)
        except Exception:  # the request's outermost edge
            log.exception("A CoAP request failed.")
            response = _response(codes.INTERNAL_SERVER_ERROR, "the gateway failed; its log says why")
        if request.mtype is NON:
            response.opt.no_response = request.opt.no_response  # RFC 7967
        pipe.add_response(response, is_last=True)

    async def _answer(self, request: Any) -> Any:
        for option in request.opt.option_list():
            if option.number.is_critical() and option.number not in UNDERSTOOD:
                return _response(codes.BAD_OPTION, f"option {int(option.number)} is not understood")
        path = request.opt.uri_path
        if path == (".well-known", "core"):
            return _links(request)
        if len(path) != 2 or path[0] != "telemetry" or not path[1]:
            return _response(codes.NOT_FOUND, "post to /telemetry/{device}")
        if request.code != codes.POST:
            return _response(codes.METHOD_NOT_ALLOWED, "post to /telemetry/{device}")
        if self._waiting >= self._config.requests_max:
            return _not_now("too many requests wait for the gateway's spool")
        body = self._body(request)
        response = await self._collect(request, body) if isinstance(body, bytes) else self._refusal(body)
        if isinstance(body, bytes) or body is Step.CONTINUE:
            response.opt.block1 = request.opt.block1  # in a 4.13 it would ask for smaller blocks (2.9.3)
        return response

    def _body(self, request: Any) -> bytes | Step:
        """The whole body, or why it is not there."""
        block = request.opt.block1
        if block is None:
            too_large = len(request.payload) > self._payload_bytes_max
            return Step.TOO_LARGE if too_large else bytes(request.payload)
        if (request.opt.size1 or 0) > self._payload_bytes_max:
            return Step.TOO_LARGE
        if block.size_exponent > 6:  # 7 is for TCP (RFC 8323 6)
            return Step.MALFORMED
        key = (*request.remote.sockaddr, request.get_cache_key(NOT_PART_OF_KEY))
        now_s = self._clock.monotonic_s()
        return self._blocks.take(key, block.block_number, block.size, bytes(request.payload), now_s, more=block.more)

    def _refusal(self, step: Step) -> Any:
        if step is Step.CONTINUE:
            return _response(codes.CONTINUE)
        if step is Step.INCOMPLETE:
            return _response(codes.REQUEST_ENTITY_INCOMPLETE, "blocks are missing; begin anew with block 0")
        if step is Step.MALFORMED:
            return _response(codes.BAD_REQUEST, "the block's length is not what its Block1 option says")
        limit = self._payload_bytes_max
        response = _response(codes.REQUEST_ENTITY_TOO_LARGE, f"at most {limit} bytes are taken")
        response.opt.size1 = limit
        return response

    async def _collect(self, request: Any, body: bytes) -> Any:
        """Hand a message over, wait for its commit, and say what became of it."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if not done.done():  # cancelled: nobody waits for the answer any more
                done.set_result(outcome)

        self._waiting += 1
        try:
            async with asyncio.timeout(self._config.commit_wait_s_max):
                await self._deliver(Delivery(self._chunk(request, body), settle))
            outcome = await done
        except TimeoutError:
            return _not_now("the gateway's spool takes no messages at present")
        finally:
            self._waiting -= 1
        if reason := outcome.refused.get(0):
            return _response(codes.BAD_REQUEST, reason)
        return _response(codes.CHANGED)

    def _chunk(self, request: Any, body: bytes) -> Chunk:
        now_ms = self._clock.now_ms()
        slot = now_ms // SLOT_MS
        return Chunk(
            received_at_ms=now_ms,
            topics=["/".join(request.opt.uri_path)],
            payloads=[body],
            keys=[fingerprint(request, body, slot), fingerprint(request, body, slot + 1)],
            redelivered=set() if self._recent.is_complete(self._clock.monotonic_s()) else {0},
        )


def fingerprint(request: Any, body: bytes, slot: int) -> int:
    """The key of a message in a time slot: 64 bits, not 0, which stands for no key."""
    host, port, _, scope = request.remote.sockaddr
    about = f"{host} {port} {scope} {request.mid} {request.token.hex()} {slot} ".encode()
    digest = hashlib.blake2b(about, digest_size=8)
    digest.update(body)
    return int.from_bytes(digest.digest(), "little") or 1


def _response(code: Any, diagnostic: str = "") -> Any:
    """A response with a sentence for people (RFC 7252 5.5.2)."""
    payload = diagnostic.encode(errors="replace")[:DIAGNOSTIC_BYTES_MAX]
    return Message(code=code, payload=payload.decode(errors="ignore").encode())


def _not_now(diagnostic: str) -> Any:
    response = _response(codes.SERVICE_UNAVAILABLE, diagnostic)
    response.opt.max_age = RETRY_S
    return response


def _links(request: Any) -> Any:
    """The answer to /.well-known/core, in blocks when the client asks for blocks."""
    if request.code != codes.GET:
        return _response(codes.METHOD_NOT_ALLOWED, "get it")
    response = Message(code=codes.CONTENT, payload=LINKS, content_format=40)
    block = request.opt.block2
    if block is not None:
        response.payload = LINKS[block.start : block.start + block.size]
        more = block.start + block.size < len(LINKS)
        response.opt.block2 = BlockOption.BlockwiseTuple(block.block_number, more, block.size_exponent)
    return response
