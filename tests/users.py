"""Users of the embedded server for tests: one of each role, all with one password."""

from pathlib import Path

from ingest.clickhouse.users import hashed
from tests.brokers import HOST

NAMES = {"root": "admin", "worker": "writer", "ann": "reader"}
PASSWORD = "p@ss/word"


def users_file(folder: Path, limits: str = "seconds_max = 5\nresult_rows_max = 10000") -> Path:
    """A file for `--users`."""
    path = folder / "users.toml"
    lines = [f'[users.{name}]\nrole = "{role}"\npassword_hash = "{hashed(PASSWORD)}"' for name, role in NAMES.items()]
    path.write_text("\n".join([*lines, "[limits]", limits]))
    path.chmod(0o600)
    return path


def url(port: int, user: str, password: str = "p%40ss%2Fword") -> str:
    """CLICKHOUSE_URL with a login."""
    return f"http://{user}:{password}@{HOST}:{port}"
