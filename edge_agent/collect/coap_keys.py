"""By what the spool recognises a CoAP message that its device repeats after a crash of the agent.

RFC 7252 4.5: two messages are one if endpoint and message id are the same within EXCHANGE_LIFETIME. While the agent
runs, `coap_endpoint.Recent` goes by that. What survives a crash is a key in the spool's journal, written in the
transaction of the message's records:

  key = hash of the sender's address and port, the message id, the token, the datagram's own payload, a time slot

The slots are of 256 s. A message bears the keys of two, its own and the next, and is looked up by the first. So a
repetition is found for at least 256 s, while a device that wakes every ten minutes with the same message id and
the same value loses nothing. Token and payload are in it because a device that restarted may begin with
the message ids that it had before.

A body in blocks is committed with its last block; the others leave nothing behind. The key is that of the last
block's datagram. After a crash the device repeats that block, because it is what was not acknowledged. Its
transfer is gone, so it would be told to begin anew, with new message ids: a second upload that nothing tells from the
first. Hence a last block without its transfer is looked up before that is said. It is the same rule as for a message
in one datagram: no contents are compared, so a device may upload the same body twice and has two readings.
A body that comes whole is for the same reason never looked up: all its blocks are here, so it was not the last
one that was repeated.

A Request-Tag (RFC 9175 3) keeps uploads apart that go on at the same time. It is no identity: devices may use
one again as soon as an upload has ended.
"""

import hashlib
from typing import Any

from edge_agent.collect.coap_endpoint import EXCHANGE_LIFETIME_S

SLOT_MS = 256_000

assert SLOT_MS > EXCHANGE_LIFETIME_S * 1000, "a repetition comes in its own slot or in the next"


def keys(request: Any, now_ms: int) -> list[int]:
    """What the journal is to remember of a request; the first is what it is looked up by."""
    remote = request.remote
    about = f"{remote.scheme}://{remote.hostinfo} {request.mid} {request.token.hex()}"
    slot = now_ms // SLOT_MS
    return [_key(f"{about} {slot} ", request.payload), _key(f"{about} {slot + 1} ", request.payload)]


def _key(about: str, payload: bytes) -> int:
    """64 bits, not 0, which stands for no key."""
    digest = hashlib.blake2b(about.encode(), digest_size=8)
    digest.update(payload)
    return int.from_bytes(digest.digest(), "little") or 1
