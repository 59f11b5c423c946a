"""The stack's loopback ports: given ones, checked, or free ones."""

import contextlib
import itertools
import os
import socket
from dataclasses import dataclass

from telemetry.errors import FieldlineError

FIRST, LAST, SHARE = 10_240, 32_767, 64
_turns = itertools.count()


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1; coap is UDP."""

    mqtt: int = 1883
    coap: int = 5683
    trunk: int = 1884
    clickhouse: int = 8123
    web: int = 8080

    def check_free(self) -> None:
        """Raises FieldlineError, a sentence, for the first one that is taken or given twice."""
        tcp = {
            "--mqtt-port": self.mqtt,
            "--trunk-port": self.trunk,
            "--clickhouse-port": self.clickhouse,
            "--web-port": self.web,
        }
        for option, port in tcp.items():
            if (same := [other for other in tcp if tcp[other] == port]) != [option]:
                raise FieldlineError(f"{' and '.join(same)} are both {port}. Give each a port of its own.")
        _check(self.mqtt, socket.SOCK_STREAM, "the device broker", "--mqtt-port")
        _check(self.coap, socket.SOCK_DGRAM, "the agent's CoAP server", "--coap-port")
        _check(self.trunk, socket.SOCK_STREAM, "the trunk broker", "--trunk-port")
        _check(self.clickhouse, socket.SOCK_STREAM, "ClickHouse", "--clickhouse-port")
        _check(self.web, socket.SOCK_STREAM, "the dashboard", "--web-port")


def _check(port: int, kind: socket.SocketKind, what: str, option: str) -> None:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            protocol = "UDP" if kind is socket.SOCK_DGRAM else "TCP"
            raise FieldlineError(
                f"{protocol} port {port} ({what}) is taken. Stop what uses it, or choose another with {option}."
            ) from None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now, neither for TCP nor for UDP. Raises FieldlineError if there is none.

    Somebody else could take it before it is used. So it is below those that Linux gives to connections, and of this
    process's share: processes that were started one after another have different ones.
    """
    share = FIRST + os.getpid() % ((LAST + 1 - FIRST) // SHARE) * SHARE
    for number in itertools.islice(_turns, SHARE):
        port = share + number % SHARE
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
    raise FieldlineError(
        f"All ports from {share} to {share + SHARE - 1} are taken. Stop what uses them, and try again."
    )


def free_ports() -> Ports:
    """Five ports that nobody uses now."""
    return Ports(*(free_port() for _ in range(5)))
