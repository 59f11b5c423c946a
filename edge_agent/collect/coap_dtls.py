"""DTLS 1.2 with pre-shared keys (RFC 6347, RFC 4279; RFC 7252 9.1.3.1), by OpenSSL, without a socket.

`Sessions.receive(datagram, address, send)` gives what a device said; `write` says something to it. OpenSSL is the one
inside `cryptography`, through pyOpenSSL. pyOpenSSL has no call for pre-shared keys, `cryptography` has: `_serve_keys`
is the place where both are used below their public interface.

A ClientHello is answered without keeping anything until it comes back with the cookie (RFC 6347 4.2.1), so nobody
makes sessions under addresses of others. One with a cookie begins a session and ends the former one of its address: a
device that has restarted is served at once (4.2.8). OpenSSL hands out a flight of records as one run of bytes; each
record becomes a datagram. There are no timers: who misses an answer in a handshake sends its own part again.

Limits: sessions_max sessions of about 70 kB, the one that was quiet for longest makes room; keys as in `psk_file`.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

Address = tuple[Any, ...]

DTLS1_2_VERSION = 0xFEFD
CIPHERS = b"PSK-AES128-CCM8:PSK-AES128-CCM:PSK-AES256-CCM:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:@SECLEVEL=0"
"""CCM8 is what RFC 7252 asks of everybody; its tag of 8 bytes is below OpenSSL's first level."""
MTU_BYTES = 1280
RECORD_HEAD_BYTES = 13
HANDSHAKE, CLIENT_HELLO = 22, 1
PLAINTEXT_BYTES_MAX = 16_384

Send = Callable[[bytes, Address], None]


class Session:
    """A device's session: its number, which no other one gets, and OpenSSL's state."""

    def __init__(self, number: int, address: Address, connection: Any) -> None:
        self.number = number
        self.address = address
        self.connection = connection
        self.is_open = False


class Sessions:
    """All sessions of a server."""

    def __init__(self, keys: Mapping[bytes, bytes], sessions_max: int) -> None:
        self.refused = ""
        """The last handshake that failed, a sentence."""
        self._keys = keys
        self._sessions_max = sessions_max
        self._sessions: dict[Address, Session] = {}  # the one that was quiet for longest first
        self._numbers = count(1)
        self._secret = secrets.token_bytes(32)
        self._context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        self._context.set_min_proto_version(DTLS1_2_VERSION)
        self._context.set_max_proto_version(DTLS1_2_VERSION)
        self._context.set_cipher_list(CIPHERS)
        self._context.set_options(
            SSL.OP_COOKIE_EXCHANGE | SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET
        )
        self._context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self._context.set_cookie_generate_callback(self._cookie)
        self._context.set_cookie_verify_callback(self._is_cookie)
        self._callback = _serve_keys(self._context, self._key)

    def __len__(self) -> int:
        return len(self._sessions)

    def receive(self, datagram: bytes, address: Address, send: Send) -> tuple[Session, list[bytes]] | None:
        """The session and what its device said in a datagram; None when it said nothing yet or any more."""
        if _is_client_hello(datagram):
            self._begin(datagram, address, send)
            return None
        session = self._sessions.pop(address, None)
        if session is None:
            return None
        self._sessions[address] = session  # the order is that of the last use
        said: list[bytes] = []
        try:
            session.connection.bio_write(datagram)
            if not session.is_open:
                session.connection.do_handshake()
                session.is_open = True
            while True:
                said.append(session.connection.recv(PLAINTEXT_BYTES_MAX))
        except SSL.WantReadError:
            pass
        except SSL.Error as error:  # also a good-bye, SSL.ZeroReturnError
            if not session.is_open:
                self.refused = f"{address[0]} failed at the handshake: {_reason(error)}"
            del self._sessions[address]
        self._flush(session.connection, address, send)
        return session, said

    def write(self, session: Session, plaintext: bytes, send: Send) -> None:
        """Say something to a device; nothing happens if its session has ended."""
        if self._sessions.get(session.address) is session and session.is_open:
            with suppress(SSL.Error):  # it is ending: the next datagram tells
                session.connection.send(plaintext)
            self._flush(session.connection, session.address, send)

    def close(self, send: Send) -> None:
        """Say good-bye to everybody."""
        for session in self._sessions.values():
            if session.is_open:
                with suppress(SSL.Error):
                    session.connection.shutdown()
                self._flush(session.connection, session.address, send)
        self._sessions.clear()

    def _begin(self, hello: bytes, address: Address, send: Send) -> None:
        """Answer a ClientHello: ask for its cookie, or begin a session if it has one."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(address)
        connection.set_accept_state()
        connection.set_ciphertext_mtu(MTU_BYTES)
        connection.bio_write(hello)
        try:
            connection.DTLSv1_listen()
            self._sessions.pop(address, None)
            if len(self._sessions) >= self._sessions_max:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[address] = Session(next(self._numbers), address, connection)
            connection.do_handshake()
        except SSL.WantReadError:
            pass  # a cookie or the next part of the handshake is to come
        except SSL.Error as error:
            self.refused = f"{address[0]} failed at the handshake: {_reason(error)}"
            self._sessions.pop(address, None)
        self._flush(connection, address, send)

    def _flush(self, connection: Any, address: Address, send: Send) -> None:
        """Send what OpenSSL has to say, each record as a datagram."""
        while True:
            try:
                run = connection.bio_read(65_536)
            except SSL.WantReadError:
                return
            while run:
                size = RECORD_HEAD_BYTES + int.from_bytes(run[11:13], "big")
                send(run[:size], address)
                run = run[size:]

    def _cookie(self, connection: Any) -> bytes:
        address = repr(connection.get_app_data()).encode()
        return hmac.digest(self._secret, address, hashlib.sha256)

    def _is_cookie(self, connection: Any, cookie: bytes) -> bool:
        return hmac.compare_digest(self._cookie(connection), cookie)

    def _key(self, identity: bytes) -> bytes:
        return self._keys.get(identity, b"")


def _is_client_hello(datagram: bytes) -> bool:
    """Whether a handshake's first message is in it, unencrypted: epoch 0."""
    return len(datagram) > RECORD_HEAD_BYTES and (datagram[0], datagram[3:5], datagram[13]) == (
        HANDSHAKE,
        b"\0\0",
        CLIENT_HELLO,
    )


def _reason(error: Any) -> str:
    """OpenSSL's words for an error."""
    details = error.args[0] if error.args else ()
    return ", ".join(detail[-1] for detail in details) or type(error).__name__


def _serve_keys(context: Any, key_of: Callable[[bytes], bytes]) -> Any:
    """Let a context ask for keys; the callback lives as long as what is returned."""
    binding = Binding()
    ffi, lib = binding.ffi, binding.lib

    @ffi.callback("unsigned int(SSL *, const char *, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]  # cffi has no annotations
    def serve(_ssl: Any, identity: Any, psk: Any, psk_bytes_max: int) -> int:
        key = key_of(ffi.string(identity)) if identity else b""
        if not key or len(key) > psk_bytes_max:
            return 0  # the handshake fails
        ffi.buffer(psk, psk_bytes_max)[: len(key)] = key
        return len(key)

    lib.SSL_CTX_set_psk_server_callback(context._context, serve)  # noqa: SLF001 - the seam
    return serve
