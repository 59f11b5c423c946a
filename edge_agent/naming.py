"""What is said of a device in gateway.toml beside its mapping: tags, and the section [devices."NAME"]. Pure.

Of tags with the same name the device's wins, then the topic's, then the mapping's, then the gateway's. A device's
`rename` and `units` are added to those of the mapping and win, its `only` stands in place of the mapping's, and what it
ignores is left out besides. A name that [devices] gives to one device is refused for another, so that two never become
one. Sparkplug's devices have no mapping, the rest holds for them as well.
"""

from collections.abc import Mapping
from types import MappingProxyType

from edge_agent import config
from telemetry import tags
from telemetry.errors import FieldlineError

NO_TAGS: Mapping[str, str] = MappingProxyType({})
NO_DEVICE = config.Device()


class Naming:
    """The tags of the gateway, and what is otherwise for some devices."""

    def __init__(
        self, gateway_tags: Mapping[str, str] = NO_TAGS, devices: Mapping[str, config.Device] | None = None
    ) -> None:
        self._tags = gateway_tags
        self._devices = devices or {}
        self._given = {device.name: old for old, device in self._devices.items() if device.name is not None}
        self.is_empty = not gateway_tags and not devices

    def of(self, device: str) -> config.Device:
        """The section of a device. Raises FieldlineError for one that would get the name of another."""
        found = self._devices.get(device, NO_DEVICE)
        other = self._given.get(found.name or device, device)
        if other != device:
            raise FieldlineError(f"the device {device[:60]!r} has the name that devices.{other} gives to another")
        return found

    def tags(self, device: config.Device, mapping: Mapping[str, str], topic: Mapping[str, str]) -> str:
        """The text of the tags of a device's series. Raises FieldlineError."""
        try:
            return tags.pack({**self._tags, **mapping, **topic, **device.tags})
        except ValueError as error:
            raise FieldlineError(str(error)) from None
