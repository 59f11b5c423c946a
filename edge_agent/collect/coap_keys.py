"""By what the spool recognises a CoAP message that its device repeats after a crash of the agent.

RFC 7252 4.5: two messages are one if endpoint and message id are the same within EXCHANGE_LIFETIME. While the agent
runs, `coap_endpoint.Recent` goes by that. What survives a crash is a key in the spool's journal, written in the
transaction of the message's records:

  key = hash of the sender's address and port, the message id, the token, the datagram's own payload, a slot of a clock

A slot has 13 s. A message bears the key of its own slot, and is looked up by that and by those of the 19 slots
before. So a repetition is found for at least 247 s and at most 260 s, while a device that wakes every five minutes
with the same message id and the same value loses nothing. Token and payload are in it because a device that
restarted may begin with the message ids that it had before.

There are two clocks, and a message bears a key of each:
- the kernel's monotonic one, with the boot id: it outlives the agent, and it runs on when the wall clock is set;
- the wall clock, if it is set: all that is left after a reboot. Only in a boot's first minutes can messages come that
  were committed before it, so only then is it looked up. Later it could only take a new message for an old one, when
  it has been set back to where that came.
Where the kernel has no boot id, the wall clock stands alone.

A body in blocks is committed with its last block; the others leave nothing behind. The key is that of the last
block's datagram. After a crash the device repeats that block, because it is what was not acknowledged. Its
transfer is gone, so it would be told to begin anew, with new message ids: a second upload that nothing tells from the
first. Hence a last block without its transfer is looked up before that is said. It is the same rule as for a message
in one datagram: no contents are compared, so a device may upload the same body twice and has two readings.
A body that comes whole is for the same reason never looked up: all its blocks are here, so it was not the last
one that was repeated.

Under OSCORE (`coap_oscore`) a message is known by its ciphertext, which is that of one number of one device: for ever,
by one key without a clock, and from whichever address it comes.

A Request-Tag (RFC 9175 3) keeps uploads apart that go on at the same time. It is no identity: devices may use
one again as soon as an upload has ended.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from edge_agent.collect.coap_endpoint import EXCHANGE_LIFETIME_S
from edge_agent.plausibility import CLOCK_SET_MS_MIN
from telemetry.clock import Clock

SLOT_MS = 13_000
SLOTS_BEFORE = 19

assert SLOTS_BEFORE * SLOT_MS >= EXCHANGE_LIFETIME_S * 1000, "a repetition comes in its own slot or soon after"


@dataclass(frozen=True, slots=True)
class OscoreDevice:
    """A device that has proved who it is, as the remote of a request. keys: what the journal is to remember of it."""

    device: str
    keys: tuple[int, ...]

    @property
    def sockaddr(self) -> tuple[str, int, int, int]:
        """In place of an address, which says nothing."""
        return (self.device, 0, 0, 0)


class Keys:
    """The keys of requests that come now. boot_id: the kernel's, None where it has none."""

    def __init__(self, clock: Clock, boot_id: bytes | None) -> None:
        self._clock = clock
        self._boot_id = boot_id

    def own(self, request: Any) -> list[int]:
        """What the journal is to remember of a request."""
        if isinstance(request.remote, OscoreDevice):
            return list(request.remote.keys)
        about = _about(request)
        return [_key(about, name, slot) for name, slot in self._slots(looks_up=False)]

    def known_as(self, request: Any) -> list[int]:
        """By what the journal knows a request if it has been here."""
        if isinstance(request.remote, OscoreDevice):
            return list(request.remote.keys)
        about = _about(request)
        return [
            _key(about, name, slot - before)
            for name, slot in self._slots(looks_up=True)
            for before in range(SLOTS_BEFORE + 1)
        ]

    def _slots(self, *, looks_up: bool) -> list[tuple[str, int]]:
        """Each clock that counts: its name and its present slot."""
        wall_ms, uptime_ms = self._clock.now_ms(), round(self._clock.monotonic_s() * 1000)
        wall = "wall", wall_ms // SLOT_MS
        if self._boot_id is None:
            return [wall]
        slots = [(self._boot_id.hex(), uptime_ms // SLOT_MS)]
        has_just_booted = uptime_ms // SLOT_MS <= SLOTS_BEFORE
        if wall_ms >= CLOCK_SET_MS_MIN and (has_just_booted or not looks_up):
            slots.append(wall)
        return slots


def _about(request: Any) -> Any:
    """The hash of what is the same when a request is repeated."""
    remote = request.remote
    about = f"{remote.scheme}://{remote.hostinfo} {request.mid} {request.token.hex()} {len(request.payload)} "
    digest = hashlib.blake2b(about.encode(), digest_size=8)
    digest.update(request.payload)
    return digest


def _key(about: Any, clock: str, slot: int) -> int:
    """64 bits, not 0, which stands for no key."""
    digest = about.copy()
    digest.update(f"{clock} {slot}".encode())
    return int.from_bytes(digest.digest(), "little") or 1
