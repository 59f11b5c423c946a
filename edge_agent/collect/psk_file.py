"""The file with the devices' pre-shared keys: lines `identity:key in hex`, as Mosquitto's psk_file has them.

Limits: KEYS_MAX keys of KEY_BYTES_MIN to KEY_BYTES_MAX bytes, identities of IDENTITY_BYTES_MAX bytes.
"""

import stat
from pathlib import Path

from telemetry.errors import ConfigError

KEY_BYTES_MIN, KEY_BYTES_MAX = 16, 64
IDENTITY_BYTES_MAX = 128
KEYS_MAX = 100_000


def load_keys(path: Path) -> dict[bytes, bytes]:
    """Identity -> key. Raises ConfigError, also when others than the file's owner may read it."""
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(read_private(path, "psk_file").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digits = line.strip().rpartition(":")
        identity = name.encode()
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            key = b""
        good = 0 < len(identity) <= IDENTITY_BYTES_MAX and KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX
        if not good or identity in keys:
            what = "names an identity again" if identity in keys else "is not identity:key"
            raise ConfigError(
                f"psk_file {path}, line {number} {what}. A line is an identity of at most {IDENTITY_BYTES_MAX} "
                f"bytes, a colon, and {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes in hex. Make a key with: "
                "openssl rand -hex 16"
            )
        keys[identity] = key
    if not 0 < len(keys) <= KEYS_MAX:
        raise ConfigError(f"psk_file {path} has {len(keys)} keys; it needs 1 to {KEYS_MAX}")
    return keys


def read_private(path: Path, key: str) -> str:
    """A file that the config has as `key`. Raises ConfigError, also when others than its owner may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {key} {path}: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"{key} {path} has mode {mode:04o}, so others may read the keys. Use: chmod 600 {path}")
    return text
