"""What went wrong with a broker, said to people: what happened, and what to check."""

import socket
import ssl
from collections.abc import Iterable
from typing import Protocol

_REFUSALS = {  # CONNACK return codes, 3.2.2.3
    1: "does not speak MQTT 3.1.1. Enable that version there",
    2: "refuses the client id {client_id!r}. Choose another client_id",
    3: "is up but not available. It will be tried again",
    4: "refuses the username or password. Check username and password",
    5: "does not let the user {user} in as {client_id!r}. Check username, password and its access rules",
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


def refused(target: Target, code: int) -> str:
    """For a CONNACK return code other than 0."""
    text = _REFUSALS.get(code, f"refuses the connection with the unknown code {code}. See its log")
    return f"{target.peer} {text.format(client_id=target.client_id, user=_user(target))}."


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


def not_subscribed(target: Target, filters: Iterable[str]) -> str:
    """For refused topic filters."""
    return (
        f"{target.peer} refuses the subscription to {', '.join(filters)}. "
        f"Check what its access rules allow the user {_user(target)}."
    )


def _user(target: Target) -> str:
    return repr(target.username) if target.username else "(anonymous)"
