"""SIGKILL at random moments: whatever `append` returned for is there, with its values, and nothing is torn.

A child process appends numbered records and prints what each commit's return told it. It also reads and trims
like the uplink does. The seeds of the moments are fixed; where exactly they hit is up to the machine.
"""

import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from edge_agent.spool import open_spool
from tests.brokers import wait_until
from tests.records import numbered, records
from tests.spool import config, content

ROOT = Path(__file__).parents[3]
ROUNDS = 15
CHILD = "import sys; from tests.spool import append_for_ever; append_for_ever(sys.argv[1], int(sys.argv[2]))"


def run_and_kill(path: Path, seed: int) -> list[tuple[str, int]]:
    """A child until it is killed after a random number of its lines; what it said: (word, seq) in order."""
    output = path.with_name(f"child-{seed}")
    with output.open("wb") as sink:
        child = subprocess.Popen([sys.executable, "-c", CHILD, path, str(seed)], stdout=sink, cwd=ROOT)
    try:
        size = random.Random(seed).randrange(1, 1500)
        wait_until(lambda: child.poll() is not None or output.stat().st_size >= size, "the child has said enough")
        assert child.poll() is None, "it runs until it is killed"
    finally:
        child.kill()
        child.wait()
    lines = output.read_text().split("\n")[:-1]  # a last line without its end was not said
    return [(word, int(seq)) for word, seq in map(str.split, lines)]


def test_what_was_committed_is_there_after_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    epochs, mark, last_seq = set(), 0, 0
    for seed in range(ROUNDS):
        said = run_and_kill(path, seed)
        with closing(open_spool(config(path), "g")) as spool:
            epochs.add(spool.epoch)
            committed = max([last_seq, *(seq for word, seq in said if word == "committed")])
            trimmed = max([mark, *(seq for word, seq in said if word == "trimmed")])
            assert spool.next_seq - 1 >= committed, "what append returned for is there"
            assert spool.mark >= trimmed
            mark, last_seq = spool.mark, spool.next_seq - 1
            found = content(spool)  # and there is no hole
            assert list(found.values()) == records(numbered(mark + 1, last_seq - mark))
            assert all(spool.knows(seq) for word, seq in said if word == "committed")
            assert spool.knows(last_seq), "the journal is as far as the records"
    assert len(epochs) == 1
    assert not list(path.glob("corrupt-*"))
    assert not list(path.glob("damaged-*"))
    assert last_seq > ROUNDS
