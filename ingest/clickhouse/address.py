"""Where ClickHouse is: `http(s)://user:password@host:port/database?ca_file=/path/ca.pem`, parsed. Pure.

Special characters in user and password are percent-encoded. What is left out: the user (then the server's
default user), the port (8123, with https 8443), the database (`fieldline`) and `ca_file` (the system's CAs).
"""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from telemetry.errors import ConfigError

DATABASE = "fieldline"
URL_DEFAULT = "http://127.0.0.1:8123"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL. `shown` is the URL without user and password."""

    interface: str
    host: str
    port: int
    username: str | None
    password: str = field(repr=False)
    database: str = DATABASE
    ca_file: str | None = None

    @property
    def shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.interface}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def address(url: str | None = None) -> Address:
    """Parse a URL; without one the environment's CLICKHOUSE_URL, else URL_DEFAULT. Raises ConfigError."""
    text = url or os.environ.get("CLICKHOUSE_URL") or URL_DEFAULT
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"The ClickHouse URL cannot be read: {error}. {_FORM}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"The ClickHouse URL must begin with http:// or https:// and name a host. {_FORM}")
    options = dict(parse_qsl(parts.query))
    ca_file = options.pop("ca_file", None)
    if options:
        raise ConfigError(f"The ClickHouse URL has an unknown option {', '.join(options)}; only ca_file is known.")
    return Address(
        interface=parts.scheme,
        host=parts.hostname,
        port=port or (8443 if parts.scheme == "https" else 8123),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or ""),
        database=unquote(parts.path.strip("/")) or DATABASE,
        ca_file=ca_file,
    )


_FORM = "Write it as http://user:password@host:8123/database, with special characters percent-encoded."
