"""Drills of code that is broken on purpose: each must fail, and say where. python -m tests.broken [BUG …]

The bugs are those of tests/sim/bugs.py, planted in the real processes (tests/buggy.py). Each gets the fault that
brings it to light; the other faults of a drill only make it take longer.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from proof import demo, drill, stack
from tests.sim.bugs import ONLY_REAL, PLANTED

MISSING, DOUBLE = "missing from the table", "in the table too often"
FOUND_BY: dict[str, tuple[str, str]] = {
    "ack_before_write": ("kill agent", MISSING),
    "acks_out_of_order": ("cut device link", "out of order"),
    "journal_after_the_records": ("lose acks, kill agent", DOUBLE),
    "seqs_with_holes": ("kill ingest", "nothing was confirmed"),
    "silent_losses": ("corrupt spool", MISSING),
    "damage_is_fatal": ("corrupt spool", "nothing was confirmed"),
    "windows_in_memory": ("kill agent", "windows lack readings"),
    "thinned_uncounted": ("kill ingest", "left out"),
    "trim_on_broker_ack": ("kill waiting ingest", MISSING),
    "receipt_before_ledger": ("kill waiting ingest", MISSING),
    "ledger_before_rows": ("kill waiting ingest", MISSING),
    "rows_before_intent": ("kill ingest in commit", DOUBLE),
    "one_token_for_all": ("hang ingest", MISSING),
    "no_token": ("lose ClickHouse's word", DOUBLE),
    "no_fence": ("succeed hung ingest", DOUBLE),
    "no_recovery": ("kill ingest in commit", DOUBLE),
    "whole_batches": ("recut batches", DOUBLE),
    "forgotten_definitions": ("kill ingest", "nothing was confirmed"),
}
"""The fault that brings a bug to light, and what the drill must then say."""
IN_PROCESSING = {"windows_in_memory", "thinned_uncounted"}
"""Only the mixed devices have rules; the other bugs do not need them."""
ONLY_SIMULATED = {"guessed_names"}
"""It takes a worker that forgets: real ones forget a dictionary when they hold a million names."""
assert set(FOUND_BY) | ONLY_SIMULATED == {*PLANTED, *ONLY_REAL}
SECONDS = 10
RECOVERED_S_MAX, QUIET_S_MAX = 20.0, 5.0
"""Patience with what is broken, shorter than the drill's own."""
SEEDS_MAX = 6
"""On a busy machine ten seconds hold one fault, which need not be the one that shows the bug."""


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """Every program of a drill has the bug."""
    command = (sys.executable, "-m", "tests.buggy", bug)
    with (
        mock.patch.object(stack, "FIELDLINE", command),
        mock.patch.object(demo, "QUIET_S_MAX", QUIET_S_MAX),
        mock.patch.object(drill, "RECOVERED_S_MAX", RECOVERED_S_MAX),
    ):
        yield


def found(bug: str, seed: int) -> str:
    """What a drill says of the broken code; empty when it does not find the bug."""
    fault, sign = FOUND_BY[bug]
    with planted(bug), tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        options = drill.Options(SECONDS, seed, report, (fault,), has_mixed=bug in IN_PROCESSING)
        status = asyncio.run(drill.run(options))
        said = json.loads(report.read_text())
    assert said["passed"] == (status == 0)
    return next((difference for difference in said["differences"] if sign in difference), "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.broken", description=__doc__)
    parser.add_argument("bugs", nargs="*", help=f"default: all of {', '.join(FOUND_BY)}")
    given = parser.parse_args()
    if unknown := set(given.bugs) - set(FOUND_BY):
        parser.error(f"there is no bug {', '.join(sorted(unknown))}")
    missed = []
    for bug in given.bugs or FOUND_BY:
        said = next(filter(None, (found(bug, seed) for seed in range(1, SEEDS_MAX + 1))), "")
        print(f"{bug:<26} {said or 'NOT FOUND'}", flush=True)
        missed += [] if said else [bug]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
