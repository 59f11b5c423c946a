"""What a gateway's spool holds by value, read from outside while the agent may run."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from edge_agent import chunk
from telemetry.columns import DEAD, DeadLetter
from tests.reference import Value


def spooled(path: Path) -> tuple[Counter[Value], list[DeadLetter]]:
    """The readings and the dead letters in the spool of a directory that no receipt has freed yet."""
    readings: Counter[Value] = Counter()
    dead: list[DeadLetter] = []
    with closing(sqlite3.connect(f"file:{path / 'spool.db'}?mode=ro", uri=True)) as db:
        db.execute("BEGIN")  # one snapshot
        series = {id_: names for id_, *names in db.execute("SELECT id, device, metric FROM series")}
        for (body,) in db.execute("SELECT body FROM chunks ORDER BY first_seq"):
            columns = chunk.unpack(body)
            dead += columns.dead.values()
            for id_, at_ms, value in zip(columns.series, columns.measured_at, columns.value, strict=True):
                if id_ != DEAD:
                    device, metric = series[id_]
                    readings[device, metric, at_ms, value] += 1
    return readings, dead
