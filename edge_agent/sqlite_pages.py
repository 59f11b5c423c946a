"""Reads what is left of an SQLite database without SQLite: every table row whose pages are whole.

SQLite gives up at the first damaged page on its way. This scan needs neither header nor B-tree: it looks at each
page by itself, takes those that are leaves of a table, and follows the overflow pages of their rows. Pages that
the write-ahead log holds newer take the place of the file's; of the log, frames count up to the last commit that
its chain of checksums reaches, as for SQLite.

Rows of pages that SQLite has freed, and not used again, are found too. Whoever reads must be able to tell whether
a row is whole, and whether it still counts: nothing here has a checksum, but the log.

Source: "Database File Format" on sqlite.org, sections 1.6 (B-tree pages), 2.1 (records), 4.1 and 4.2 (the log).
"""

import mmap
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

    Raises OSError for files that cannot be opened, never an error for what is in them.
    """

    def __init__(self, file: Path) -> None:
        self._file = _map(file)
        self.page_bytes = _page_bytes(self._file)
        self._log = _map(file.with_name(f"{file.name}-wal"), may_be_missing=True)
        self._newer = _frames(self._log, self.page_bytes)
        """page number -> where its newest committed image begins in the log"""

    def __len__(self) -> int:
        return max([len(self._file) // self.page_bytes, *self._newer])

    def __getitem__(self, number: int) -> memoryview:
        """A page; pages count from 1. Raises DamagedRowError for one that is not there."""
        source, start = self._file, (number - 1) * self.page_bytes
        if number in self._newer:
            source, start = self._log, self._newer[number]
        if number < 1 or start + self.page_bytes > len(source):
            raise DamagedRowError
        return source[start : start + self.page_bytes]

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

    def _row(self, page: memoryview, at: int) -> Row:
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
        return rowid - (1 << 64 if rowid >= 1 << 63 else 0), _columns(memoryview(record))

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
        for view in (self._file, self._log):
            mapped = view.obj
            view.release()
            if isinstance(mapped, mmap.mmap):
                mapped.close()


def _map(file: Path, *, may_be_missing: bool = False) -> memoryview:
    try:
        with file.open("rb") as opened:
            if opened.seek(0, 2) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ))
    except FileNotFoundError:
        if may_be_missing:
            return memoryview(b"")
        raise


def _page_bytes(file: memoryview) -> int:
    size = int.from_bytes(file[16:18]) if len(file) >= 100 and bytes(file[:16]) == b"SQLite format 3\0" else 0
    size = 65_536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else PAGE_BYTES


def _frames(log: memoryview, page_bytes: int) -> dict[int, int]:
    """Where in the log each page's newest committed image begins."""
    committed: dict[int, int] = {}
    if len(log) < _LOG_HEADER.size:
        return committed
    magic, _, size, _, *salts, sum_0, sum_1 = _LOG_HEADER.unpack_from(log)
    if magic not in (0x377F0682, 0x377F0683) or size != page_bytes:
        return committed
    order = "<" if magic == 0x377F0682 else ">"
    sums = _checksum(log[:24], order, (0, 0))
    if sums != (sum_0, sum_1):
        return committed
    since_commit: dict[int, int] = {}
    step = _FRAME_HEADER.size + page_bytes
    for start in range(_LOG_HEADER.size, len(log) - step + 1, step):
        page, pages_after_commit, *frame_salts, sum_0, sum_1 = _FRAME_HEADER.unpack_from(log, start)
        content = start + _FRAME_HEADER.size
        sums = _checksum(log[start : start + 8], order, sums)
        sums = _checksum(log[content : content + page_bytes], order, sums)
        if frame_salts != salts or sums != (sum_0, sum_1):
            break
        since_commit[page] = content
        if pages_after_commit:
            committed |= since_commit
            since_commit.clear()
    return committed


def _checksum(data: memoryview, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """The log's running checksum over more data, a multiple of 8 bytes."""
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}II", data):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A variable-length integer of up to nine bytes, and where it ends."""
    value = 0
    for position in range(at, at + 8):
        value = value << 7 | data[position] & 0x7F
        if data[position] < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _columns(record: memoryview) -> list[Value]:
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


def _value(record: memoryview, kind: int, at: int) -> tuple[Value, int]:
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
    return (str(data, "utf-8") if kind % 2 else bytes(data)), end
