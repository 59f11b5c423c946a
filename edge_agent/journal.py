"""The journal: the fingerprints of the last messages that the spool took, so that none is taken twice.

A row of the table `journal` is one commit's keys, written in the same transaction as their records. Oldest
rows go as soon as JOURNAL_KEYS_MAX keys are left without them. In memory they are arrays, 8 bytes a key. Only who
asks needs a table of them, ten times as large, and hardly anybody does but after a reconnect: it is made for the
first question, and dropped after UNASKED_MAX commits without another.
"""

import sqlite3
import threading
from array import array
from collections import deque
from collections.abc import Sequence

JOURNAL_KEYS_MAX = 16_384
UNASKED_MAX = 1_000


class Journal:
    """The keys of an open spool. Loaded from its database, which only `write` changes.

    The event loop asks while the spool's thread adds, hence the lock.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows: deque[tuple[int, array[int]]] = deque()
        self._size = 0
        self._known: dict[int, int] | None = None  # key -> id of the row that holds it last
        self._unasked = 0
        self._lock = threading.Lock()
        for id_, blob in db.execute("SELECT id, keys FROM journal ORDER BY id"):
            keys = array("Q")
            keys.frombytes(blob)
            self._add(id_, keys)

    def __contains__(self, key: int) -> bool:
        with self._lock:
            self._unasked = 0
            if self._known is None:
                self._known = {known: id_ for id_, keys in self._rows for known in keys}
            return key in self._known

    def write(self, keys: Sequence[int], epoch: str, last_seq: int) -> None:
        """Write a commit's keys, within its transaction; `remember` them once it is durable.

        epoch, last_seq: of the commit. They are what a salvage knows the end of the spool by, if the last chunks
        cannot be read any more.
        """
        if keys:
            row = self._next_id, last_seq, epoch, array("Q", keys).tobytes()
            self._db.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", row)
            self._db.execute("DELETE FROM journal WHERE id <= ?", (self._cut(len(keys)),))

    def remember(self, keys: Sequence[int]) -> None:
        """The commit is durable: its keys are known from now on, the oldest are forgotten."""
        if keys:
            with self._lock:
                cut = self._cut(len(keys))
                self._add(self._next_id, array("Q", keys))
                self._forget(cut)
                self._unasked += 1
                if self._unasked > UNASKED_MAX:
                    self._known = None

    @property
    def _next_id(self) -> int:
        return self._rows[-1][0] + 1 if self._rows else 1

    def _cut(self, coming: int) -> int:
        """The id up to which rows may go once `coming` keys are added; 0: none."""
        left, cut = self._size + coming, 0
        for id_, keys in self._rows:
            if left - len(keys) < JOURNAL_KEYS_MAX:
                break
            left, cut = left - len(keys), id_
        return cut

    def _add(self, id_: int, keys: "array[int]") -> None:
        self._rows.append((id_, keys))
        self._size += len(keys)
        if self._known is not None:
            self._known.update(dict.fromkeys(keys, id_))

    def _forget(self, cut: int) -> None:
        while self._rows and self._rows[0][0] <= cut:
            id_, keys = self._rows.popleft()
            self._size -= len(keys)
            if (known := self._known) is not None:
                for key in keys:
                    if known.get(key) == id_:
                        del known[key]
