"""A device's end of OSCORE (RFC 8613) on `cryptography` (extra `oscore`), with AES-CCM-16-64-128 and HKDF-SHA-256.

Shares no code with the pipeline.
"""

import itertools
import tomllib
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proof.coap_wire import ACK, CON, POST, UNAUTHORIZED, Datagram, decode
from proof.mixed_coap import AGAIN_S, Udp

DEVICE = "drill-oscore"
ECHO, OSCORE = 252, 9
OWN_ID, GATEWAY_ID = b"\x01", b"\x00"
VERSION_AND_ALGORITHM = b"\x01\x81\x0a"


def keys_file(path: Path, secret: str) -> None:
    """Write the gateway's file. secret: 16 bytes in hex."""
    path.touch(mode=0o600)
    path.write_text(
        f'["{DEVICE}"]\nrecipient_id = "{OWN_ID.hex()}"\nsender_id = "{GATEWAY_ID.hex()}"\nmaster_secret = "{secret}"\n'
    )


class OscoreClient:
    """The keys of a device, from the gateway's file."""

    def __init__(self, path: Path) -> None:
        secret = bytes.fromhex(tomllib.loads(path.read_text())[DEVICE]["master_secret"])

        def derived(id_: bytes, kind: bytes, size: int) -> bytes:
            info = b"\x85" + _bytes(id_) + b"\xf6\x0a" + bytes([0x60 | len(kind)]) + kind + bytes([size])
            key: bytes = HKDF(SHA256(), size, salt=None, info=info).derive(secret)
            return key

        self._iv = derived(b"", b"IV", 13)
        self._own = AESCCM(derived(OWN_ID, b"Key", 16), tag_length=8)
        self._gateways = AESCCM(derived(GATEWAY_ID, b"Key", 16), tag_length=8)

    def _nonce(self, id_: bytes, piv: bytes) -> bytes:
        parts = bytes([len(id_)]) + id_.rjust(7, b"\0") + piv.rjust(5, b"\0")
        return bytes(a ^ b for a, b in zip(parts, self._iv, strict=True))

    def seal(self, message: Datagram, number: int, mid: int) -> tuple[Datagram, bytes]:
        """A request under a number, and that as it is in the option."""
        piv = number.to_bytes(max(1, (number.bit_length() + 7) // 8))
        inside = bytes([message.code]) + message._replace(token=b"").encode()[4:]
        ciphertext = self._own.encrypt(self._nonce(OWN_ID, piv), inside, _authenticated(piv))
        option = bytes([len(piv) | 8]) + piv + OWN_ID
        return Datagram(CON, POST, mid, message.token, ((OSCORE, option),), ciphertext), piv

    def open(self, answer: Datagram, asked: bytes) -> Datagram:
        """What is in the answer to the request with the number `asked`. Raises InvalidTag."""
        option = dict(answer.options)[OSCORE]
        nonce = self._nonce(GATEWAY_ID, option[1:]) if option else self._nonce(OWN_ID, asked)
        inside: bytes = self._gateways.decrypt(nonce, answer.payload, _authenticated(asked))
        return decode(b"\x40" + inside[:1] + b"\0\0" + inside[1:])


def _bytes(data: bytes) -> bytes:
    return bytes([0x40 | len(data)]) + data


def _authenticated(asked: bytes) -> bytes:
    return b"\x83\x68Encrypt0\x40" + _bytes(b"\x85" + VERSION_AND_ALGORITHM + _bytes(OWN_ID) + _bytes(asked) + b"\x40")


class Protected:
    """A device's way to the agent under OSCORE. A message is repeated as it was; an Echo makes a new one of it."""

    again_s = AGAIN_S

    def __init__(self, udp: Udp, client: OscoreClient) -> None:
        self._udp = udp
        self._client = client
        self._numbers = itertools.count()
        self._said = b""
        self._sealed, self._asked = Datagram(CON, POST, 0), b""

    async def send(self, data: bytes) -> None:
        """A message, or the one before once more."""
        if data != self._said:
            self._said = data
            self._seal(decode(data))
        self._udp.transport.sendto(self._sealed.encode())

    def _seal(self, message: Datagram) -> None:
        number = next(self._numbers)
        self._sealed, self._asked = self._client.seal(message, number, number % 0x10000)

    async def receive(self, seconds: float) -> list[bytes]:
        """What came; nothing after so long."""
        data = await self._udp.receive(seconds)
        answer = None if data is None else decode(data)
        if answer is None or answer.mid != self._sealed.mid:
            return []
        said = decode(self._said)
        if OSCORE in dict(answer.options):
            answer = self._client.open(answer, self._asked)
        echo = dict(answer.options).get(ECHO)
        if answer.code == UNAUTHORIZED and echo is not None:
            self._seal(said._replace(options=(*said.options, (ECHO, echo))))
            self._udp.transport.sendto(self._sealed.encode())
            return []
        return [answer._replace(kind=ACK, mid=said.mid, token=said.token).encode()]
