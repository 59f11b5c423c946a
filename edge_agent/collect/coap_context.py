"""OSCORE security contexts (RFC 8613 3), the gateway's end: it opens what a device asks and seals its answers. Pure.

What is encrypted is COSE_Encrypt0 (RFC 9052) in its compressed form (6): the option has the number ("Partial IV") and
whose key it is ("kid", "kid context"), the payload is the ciphertext with its tag.

Every answer has a number of its own: none is ever sealed under the nonce of its request (5.2 and 8.3 allow both). So
the nonces are all different if the numbers are, whatever is answered to a request that comes again.

`cryptography` does the ciphers. The CBOR that is authenticated and derived from is a handful of short items, written
here.
"""

from functools import cached_property
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_agent.collect.oscore_file import ALGORITHMS, DeviceKeys

NUMBER_BYTES = 5
_CIPHERS: dict[str, Any] = {
    "AES-CCM-16-64-128": lambda key: AESCCM(key, tag_length=8),
    "AES-CCM-16-128-128": lambda key: AESCCM(key, tag_length=16),
    "A128GCM": AESGCM,
    "ChaCha20/Poly1305": ChaCha20Poly1305,
}


class Option(NamedTuple):
    """What the option of a request says (6.1). piv: its number, as it was written."""

    piv: bytes
    kid: bytes
    kid_context: bytes | None


def read_option(value: bytes) -> Option | None:
    """The option of a request; None for one that is malformed, or lacks a number or a kid."""
    if not value:
        return None
    flags, rest = value[0], value[1:]
    piv, rest = rest[: flags & 7], rest[flags & 7 :]
    context = None
    if flags & 0x10:
        size, rest = (rest[0], rest[1:]) if rest else (1, b"")
        context, rest = rest[:size], rest[size:]
        if len(context) < size:
            return None
    if flags & 0xE0 or not flags & 0x08 or not 0 < flags & 7 <= NUMBER_BYTES or len(piv) < flags & 7:
        return None
    return Option(piv, rest, context)


class SecurityContext:
    """The keys of a device, derived (3.2) when they are first needed."""

    def __init__(self, keys: DeviceKeys) -> None:
        self.keys = keys
        self._algorithm = ALGORITHMS[keys.algorithm]

    @cached_property
    def common_iv(self) -> bytes:
        """From which and an ID and a number each nonce is made."""
        return self._derived(b"", "IV", self._algorithm.nonce_bytes)

    @cached_property
    def recipient_key(self) -> bytes:
        """The key of what the device says."""
        return self._derived(self.keys.recipient_id, "Key", self._algorithm.key_bytes)

    @cached_property
    def sender_key(self) -> bytes:
        """The key of what the gateway says."""
        return self._derived(self.keys.sender_id, "Key", self._algorithm.key_bytes)

    @cached_property
    def _opener(self) -> Any:
        return _CIPHERS[self.keys.algorithm](self.recipient_key)

    @cached_property
    def _sealer(self) -> Any:
        return _CIPHERS[self.keys.algorithm](self.sender_key)

    def _derived(self, id_: bytes, kind: str, size: int) -> bytes:
        """`info` of 3.2.1, expanded."""
        context = self.keys.id_context
        info = b"\x85" + _bytes(id_) + (b"\xf6" if context is None else _bytes(context))
        info += _head(0, self._algorithm.number) + _head(3, len(kind)) + kind.encode() + _head(0, size)
        derived: bytes = HKDF(SHA256(), size, salt=self.keys.master_salt, info=info).derive(self.keys.master_secret)
        return derived

    def _nonce(self, id_: bytes, piv: bytes) -> bytes:
        """5.2."""
        padded = id_.rjust(self._algorithm.nonce_bytes - 1 - NUMBER_BYTES, b"\0")
        parts = bytes([len(id_)]) + padded + piv.rjust(NUMBER_BYTES, b"\0")
        return bytes(a ^ b for a, b in zip(parts, self.common_iv, strict=True))

    def _authenticated(self, asked: Option) -> bytes:
        """The additional data of a request and of its answer (5.4)."""
        external = b"\x85\x01\x81" + _head(0, self._algorithm.number)
        external += _bytes(self.keys.recipient_id) + _bytes(asked.piv) + _bytes(b"")
        return b"\x83\x68Encrypt0" + _bytes(b"") + _bytes(external)

    def open(self, asked: Option, ciphertext: bytes) -> bytes | None:
        """The plaintext of a request; None when the device has not said this."""
        try:
            nonce = self._nonce(self.keys.recipient_id, asked.piv)
            plaintext: bytes = self._opener.decrypt(nonce, ciphertext, self._authenticated(asked))
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            return None
        return plaintext or None

    def seal(self, asked: Option, number: int, plaintext: bytes) -> tuple[bytes, bytes]:
        """The option and the payload of an answer. number: which no other answer under this key ever had."""
        piv = number.to_bytes(max(1, (number.bit_length() + 7) // 8))
        nonce = self._nonce(self.keys.sender_id, piv)
        ciphertext: bytes = self._sealer.encrypt(nonce, plaintext, self._authenticated(asked))
        return bytes([len(piv)]) + piv, ciphertext


def _head(major: int, count: int) -> bytes:
    """The beginning of a CBOR item (RFC 8949 3)."""
    assert count < 256, "all items here are short"
    return bytes([major << 5 | count]) if count < 24 else bytes([major << 5 | 24, count])


def _bytes(data: bytes) -> bytes:
    return _head(2, len(data)) + data
