"""Who may come in, from a file of users (TOML), and what each may use. Passwords are kept as scrypt hashes only.

    [users.ann]
    role = "reader"              # admin: everything; writer: ingest and migrations; reader: queries only
    password_hash = "scrypt:…"   # `fieldline clickhouse password` makes it

    [limits]                     # of each query of a reader
    seconds_max = 60

A password is hashed once; afterwards its HMAC, with a key of this process, is compared, so that a request does
not cost scrypt's 50 ms. An unknown user costs as much as a wrong password. Comparisons take constant time.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ingest.clickhouse.request import Credentials
from telemetry.config import Name, Section, load_toml
from telemetry.errors import ConfigError

Role = Literal["admin", "writer", "reader"]
_COST, _BLOCK, _BYTES = 2**14, 8, 32


class Limits(Section):
    """What one query of a reader may take, and how many may run at once for each reader."""

    seconds_max: Annotated[int, Field(ge=1)] = 60
    memory_bytes_max: Annotated[int, Field(ge=2**20)] = 1024**3
    result_rows_max: Annotated[int, Field(ge=10_000)] = 1_000_000  # clickhouse-connect reads 2,000 settings first
    result_bytes_max: Annotated[int, Field(ge=1024)] = 256 * 1024**2
    threads_max: Annotated[int, Field(ge=1)] = 4
    queries_max: Annotated[int, Field(ge=1)] = 4


class User(Section):
    """One login."""

    role: Role
    password_hash: str = Field(repr=False)

    @field_validator("password_hash")
    @classmethod
    def _is_a_hash(cls, text: str) -> str:
        try:
            _parts(text)
        except (ValueError, binascii.Error):
            raise ValueError("must be a line that `fieldline clickhouse password` printed") from None
        return text


class Users(Section):
    """The whole file."""

    users: Annotated[dict[Name, User], Field(min_length=1)]
    limits: Limits = Limits()


def load(path: Path) -> Users:
    """Read the file, which nobody but its owner may read or write. Raises ConfigError."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the users: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others than its owner may read or change it. Run: chmod 600 {path}")
    return load_toml(path, Users)


def hashed(password: str, salt: bytes | None = None) -> str:
    """A password as it is kept: `scrypt:salt:hash`, both in base64."""
    salt = os.urandom(16) if salt is None else salt
    return ":".join(("scrypt", *(base64.b64encode(part).decode() for part in (salt, _scrypt(password, salt)))))


def _parts(text: str) -> tuple[bytes, bytes]:
    scheme, salt, digest = text.split(":")
    parts = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    if scheme != "scrypt" or len(parts[1]) != _BYTES:
        raise ValueError
    return parts


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, dklen=_BYTES)


class Accounts:
    """Checks logins. `verify` blocks for scrypt's time; `remembered` does not."""

    def __init__(self, users: Users) -> None:
        self.users = users
        self._key = secrets.token_bytes(32)
        self._known: dict[str, bytes] = {}
        self._nobody = hashed(secrets.token_hex())

    @classmethod
    def single(cls, user: str, password: str) -> "Accounts":
        """One admin."""
        return cls(Users(users={user: User(role="admin", password_hash=hashed(password))}))

    def remembered(self, presented: Credentials) -> Role | None:
        """The role, if just this password was right before."""
        known = self._known.get(presented.user)
        if known is None or not hmac.compare_digest(known, self._mac(presented.password)):
            return None
        return self.users.users[presented.user].role

    def verify(self, presented: Credentials) -> Role | None:
        """The role, None for a wrong password or user."""
        user = self.users.users.get(presented.user)
        salt, digest = _parts(user.password_hash if user else self._nobody)
        if not hmac.compare_digest(_scrypt(presented.password, salt), digest) or user is None:
            return None
        self._known[presented.user] = self._mac(presented.password)
        return user.role

    def _mac(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode(), "sha256")
