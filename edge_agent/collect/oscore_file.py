"""The file with the devices' OSCORE keys (RFC 8613 3.2), a table for each device, in TOML:

  ["meter-1"]                          the device's name in telemetry/{device}: with this key only it may report
  recipient_id = "01"                  the device's Sender ID, in hex
  sender_id = "00"                     the gateway's own; "" is an ID, too
  master_secret = "…"                  of this device alone
  master_salt = ""                     and if both sides have one
  id_context = "…"                     and if both sides have one
  algorithm = "AES-CCM-16-64-128"      one of ALGORITHMS, by COSE's names; the KDF is HKDF with SHA-256

Limits: DEVICES_MAX devices; _SIZES of each, in bytes; IDs of one byte less with a nonce of twelve (3.3).
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.collect.psk_file import read_private
from telemetry.errors import ConfigError

DEVICES_MAX = 100_000
NONCE_REST_BYTES = 6
"""What a nonce holds beside an ID: its length, and five bytes of a Partial IV (RFC 8613 5.2)."""
_SIZES = {
    "recipient_id": (0, 7),
    "sender_id": (0, 7),
    "master_secret": (16, 64),
    "master_salt": (0, 64),
    "id_context": (0, 64),
}
"""How many bytes each may have."""
_NEEDED = ("recipient_id", "sender_id", "master_secret")


class Algorithm(NamedTuple):
    """An AEAD algorithm: its number at COSE, and how long its keys and nonces are."""

    number: int
    key_bytes: int
    nonce_bytes: int


ALGORITHMS = {
    "AES-CCM-16-64-128": Algorithm(10, 16, 13),
    "AES-CCM-16-128-128": Algorithm(30, 16, 13),
    "A128GCM": Algorithm(1, 16, 12),
    "ChaCha20/Poly1305": Algorithm(24, 32, 12),
}
DEFAULT = "AES-CCM-16-64-128"
"""The one that everybody must have (RFC 8613 3.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeys:
    """What is agreed upon with a device. recipient_id: the device's Sender ID. id_context: None where there is none."""

    device: str
    recipient_id: bytes
    sender_id: bytes
    master_secret: bytes
    master_salt: bytes = b""
    id_context: bytes | None = None
    algorithm: str = DEFAULT


def load_devices(path: Path) -> list[DeviceKeys]:
    """The keys of all devices. Raises ConfigError, also when others than the file's owner may read it."""
    try:
        tables = tomllib.loads(read_private(path, "keys_file"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"keys_file {path} is not valid TOML: {error}") from error
    if not 0 < len(tables) <= DEVICES_MAX:
        raise ConfigError(f"keys_file {path} has {len(tables)} devices; it needs 1 to {DEVICES_MAX}")
    taken: set[object] = set()
    devices = []
    for device, table in tables.items():
        try:
            devices.append(_keys(device, table, taken))
        except ValueError as error:
            raise ConfigError(f"keys_file {path}: {device}: {error}") from None
    return devices


def _keys(device: str, table: object, taken: set[object]) -> DeviceKeys:
    """A device's table. taken: what no other device may have. Raises ValueError, a sentence in which no secret is."""
    if not isinstance(table, dict):
        raise ValueError(f"must be a table with {', '.join(_NEEDED)}")  # noqa: TRY004 - one kind for all
    if unknown := table.keys() - {*_SIZES, "algorithm"}:
        raise ValueError(f"{min(unknown)} is not a known key")
    if missing := [key for key in _NEEDED if key not in table]:
        raise ValueError(f"{missing[0]} is missing")
    name = table.get("algorithm", DEFAULT)
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}")
    id_bytes_max = ALGORITHMS[name].nonce_bytes - NONCE_REST_BYTES
    sizes = _SIZES | dict.fromkeys(("recipient_id", "sender_id"), (0, id_bytes_max))
    said = {key: _bytes(key, table[key], *sizes[key]) for key in _SIZES if key in table}
    if said["recipient_id"] == said["sender_id"]:
        raise ValueError("recipient_id and sender_id must be different")
    for key, value in (
        ("recipient_id", (said["recipient_id"], said.get("id_context"))),
        ("master_secret", said["master_secret"]),
    ):
        if value in taken:
            raise ValueError(f"{key} is that of another device")
        taken.add(value)
    return DeviceKeys(device=device, algorithm=name, **said)


def _bytes(key: str, digits: object, size_min: int, size_max: int) -> bytes:
    try:
        data = bytes.fromhex(digits) if isinstance(digits, str) else None
    except ValueError:
        data = None
    if data is None or not size_min <= len(data) <= size_max:
        made = ". Make one with: openssl rand -hex 16" if key == "master_secret" else ""
        raise ValueError(f"{key} must be a text of {size_min} to {size_max} bytes in hex{made}")
    return data
