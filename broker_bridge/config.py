"""How to reach an MQTT broker: the keys that every section with a broker has."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from broker_bridge.mqtt.client import Options
from broker_bridge.mqtt.tls import client_context
from telemetry.config import Port, Section
from telemetry.errors import ConfigError


class Tls(Section):
    """TLS towards a broker; without `ca_file` the system's certificates are trusted."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class Broker(Section):
    """A broker. The password may come from a file that only its reader may open."""

    host: str = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30

    @model_validator(mode="after")
    def _one_password(self) -> "Broker":
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        return self

    def secret(self) -> str | None:
        """The password, read from its file if it is kept in one. Raises ConfigError."""
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read password_file {self.password_file}: {error}") from error

    def options(self, client_id: str, **more: Any) -> Options:
        """As the MQTT client takes it. Raises ConfigError for files that cannot be used."""
        tls = None
        if self.tls is not None:
            tls = client_context(self.tls.ca_file, self.tls.cert_file, self.tls.key_file)
        return Options(
            self.host,
            self.port,
            client_id,
            username=self.username,
            password=self.secret(),
            ssl=tls,
            keepalive_s=self.keepalive_s,
            **more,
        )
