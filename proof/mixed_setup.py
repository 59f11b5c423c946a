"""What the drill has to know to run its mixed devices."""

import sys
from dataclasses import dataclass
from pathlib import Path

from proof import rules
from proof.stack import Stack


@dataclass(frozen=True, slots=True)
class Mixed:
    """How to run the mixed devices: their resources' port, the agent's port with DTLS, and its keys' file.

    oscore_file: its keys for OSCORE, None where nobody speaks that.
    plain_mqtt: MQTT 3.1.1 and QoS 1 only, for the embedded broker.
    """

    resources: int
    psk_file: Path
    coaps: int | None
    oscore_file: Path | None
    plain_mqtt: bool

    def gateway_toml(self) -> str:
        """What the agent must know of them."""
        return rules.gateway_toml(
            resources_port=self.resources,
            dtls_port=self.coaps,
            psk_file=str(self.psk_file),
            oscore_file=None if self.oscore_file is None else str(self.oscore_file),
        )

    def command(self, stack: Stack, journal: Path, seed: int) -> list[str]:
        """The program."""
        assert stack.links is not None
        numbers = {
            "mqtt": stack.ports.mqtt,
            "bad-mqtt": stack.links.mqtt,
            "coap": stack.ports.coap,
            "resources": self.resources,
            "seed": seed,
        }
        command = [sys.executable, "-m", "proof.mixed", "--journal", str(journal)]
        command += [part for name, number in numbers.items() for part in (f"--{name}", str(number))]
        if self.coaps is not None:
            command += ["--coaps", str(self.coaps), "--key-file", str(self.psk_file)]
        if self.oscore_file is not None:
            command += ["--oscore-file", str(self.oscore_file)]
        return [*command, "--plain-mqtt"] if self.plain_mqtt else command
