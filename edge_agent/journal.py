"""The journal: the fingerprints of the last messages that the spool took, so that none is taken twice.

A row of the table `journal` is one commit's keys, written in the same transaction as their records. Oldest
rows go as soon as JOURNAL_KEYS_MAX keys are left without them. In memory the keys are in pages of some hundred,
each with the id of its row, that are dropped as a whole: to take a key out of a table costs more than to put it in.
"""

import sqlite3
from array import array
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

JOURNAL_KEYS_MAX = 16_384
PAGE_KEYS = 512
"""A page takes no more rows when it has as many."""


@dataclass(slots=True)
class _Page:
    last_id: int
    row_of: dict[int, int]


class Journal:
    """The keys of an open spool. Loaded from its database, which only `write` changes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows: deque[tuple[int, int]] = deque()  # (id, number of keys)
        self._size = 0
        self._forgotten = 0  # the id up to which rows are gone
        self._pages: deque[_Page] = deque()
        for id_, blob in db.execute("SELECT id, keys FROM journal ORDER BY id"):
            keys = array("Q")
            keys.frombytes(blob)
            self._add(id_, keys)

    def __contains__(self, key: int) -> bool:
        pages = tuple(self._pages)  # the event loop asks while the spool's thread may be adding one
        return any(page.row_of.get(key, 0) > self._forgotten for page in pages)

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
            cut = self._cut(len(keys))
            self._add(self._next_id, keys)
            self._forget(cut)

    @property
    def _next_id(self) -> int:
        return self._rows[-1][0] + 1 if self._rows else 1

    def _cut(self, coming: int) -> int:
        """The id up to which rows may go once `coming` keys are added; 0: none."""
        left, cut = self._size + coming, 0
        for id_, count in self._rows:
            if left - count < JOURNAL_KEYS_MAX:
                break
            left, cut = left - count, id_
        return cut

    def _add(self, id_: int, keys: Collection[int]) -> None:
        self._rows.append((id_, len(keys)))
        self._size += len(keys)
        if not self._pages or len(self._pages[-1].row_of) >= PAGE_KEYS:
            self._pages.append(_Page(id_, {}))
        page = self._pages[-1]
        page.last_id = id_
        page.row_of.update(dict.fromkeys(keys, id_))

    def _forget(self, cut: int) -> None:
        self._forgotten = max(cut, self._forgotten)
        while self._rows and self._rows[0][0] <= cut:
            self._size -= self._rows.popleft()[1]
        while self._pages and self._pages[0].last_id <= cut:
            self._pages.popleft()
