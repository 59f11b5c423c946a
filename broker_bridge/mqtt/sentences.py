"""What went wrong with a broker, said to people: what happened, and what to check."""

import socket
import ssl
from collections.abc import Iterable
from typing import Protocol

from broker_bridge.mqtt.packets import FAILED

QUOTE_CHARS_MAX = 200
_REFUSALS = {  # CONNACK return codes, 3.2.2.3
    1: "does not speak MQTT 3.1.1. Enable that version there",
    2: "refuses the client id {client_id!r}. Choose another client_id",
    3: "is up but not available. It will be tried again",
    4: "refuses the username or password. Check username and password",
    5: "does not let the user {user} in as {client_id!r}. Check username, password and its access rules",
}
_REASONS = {  # reason codes of MQTT 5, 2.4, as far as a broker may send them to a client that does what ours does
    0x80: "an error that it does not name. See its log",
    0x81: "it could not read a packet. See its log",
    0x82: "it found an error of the protocol. See its log",
    0x83: "a reason of its own. See its log",
    0x84: "it does not speak MQTT 5. Set version to 3.1.1",
    0x85: "it does not accept the client id {client_id!r}. Choose another client_id",
    0x86: "the username or password is wrong. Check username and password",
    0x87: "the user {user} may not do this as {client_id!r}. Check username, password and its access rules",
    0x88: "it is not available. It will be tried again",
    0x89: "it is busy. It will be tried again",
    0x8A: "this client is banned. Ask its administrator",
    0x8B: "it is shutting down. It will be tried again",
    0x8C: "it wants an authentication that we do not have. Use one by username, password or certificate",
    0x8D: "it heard nothing for longer than the keepalive. Check the network, or raise keepalive_s",
    0x8E: "another client connected as {client_id!r}. Give each its own client_id",
    0x8F: "it does not accept the topic filter. Check topics",
    0x90: "it does not accept the topic. Check its access rules",
    0x93: "it was sent more at a time than it takes. See its log",
    0x95: "a packet is too large for it. Raise its limit",
    0x96: "messages come too fast for it. Raise its limit",
    0x97: "a quota is exceeded. Raise it there",
    0x98: "its administrator did it. It will be tried again",
    0x99: "it does not accept the payload's format. See its log",
    0x9A: "it has no retained messages. Use another broker",
    0x9B: "it has no QoS 1. Use another broker",
    0x9C: "another server is to be used for now. Change host",
    0x9D: "it has moved. Change host",
    0x9E: "it has no shared subscriptions. Check topics",
    0x9F: "connections come too fast for it. It will be tried again",
    0xA0: "no connection may last longer. It will be tried again",
    0xA2: "it has no subscriptions with wildcards. Check topics",
}


class Target(Protocol):
    """The part of the options that sentences name."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def client_id(self) -> str: ...
    @property
    def username(self) -> str | None: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def peer(self) -> str: ...


def refused(target: Target, code: int, said: str = "") -> str:
    """For a CONNACK's code other than 0; `said`: the broker's own words."""
    if code >= FAILED:
        return f"{target.peer} refuses the connection: {_reason(target, code)}.{_quoted(said)}"
    text = _REFUSALS.get(code, f"refuses the connection with the unknown code {code}. See its log")
    return f"{target.peer} {_filled(target, text)}."


def disconnected(target: Target, code: int, said: str, server: str) -> str:
    """For a DISCONNECT of the broker's; `server`: the one that it names for the next time."""
    if code < FAILED:
        return f"{target.peer} closed the connection.{_quoted(said)}"
    named = f" The other one is {server[:QUOTE_CHARS_MAX]!r}." if server else ""
    return f"{target.peer} ended the connection: {_reason(target, code)}.{named}{_quoted(said)}"


def not_published(target: Target, code: int, said: str) -> str:
    """For a PUBACK that is a refusal."""
    return f"{target.peer} refuses a message: {_reason(target, code)}.{_quoted(said)}"


def not_connected(target: Target, error: Exception) -> str:
    """For what connecting raised."""
    match error:
        case TimeoutError():
            text = f"did not answer within {target.connect_timeout_s:g} s. Check host, port and the network"
        case ConnectionRefusedError():
            text = "refuses connections. Check that it runs and that the port is right"
        case socket.gaierror() | UnicodeError():
            text = f"cannot be found: the name {target.host!r} does not resolve. Check host and the DNS"
        case ssl.SSLCertVerificationError():
            text = f"has a certificate that is not trusted: {error.verify_message}. Check tls.ca_file and host"
        case ssl.SSLError():
            text = f"cannot be reached by TLS: {error.reason or error}. Check that the port is its TLS port"
        case OSError():
            text = f"cannot be reached: {error.strerror or error}. Check host, port and the network"
        case _:
            text = f"cannot be reached: {error}"
    return f"{target.peer} {text}."


def no_answer(target: Target, reason: str) -> str:
    """For a connection that ended before CONNACK."""
    return f"{reason} It had not answered CONNECT: check that port {target.port} is for MQTT, plain or TLS."


def not_subscribed(target: Target, filters: Iterable[str], code: int = FAILED, said: str = "") -> str:
    """For refused topic filters; `code` is that of the first."""
    what = f"{target.peer} refuses the subscription to {', '.join(filters)}"
    if code == FAILED:
        return f"{what}. Check what its access rules allow the user {_user(target)}.{_quoted(said)}"
    return f"{what}: {_reason(target, code)}.{_quoted(said)}"


def session_is_short(target: Target, seconds: int) -> str:
    """For a broker that does not keep the session as long as asked for."""
    return (
        f"{target.peer} keeps messages for {target.client_id!r} only {seconds} s while it is away: "
        "losses are possible. Raise its limit of the session's expiry."
    )


def _reason(target: Target, code: int) -> str:
    return _filled(target, _REASONS.get(code, f"the unknown reason {code:#04x}. See its log"))


def _filled(target: Target, text: str) -> str:
    return text.format(client_id=target.client_id, user=_user(target))


def _quoted(said: str) -> str:
    return f" It says: {said[:QUOTE_CHARS_MAX]!r}." if said else ""


def _user(target: Target) -> str:
    return repr(target.username) if target.username else "(anonymous)"
