"""CoAP, the other way round: the agent is the client and reads resources of devices that are servers.

  mode = "poll"     GET every every_s seconds, give or take a tenth, so that many resources do not ask at once
  mode = "observe"  GET with Observe (RFC 7641): the device tells by itself. Where it does not, the answer counts as
                    polled, and it is asked again after every_s

What a resource says is decoded as if its device had posted it to the path `topic`. Each answer and each notification
is a message of its own: the answer to a registration is the value that the device has now, whether or not it told it
before.

A confirmable notification is acknowledged after its commit, and one that came before and was not acknowledged because
of a crash is followed by a new registration. Of notifications that overtook each other the older ones are acknowledged
and not taken (RFC 7641 3.4). Non-confirmable notifications and answers are as lossy as their network is.

A device that restarts forgets who observes it. So an observation is renewed when nothing came for as long as the last
value may be believed (Max-Age, 60 s without) and 5 to 15 s more (RFC 7641 3.3.1), or for silence_s_max.

A device's failure ends nothing: it is logged once, is in `state`, and the device is asked again, with back-off up to
RETRY_S_MAX for observations. The devices' tasks are independent of each other.

Limits: payload_bytes_max of a body; one message per resource on its way into the spool, and see `coap_requests`.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

from edge_agent.collect import handed_over
from edge_agent.collect.coap_formats import formats_of, not_taken
from edge_agent.collect.coap_requests import ANSWER_S_MAX, DeviceError, Requests
from edge_agent.config import CoapResource
from telemetry.backoff import Backoff
from telemetry.clock import Clock
from telemetry.delivery import Chunk, Deliver

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0
FIRST_S_MAX = 2.0
"""The first requests are spread over this time."""
MAX_AGE_S = 60
"""Of a response without the option (RFC 7252 5.10.5)."""
GRACE_S = (5.0, 15.0)
NOT_ASKED = "has not been asked yet"


class CoapResources:
    """A `Collector` of all resources."""

    def __init__(self, resources: Sequence[CoapResource], clock: Clock, payload_bytes_max: int) -> None:
        self._clock = clock
        self._readers = [Reader(resource, clock, payload_bytes_max) for resource in resources]

    async def run(self, deliver: Deliver) -> None:
        """Read until cancelled."""
        requests = await Requests.open(self._clock.monotonic_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                for reader in self._readers:
                    tasks.create_task(reader.run(requests, deliver), name=f"coap {reader.resource.uri}")
        finally:
            await requests.close()

    def state(self) -> str:
        """How many answer, and what is wrong with the first that does not."""
        wrong = [reader for reader in self._readers if reader.trouble]
        told = f"CoAP resources: {len(self._readers) - len(wrong)} of {len(self._readers)} answer"
        return f"{told}; {wrong[0].resource.uri} {wrong[0].trouble}" if wrong else told

    @property
    def connected(self) -> bool:
        """Whether every device has answered when it was last asked."""
        return not any(reader.trouble for reader in self._readers)


class Reader:
    """One resource. `trouble` is what is wrong with it, empty when nothing is."""

    def __init__(self, resource: CoapResource, clock: Clock, payload_bytes_max: int) -> None:
        self.resource = resource
        self.trouble = NOT_ASKED
        self._clock = clock
        self._payload_bytes_max = payload_bytes_max
        self._chance = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._backoff = Backoff(RETRY_S_MIN, RETRY_S_MAX)

    async def run(self, requests: Requests, deliver: Deliver) -> None:
        """Read until cancelled."""
        await asyncio.sleep(self._chance.uniform(0, min(self.resource.every_s, FIRST_S_MAX)))
        token = requests.token()
        while True:
            due_s = self._clock.monotonic_s() + self.resource.every_s * self._chance.uniform(0.9, 1.1)
            try:
                if self.resource.mode == "poll":
                    response = await requests.get(self.resource.uri, self._payload_bytes_max)
                    await self._take(response, response.payload, deliver)
                elif await self._observe(requests, token, deliver):
                    continue
            except DeviceError as error:
                self._say(str(error))
                if self.resource.mode == "observe":
                    due_s = self._clock.monotonic_s() + self._backoff.next_s()
            except Exception as error:  # noqa: BLE001 - a resource's outermost edge: a defect costs it one value
                self._say(f"could not be read: {error!r}", error)
            await asyncio.sleep(max(0.0, due_s - self._clock.monotonic_s()))

    async def _observe(self, requests: Requests, token: bytes, deliver: Deliver) -> bool:
        """Take what comes until nothing does. Whether to register again at once."""
        async with requests.observe(self.resource.uri, token) as notifications:
            message = await notifications.next(ANSWER_S_MAX)
            if message is None:
                raise DeviceError("does not answer")
            while message is not None:
                payload = await self._whole(requests, message)
                await self._take(message, payload, deliver)
                notifications.done(message)
                if message.opt.observe is None:
                    return False
                self._backoff.reset()
                message = await notifications.next(self._silence_s(message))
        log.debug("%s is silent and is asked again.", self.resource.uri)
        return True

    def _silence_s(self, message: Any) -> float:
        """For how long nothing may come after a message."""
        max_age_s = MAX_AGE_S if message.opt.max_age is None else message.opt.max_age
        return min(max_age_s + self._chance.uniform(*GRACE_S), self.resource.silence_s_max)

    async def _whole(self, requests: Requests, message: Any) -> bytes:
        """The payload; a long one has only its first block in the notification (RFC 7959 2.6)."""
        if message.opt.block2 is not None and message.opt.block2.more:
            message = await requests.get(self.resource.uri, self._payload_bytes_max)
        return bytes(message.payload)

    async def _take(self, message: Any, payload: bytes, deliver: Deliver) -> None:
        """Hand over what a resource said and wait until it is durable. Raises DeviceError."""
        formats = formats_of(message.opt.content_format)
        if formats is None:
            raise DeviceError(f"says something that cannot be read: {not_taken(message.opt.content_format)}")
        if len(payload) > self._payload_bytes_max:
            raise DeviceError(f"says more than collect.payload_bytes_max, {self._payload_bytes_max} bytes")
        chunk = Chunk(
            received_at_ms=self._clock.now_ms(),
            topics=[self.resource.topic],
            payloads=[payload],
            keys=[0],
            formats={0: formats} if formats else {},
        )
        outcome = await (await handed_over(deliver, chunk))
        refused = outcome.refused.get(0)
        self._say(f"says what is not understood: {refused}" if refused else "")

    def _say(self, trouble: str, error: Exception | None = None) -> None:
        """Log a trouble when it begins and when it ends, not at every attempt."""
        if trouble and self.trouble in ("", NOT_ASKED):
            log.warning("%s %s", self.resource.uri, trouble, exc_info=error)
        elif self.trouble and not trouble:
            log.info("%s answers.", self.resource.uri)
        self.trouble = trouble
