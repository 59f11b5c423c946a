"""A store that speaks S3, for tests: s3rver from npm, as a process on a free port of 127.0.0.1."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proof.ports import free_port
from tests.brokers import HOST, listening, wait_until
from tests.npm import installed

PACKAGE = "s3rver@3.7.1"
KEYS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}


@contextmanager
def store(path: Path) -> Iterator[str]:
    """The address of a bucket that keeps its objects below `path`."""
    port = free_port()
    program = installed(PACKAGE) / ".bin" / "s3rver"
    command = [str(program), "-d", str(path), "-a", HOST, "-p", str(port), "--configure-bucket", "lake", "--silent"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or listening(port), "the store listens")
        assert process.poll() is None
        yield f"http://{HOST}:{port}/lake"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
