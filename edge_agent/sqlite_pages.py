"""Reads what is left of an SQLite database without SQLite: every table row whose pages are whole.

SQLite gives up at the first damaged page on its way. This scan needs neither header nor B-tree: it looks at each
page by itself, takes those that are leaves of a table, and follows the overflow pages of their rows. Pages that
the write-ahead log holds newer take the place of the file's; of the log, frames count up to the last commit that
its chain of checksums reaches, as for SQLite.

Rows of pages that SQLite has freed, and not used again, are found too. Whoever reads must be able to tell whether
a row is whole, and whether it still counts: nothing here has a checksum, but the log.

Source: "Database File Format" on sqlite.org, sections 1.6 (B-tree pages), 2.1 (records), 4.1 and 4.2 (the log).
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

Value = int | float | str | bytes | None
Row = tuple[int, list[Value]]
"""rowid, columns; the column that is the rowid's alias is None."""

PAGE_BYTES = 4096
"""Of a file whose header cannot be read: SQLite's default, which the spool uses."""
LEAF = 0x0D
INT_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_LOG_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")


class DamagedRowError(Exception):
    """These bytes are no row."""


class Pages:
    """The pages of a database file and its write-ahead log. Close it after use.

    Raises OSError for files that cannot be opened, never an error for what is in them: what the disk cannot read
    any more is damaged, too.
    """

    def __init__(self, file: Path) -> None:
        self._file = _File(file)
        self.page_bytes = _page_bytes(self._file)
        self._log = _File(file.with_name(f"{file.name}-wal"), may_be_missing=True)
        self._newer = _frames(self._log, self.page_bytes)
        """page number -> where its newest committed image begins in the log"""

    def __len__(self) -> int:
        return max([len(self._file) // self.page_bytes, *self._newer])

    def __getitem__(self, number: int) -> bytes:
        """A page; pages count from 1. Raises DamagedRowError for one that is not there."""
        source, start = self._file, (number - 1) * self.page_bytes
        if number in self._newer:
            source, start = self._log, self._newer[number]
        page = source.read(start, self.page_bytes) if number > 0 else b""
        if len(page) < self.page_bytes:
            raise DamagedRowError
        return page

    def rows(self, number: int) -> Iterator[Row]:
        """The rows of one page that can be read; none if it is not a table's leaf."""
        with suppress(DamagedRowError):
            page = self[number]
            head = 100 if number == 1 else 0
            if page[head] == LEAF:
                count = int.from_bytes(page[head + 3 : head + 5])
                for at in range(head + 8, min(head + 8 + 2 * count, self.page_bytes - 1), 2):
                    with suppress(DamagedRowError, IndexError, UnicodeDecodeError):
                        yield self._row(page, int.from_bytes(page[at : at + 2]))

    def _row(self, page: bytes, at: int) -> Row:
        size, at = _varint(page, at)
        rowid, at = _varint(page, at)
        if size > len(self._file) + len(self._log):
            raise DamagedRowError
        record = bytearray()
        local = self._local_bytes(size)
        record += page[at : at + local]
        following = int.from_bytes(page[at + local : at + local + 4]) if local < size else 0
        while len(record) < size:
            overflow = self[following]
            record += overflow[4 : 4 + size - len(record)]
            following = int.from_bytes(overflow[:4])
        if len(record) != size:
            raise DamagedRowError
        return rowid - (1 << 64 if rowid >= 1 << 63 else 0), _columns(bytes(record))

    def _local_bytes(self, size: int) -> int:
        """How much of a row is on its leaf page; the rest is on overflow pages."""
        usable = self.page_bytes
        if size <= usable - 35:
            return size
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        return local if local <= usable - 35 else least

    def close(self) -> None:
        """Let the files go."""
        self._file.close()
        self._log.close()


class _File:
    """A file to read from. Not mapped into memory: a bad sector would be a signal there, and the agent's end."""

    def __init__(self, file: Path, *, may_be_missing: bool = False) -> None:
        self._opened: int | None = None
        self._size = 0
        try:
            self._opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.fstat(self._opened).st_size
        except FileNotFoundError:
            if not may_be_missing:
                raise

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end, and none where the disk cannot read."""
        if self._opened is None:
            return b""
        try:
            return os.pread(self._opened, size, start)
        except OSError:
            return b""

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None


def _page_bytes(file: _File) -> int:
    head = file.read(0, 18)
    size = int.from_bytes(head[16:18]) if head[:16] == b"SQLite format 3\0" else 0
    size = 65_536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else PAGE_BYTES


def _frames(log: _File, page_bytes: int) -> dict[int, int]:
    """Where in the log each page's newest committed image begins."""
    committed: dict[int, int] = {}
    head = log.read(0, _LOG_HEADER.size)
    if len(head) < _LOG_HEADER.size:
        return committed
    magic, _, size, _, *salts, sum_0, sum_1 = _LOG_HEADER.unpack(head)
    if magic not in (0x377F0682, 0x377F0683) or size != page_bytes:
        return committed
    order = "<" if magic == 0x377F0682 else ">"
    sums = _checksum(head[:24], order, (0, 0))
    if sums != (sum_0, sum_1):
        return committed
    since_commit: dict[int, int] = {}
    step = _FRAME_HEADER.size + page_bytes
    for start in range(_LOG_HEADER.size, len(log) - step + 1, step):
        frame = log.read(start, step)
        if len(frame) < step:
            break
        page, pages_after_commit, *frame_salts, sum_0, sum_1 = _FRAME_HEADER.unpack_from(frame)
        sums = _checksum(frame[:8], order, sums)
        sums = _checksum(frame[_FRAME_HEADER.size :], order, sums)
        if frame_salts != salts or sums != (sum_0, sum_1):
            break
        since_commit[page] = start + _FRAME_HEADER.size
        if pages_after_commit:
            committed |= since_commit
            since_commit.clear()
    return committed


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """The log's running checksum over more data, a multiple of 8 bytes."""
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}II", data):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer of up to nine bytes, and where it ends."""
    value = 0
    for position in range(at, at + 8):
        value = value << 7 | data[position] & 0x7F
        if data[position] < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _columns(record: bytes) -> list[Value]:
    head_bytes, at = _varint(record, 0)
    content = head_bytes
    values: list[Value] = []
    while at < head_bytes:
        kind, at = _varint(record, at)
        value, content = _value(record, kind, content)
        values.append(value)
    if content != len(record):
        raise DamagedRowError
    return values


def _value(record: bytes, kind: int, at: int) -> tuple[Value, int]:
    """The column of a serial type, and where it ends."""
    if kind in (0, 8, 9):
        return (None if kind == 0 else kind - 8), at
    end = at + (INT_BYTES.get(kind) or (8 if kind == 7 else (kind - 12) // 2))
    data = record[at:end]
    if end > len(record) or kind in (10, 11):
        raise DamagedRowError
    if kind in INT_BYTES:
        return int.from_bytes(data, signed=True), end
    if kind == 7:
        return float(struct.unpack(">d", data)[0]), end
    return (str(data, "utf-8") if kind % 2 else data), end
