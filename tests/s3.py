"""A store that speaks S3, for tests: s3rver from npm, as a process on a free port of 127.0.0.1."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proof.ports import free_port
from tests.brokers import HOST, listening, wait_until

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "s3rver@3.7.1"
KEYS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}
INSTALL_S_MAX = 120


def installed() -> Path:
    """The program; installed into var/ the first time."""
    folder = ROOT / "var" / "npm" / PACKAGE
    program = folder / "node_modules" / ".bin" / "s3rver"
    if not program.exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: tests/install-tools installs it"
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(folder), PACKAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S_MAX)
    return program


@contextmanager
def store(path: Path) -> Iterator[str]:
    """The address of a bucket that keeps its objects below `path`."""
    port = free_port()
    command = [str(installed()), "-d", str(path), "-a", HOST, "-p", str(port), "--configure-bucket", "lake", "--silent"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or listening(port), "the store listens")
        assert process.poll() is None
        yield f"http://{HOST}:{port}/lake"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
