"""A device's end of DTLS 1.2 with a pre-shared key, on pyOpenSSL (extra `dtls`)."""

import asyncio
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from proof.mixed_coap import Udp
from proof.rules import IDENTITY

CIPHERS = b"PSK-AES128-CCM8:@SECLEVEL=0"
DTLS1_2 = 0xFEFD
CIPHERTEXT_BYTES_MAX = 1200
SESSION_S = 3.0
HANDSHAKE_S = 1.0


class DtlsClient:
    """One session, without a socket: `sends` is what is to be sent."""

    def __init__(self, identity: bytes, key: bytes) -> None:
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_max_proto_version(DTLS1_2)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        self._tell = _tell_key(context, identity, key)
        self.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()
        self.connection.set_ciphertext_mtu(CIPHERTEXT_BYTES_MAX)

    def sends(self) -> list[bytes]:
        """What waits to be sent, as one datagram or none."""
        try:
            return [self.connection.bio_read(65_536)]
        except SSL.WantReadError:
            return []

    def shakes(self) -> bool:
        """Go on with the handshake; whether it is done. Raises SSL.Error when it failed."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def says(self, data: bytes) -> bytes:
        """A message, encrypted."""
        self.connection.send(data)
        (datagram,) = self.sends()
        return datagram

    def hears(self, datagram: bytes) -> list[bytes]:
        """The messages of a datagram. Raises SSL.Error when the other side has ended the session."""
        said = []
        self.connection.bio_write(datagram)
        try:
            while True:
                said.append(self.connection.recv(65_536))
        except SSL.WantReadError:
            return said


class Secured:
    """A device's way to the agent. What is repeated comes in a new session: the agent may have been killed."""

    again_s = SESSION_S

    def __init__(self, udp: Udp, key: bytes) -> None:
        self._udp = udp
        self._key = key
        self._session: Any = None
        self._last = b""

    async def send(self, data: bytes) -> None:
        """A message, or the one before once more."""
        if self._session is None or data == self._last:
            self._session = await self._shake()
        self._last = data
        self._udp.transport.sendto(self._session.says(data))

    async def receive(self, seconds: float) -> list[bytes]:
        """What came; nothing after so long."""
        data = await self._udp.receive(seconds)
        if data is None or self._session is None:
            return []
        try:
            said: list[bytes] = self._session.hears(data)
        except SSL.Error:  # the agent has ended it
            self._session = None
            return []
        return said

    async def _shake(self) -> Any:
        """A new session; lost flights are sent again by beginning anew."""
        while True:
            client = DtlsClient(IDENTITY.encode(), self._key)
            try:
                while not client.shakes():
                    for datagram in client.sends():
                        self._udp.transport.sendto(datagram)
                    data = await self._udp.receive(HANDSHAKE_S)
                    if data is None:
                        break
                    client.connection.bio_write(data)
                else:
                    for datagram in client.sends():
                        self._udp.transport.sendto(datagram)
                    return client
            except SSL.Error:
                await asyncio.sleep(HANDSHAKE_S)


def _tell_key(context: Any, identity: bytes, key: bytes) -> Any:
    """Let a context use a key; the callback lives as long as what is returned."""
    binding = Binding()
    ffi = binding.ffi

    @ffi.callback("unsigned int(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]  # cffi has no annotations
    def tell(_ssl: Any, _hint: Any, name: Any, name_bytes_max: int, psk: Any, psk_bytes_max: int) -> int:
        ffi.buffer(name, name_bytes_max)[: len(identity) + 1] = identity + b"\0"
        ffi.buffer(psk, psk_bytes_max)[: len(key)] = key
        return len(key)

    binding.lib.SSL_CTX_set_psk_client_callback(context._context, tell)  # noqa: SLF001 - pyOpenSSL has no call for it
    return tell
