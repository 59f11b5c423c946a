"""`fieldline` as a user calls it: a process of its own, its exit status, and what it said."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def fieldline(*arguments: object, cwd: Path = ROOT, stdin: str = "", **environment: str) -> Done:
    """Run a command to its end; it must take less than a minute, and never show a traceback."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=plain_environment() | environment,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def command(*arguments: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "fieldline", *map(str, arguments)]


def plain_environment() -> dict[str, str]:
    """Ours, without what would change the answers; wide, so that no sentence is cut."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLICKHOUSE_", "FIELDLINE_"))}
    return kept | {"COLUMNS": "300", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
