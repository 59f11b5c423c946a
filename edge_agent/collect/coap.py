"""The CoAP collector: a server (RFC 7252, block-wise bodies by RFC 7959) that devices POST their readings to.

  POST /telemetry/{device}   the payload in the format of its Content-Format (`coap_formats`), or without one in the
                             format that gateway.toml gives the topic telemetry/{device}
  POST /telemetry/…          the same, for a longer path that a mapping of gateway.toml takes
  GET /.well-known/core      what is there (RFC 6690)

Each request is a chunk of one message. Its answer waits for the commit and is the acknowledgement itself
(piggybacked, RFC 7252 5.2.1). There is no empty acknowledgement before it: that would end the device's
retransmissions before the message is durable, and an agent that is killed then could never answer. The answers:

  2.04  its readings are durable               4.04, 4.05, 4.02  there is nothing, not so, not understood
  4.00  it is a dead letter, durable, and why  4.08  blocks are missing: begin anew
  5.03  not now, try again after Max-Age       4.13  the body is too long; Size1 says how long it may be
  4.15  not in this Content-Format, but in …   4.06  the links are application/link-format and nothing else
  4.01  not in the clear, or see `coap_oscore`  4.03  not with this key: it is another device's

5.03 means that the message was not taken: requests_max others wait, or the spool has not taken it for
commit_wait_s_max. A message that was taken gets no answer but the one after its commit, however late.

Repetitions. While the agent runs, a request whose message id comes again is answered again and not collected
again (`coap_endpoint.Recent`). After a restart that memory is empty, so for EXCHANGE_LIFETIME_S every message
is handed over as one that the spool may know by its key, and the last block of a transfer that is not there is looked
up before its device is told to begin anew (`coap_keys`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from aiocoap.message import Message
from aiocoap.numbers import codes
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import NON
from aiocoap.optiontypes import BlockOption

from edge_agent.collect import handed_over
from edge_agent.collect.coap_blocks import Blocks, Step
from edge_agent.collect.coap_endpoint import Recent, listen
from edge_agent.collect.coap_formats import LINK_FORMAT, formats_of, links, not_taken
from edge_agent.collect.coap_keys import Keys, OscoreDevice
from edge_agent.config import Coap
from edge_agent.mapping import COAP_MAPPING, matches, pattern
from telemetry.clock import Clock
from telemetry.delivery import Chunk, Deliver

if TYPE_CHECKING:
    from edge_agent.collect.coap_oscore import Oscore
    from edge_agent.collect.coap_secure import Secure

log = logging.getLogger(__name__)

RETRY_S = 10
"""Max-Age of a 5.03: after how many seconds to try again."""
DIAGNOSTIC_BYTES_MAX = 512
ROOT = "telemetry"
"""The first segment of every path that may be posted to."""
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


class CoapCollector:
    """A `Collector`.

    payload_bytes_max: limits a body, in one datagram or in blocks. topics: of the mappings; those under `telemetry`
    are paths. knows: whether the spool has committed a message with this key. boot_id: the kernel's. secure: to
    listen with DTLS, too. oscore: to take what is protected by OSCORE, too.
    """

    def __init__(
        self,
        config: Coap,
        clock: Clock,
        payload_bytes_max: int,
        topics: Iterable[str],
        knows: Callable[[int], bool],
        boot_id: bytes | None,
        secure: "Secure | None" = None,
        oscore: "Oscore | None" = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._payload_bytes_max = payload_bytes_max
        self._knows = knows
        self._keys = Keys(clock, boot_id)
        self._secure = secure
        self._oscore = oscore
        topics = list(topics)
        self._mappings = [pattern(topic) for topic in (*topics, COAP_MAPPING.topic)]  # the first that matches
        paths = dict.fromkeys([COAP_MAPPING.topic, *(topic for topic in topics if topic.startswith(f"{ROOT}/"))])
        self._patterns = [pattern(path) for path in paths]
        self._usage = f"post to /{COAP_MAPPING.topic}"
        self._links = links(list(paths))
        self._blocks = Blocks(payload_bytes_max)
        self._recent = Recent(clock.monotonic_s())
        self._waiting = 0
        self._listening = False

    async def run(self, deliver: Deliver) -> None:
        """Serve until cancelled. Raises ConfigError when the address cannot be had."""
        self._deliver = deliver
        self._recent = Recent(self._clock.monotonic_s())
        clock, config = self._clock, self._config
        contexts = []
        try:
            if config.listen:
                contexts.append(await listen(config.bind, config.port, self, self._recent, clock.monotonic_s))
            if self._secure is not None:
                contexts.append(await self._secure.listen(self, self._recent, clock.monotonic_s))
            self._listening = True
            await asyncio.get_running_loop().create_future()  # until cancelled: aiocoap does the rest
        finally:
            self._listening = False
            for context in contexts:
                await context.shutdown()

    def state(self) -> str:
        """One short sentence for people."""
        if not self._listening:
            return "CoAP: not listening"
        ports = [f"port {self._config.port}"] if self._config.listen else []
        ports += [self._secure.state()] if self._secure is not None else []
        oscore = f", {self._oscore.state()}" if self._oscore is not None else ""
        waiting = f", {self._waiting} requests wait for the spool" if self._waiting else ""
        return f"CoAP: listening on {self._config.bind} {' and '.join(ports)}{oscore}{waiting}"

    @property
    def connected(self) -> bool:
        """Whether the server listens."""
        return self._listening

    async def render_to_pipe(self, pipe: Any) -> None:
        """Answer the request of an aiocoap pipe; what aiocoap calls, in a task per request."""
        request = pipe.request
        try:
            response = await self._respond(request)
        except Exception:  # the request's outermost edge
            log.exception("A CoAP request failed.")
            response = _response(codes.INTERNAL_SERVER_ERROR, "the gateway failed; its log says why")
        pipe.add_response(response, is_last=True)

    async def _respond(self, request: Any) -> Any:
        if self._oscore is not None and request.opt.oscore is not None:
            return await self._respond_protected(self._oscore, request)
        if self._oscore is not None and self._oscore.is_required and request.remote.scheme == "coap":
            response = _response(codes.UNAUTHORIZED, "this gateway takes nothing in the clear; use OSCORE")
        else:
            response = await self._answer(request)
        if request.mtype is NON:
            response.opt.no_response = request.opt.no_response  # RFC 7967
        return response

    async def _respond_protected(self, oscore: "Oscore", request: Any) -> Any:
        """Answer a request whose payload is a ciphertext. It may be in blocks of its own (RFC 8613 4.1.3.4.2)."""
        exchange = oscore.begin(request)
        if isinstance(exchange, Message):
            return exchange
        also = self._keys.own(request) if request.opt.block1 is not None else []  # the last block's datagram
        return await self._with_body(
            request,
            lambda body: oscore.answer(exchange, body, also, self._answer),
            lambda: oscore.seal(exchange, _response(codes.CHANGED)),
        )

    async def _answer(self, request: Any) -> Any:
        for option in request.opt.option_list():
            if option.number.is_critical() and option.number not in UNDERSTOOD:
                return _response(codes.BAD_OPTION, f"option {int(option.number)} is not understood")
        if request.opt.uri_path == (".well-known", "core"):
            return self._core(request)
        if (misfit := self._misfit(request)) is not None:
            return misfit
        return await self._with_body(
            request, lambda body: self._collect(request, body), lambda: _response(codes.CHANGED)
        )

    async def _with_body(
        self, request: Any, answer: Callable[[bytes], Awaitable[Any]], committed: Callable[[], Any]
    ) -> Any:
        """What `answer` says once the whole body is there, `committed` if it was before a crash."""
        body = self._body(request)
        if isinstance(body, bytes):
            response = await answer(body)
        elif body is Step.INCOMPLETE and self._is_committed(request):
            response = committed()
        elif body is Step.CONTINUE:
            response = _response(codes.CONTINUE)
        else:
            return self._refusal(body)  # without Block1: in a 4.13 it would ask for smaller blocks (RFC 7959 2.9.3)
        response.opt.block1 = request.opt.block1
        return response

    def _misfit(self, request: Any) -> Any | None:
        """The answer to a request that is refused whatever its payload; None when it is not."""
        path, number = list(request.opt.uri_path), request.opt.content_format
        if "" in path or not any(matches(parts, path) for parts in self._patterns):
            return _response(codes.NOT_FOUND, self._usage)
        if request.code != codes.POST:
            return _response(codes.METHOD_NOT_ALLOWED, self._usage)
        if isinstance(request.remote, OscoreDevice) and self._device_of(path) != request.remote.device:
            return _response(codes.FORBIDDEN, f"with this key post as {request.remote.device}, no other device")
        if formats_of(number) is None:
            return _response(codes.UNSUPPORTED_CONTENT_FORMAT, not_taken(number))
        if self._waiting >= self._config.requests_max:
            return _not_now("too many requests wait for the gateway's spool")
        return None

    def _device_of(self, path: list[str]) -> str | None:
        """The device that the mappings read from a path."""
        parts = next(parts for parts in self._mappings if matches(parts, path))
        return path[parts.index("{device}")] if "{device}" in parts else None

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

    def _may_be_known(self) -> bool:
        """Whether messages may come that an agent before this one has committed."""
        return not self._recent.is_complete(self._clock.monotonic_s())

    def _is_committed(self, request: Any) -> bool:
        """Whether a block without its transfer is the last one of a body that was committed before a crash."""
        last = not request.opt.block1.more
        return last and self._may_be_known() and any(map(self._knows, self._keys.known_as(request)))

    def _refusal(self, step: Step) -> Any:
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
        self._waiting += 1
        try:
            async with asyncio.timeout(self._config.commit_wait_s_max):
                done = await handed_over(self._deliver, self._chunk(request, body))
            outcome = await done
        except TimeoutError:
            return _not_now("the gateway's spool takes no messages at present")
        finally:
            self._waiting -= 1
        if reason := outcome.refused.get(0):
            return _response(codes.BAD_REQUEST, reason)
        return _response(codes.CHANGED)

    def _chunk(self, request: Any, body: bytes) -> Chunk:
        block = request.opt.block1
        whole = block is None or block.block_number == 0
        may_be_known = whole and self._may_be_known()
        formats = formats_of(request.opt.content_format)
        return Chunk(
            received_at_ms=self._clock.now_ms(),
            topics=["/".join(request.opt.uri_path)],
            payloads=[body],
            keys=self._keys.own(request),
            redelivered={0} if may_be_known else set(),
            formats={0: formats} if formats else {},
            known_as={0: self._keys.known_as(request)} if may_be_known else {},
        )

    def _core(self, request: Any) -> Any:
        """The answer to /.well-known/core, in blocks when the client asks for blocks."""
        if request.code != codes.GET:
            return _response(codes.METHOD_NOT_ALLOWED, "get it")
        if request.opt.accept not in (None, LINK_FORMAT):
            return _response(codes.NOT_ACCEPTABLE, f"it is application/link-format ({LINK_FORMAT})")
        response = Message(code=codes.CONTENT, payload=self._links, content_format=LINK_FORMAT)
        block = request.opt.block2
        if block is not None:
            response.payload = self._links[block.start : block.start + block.size]
            more = block.start + block.size < len(self._links)
            response.opt.block2 = BlockOption.BlockwiseTuple(block.block_number, more, block.size_exponent)
        return response


def _response(code: Any, diagnostic: str = "") -> Any:
    """A response with a sentence for people (RFC 7252 5.5.2)."""
    payload = diagnostic.encode(errors="replace")[:DIAGNOSTIC_BYTES_MAX]
    return Message(code=code, payload=payload.decode(errors="ignore").encode())


def _not_now(diagnostic: str) -> Any:
    response = _response(codes.SERVICE_UNAVAILABLE, diagnostic)
    response.opt.max_age = RETRY_S
    return response
