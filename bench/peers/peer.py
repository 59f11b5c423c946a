"""One system of the comparison: what it runs, and which of its processes count as what.

Its configuration lies in bench/peers/NAME/, with a README that says why it is so. `@MQTT_PORT@` and the like stand in
it for what is known only when it runs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proof.ports import Ports

HERE = Path(__file__).parent
PLACEHOLDER = re.compile(r"@([A-Z_]+)@")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is installed, where it may work, and where everybody listens."""

    installed: Path
    directory: Path
    ports: Ports

    @property
    def known(self) -> Mapping[str, str]:
        """The placeholders. SPARE_PORT is for a peer that must listen somewhere."""
        return {
            "MQTT_PORT": str(self.ports.mqtt),
            "CLICKHOUSE_PORT": str(self.ports.clickhouse),
            "TRUNK_PORT": str(self.ports.trunk),
            "SPARE_PORT": str(self.ports.coap),
            "DIRECTORY": str(self.directory),
        }

    def render(self, template: Path, folder: str = "") -> Path:
        """A copy in `directory`, or a folder of it, with its placeholders filled in."""
        path = self.directory / folder / template.name
        path.write_text(render(template.read_text(), self.known))
        return path


@dataclass(frozen=True, slots=True)
class Process:
    """A program that the harness starts and, when it dies, starts again, as an init system would."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """processes: what it starts, in this order.

    offered: messages in a round of the throughput run, so many that a round takes some seconds. gateway: those of its
    programs that run near the devices. stand_ins: those that play a system which is not here; they are counted apart,
    and not killed. packages: whose versions are reported.
    """

    name: str
    title: str
    offered: int
    processes: Callable[[Place], Sequence[Process]]
    packages: tuple[str, ...]
    gateway: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    table: str = "peers.readings"

    @property
    def folder(self) -> Path:
        """Its configuration."""
        return HERE / self.name

    @property
    def own(self) -> tuple[str, ...]:
        """What counts as the peer, and is killed."""
        return (*self.elsewhere, *self.gateway)


def render(text: str, known: Mapping[str, str]) -> str:
    """Fill in the placeholders. Raises KeyError for one that is not known."""
    return PLACEHOLDER.sub(lambda found: known[found[1]], text)
