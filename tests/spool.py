"""Spools for tests: opened in a folder, and read to the end."""

import os
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge_agent.config import Spool as SpoolConfig
from edge_agent.spool import Spool, open_spool
from telemetry.records import Loss
from tests.records import Record, numbered, records

MIB = 1024 * 1024
BLOB = random.Random(1).randbytes(240_000)
"""What zstd cannot make smaller."""
ALL = 10**9


def config(path: Path, **more: object) -> SpoolConfig:
    return SpoolConfig.model_validate({"path": path, "free_bytes_min": 0, **more})


@contextmanager
def opened(path: Path, gateway: str = "g", **more: object) -> Iterator[Spool]:
    with closing(open_spool(config(path, **more), gateway)) as spool:
        yield spool


def content(spool: Spool, records_max: int = ALL, bytes_max: int = ALL) -> dict[int, Record | str]:
    """seq -> record, or the reason why it is lost, for all that waits; asserts that there is no hole."""
    found: dict[int, Record | str] = {}
    at = spool.mark
    while (run := spool.read(at, records_max, bytes_max)) is not None:
        assert run.first_seq == at + 1
        if isinstance(run, Loss):
            found.update(dict.fromkeys(range(run.first_seq, run.last_seq + 1), run.reason))
        else:
            found.update(enumerate(records(run.columns), run.first_seq))
        at = run.last_seq
    assert list(found) == list(range(spool.mark + 1, spool.next_seq))
    return found


def append_for_ever(path: str, seed: int) -> None:
    """A child process's life: append, read, trim; say each on stdout once it is done. Ends by a signal.

    A record's number is its seq, and a commit's last seq is its one key.
    """
    chance = random.Random(seed)
    spool = open_spool(config(Path(path)), "g")
    while True:
        first = spool.next_seq
        count = chance.randint(1, 400)
        _, last = spool.append(numbered(first, count), [first + count - 1])
        os.write(1, b"committed %d\n" % last)
        if chance.random() < 0.3 and (run := spool.read(spool.mark, chance.randint(1, 1000), ALL)):
            spool.trim(run.last_seq)
            os.write(1, b"trimmed %d\n" % run.last_seq)
