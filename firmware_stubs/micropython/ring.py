"""The device's own backlog: a ring of records in one file of fixed size, which survives a power cut.

The same file as that of ../c/ring.h, which has its layout and its rules: a record leaves the ring only by
`acknowledged`; a full ring refuses new records; a torn write damages one slot, and the two marks are written in turn.
MicroPython's `flush` syncs (littlefs, FAT and the Unix port).
"""

import struct
from binascii import crc32

RECORDS = 1024
SLOT_BYTES, HEAD_BYTES = 256, 24
PAYLOAD_BYTES_MAX = SLOT_BYTES - HEAD_BYTES


class Ring:
    """done + 1 ... last wait. note: a number that the transport must not forget; the ring only keeps it."""

    def __init__(self, path, random):
        self.generation = self.done = self.last = self.note = 0
        try:
            self._file = open(path, "r+b")
        except OSError:
            self._file = open(path, "w+b")
        marked = self._read_mark()
        numbers = [record[0] for record in map(self._read, range(RECORDS)) if record]
        if marked:
            self.last = max([self.done] + [number for number in numbers if number > self.done])
        elif numbers:  # both marks are damaged: rather twice than never
            self.done, self.last = min(numbers) - 1, max(numbers)
            self._write_mark(self.done, 0)
        else:
            self._file.seek(0)
            for _ in range(2 + RECORDS):
                self._file.write(bytes(SLOT_BYTES))
            self.last = random >> 1
            self._write_mark(self.last, 0)

    def waiting(self):
        return self.last - self.done

    def put(self, boot, at_ms, payload):
        """Keep a record; its number, or 0 if the ring is full. Raises OSError: it is not kept."""
        if self.waiting() >= RECORDS:
            return 0
        if not 0 < len(payload) <= PAYLOAD_BYTES_MAX:
            raise ValueError("a payload has 1 to %d bytes" % PAYLOAD_BYTES_MAX)
        number = self.last + 1
        head = struct.pack("<IIQI", number, boot, at_ms, len(payload))
        slot = head + struct.pack("<I", crc32(payload, crc32(head))) + payload
        self._write(2 + number % RECORDS, slot)
        self.last = number
        return number

    def get(self, number):
        """(number, boot, at_ms, payload), or None: it is damaged."""
        record = self._read(number % RECORDS)
        return record if record and record[0] == number else None

    def acknowledged(self, number):
        """Everything up to `number` was acknowledged, or could not be read any more."""
        self._write_mark(number, self.note)

    def remember(self, note):
        self._write_mark(self.done, note)

    def _write_mark(self, done, note):
        mark = struct.pack("<III", self.generation + 1, done, note)
        self._write((self.generation + 1) % 2, mark + struct.pack("<I", crc32(mark)))
        self.generation, self.done, self.note = self.generation + 1, done, note

    def _read_mark(self):
        found = False
        for slot in range(2):
            self._file.seek(slot * SLOT_BYTES)
            mark = self._file.read(16)
            if len(mark) == 16 and struct.unpack("<I", mark[12:])[0] == crc32(mark[:12]):
                generation, done, note = struct.unpack("<III", mark[:12])
                if not found or generation > self.generation:
                    self.generation, self.done, self.note = generation, done, note
                found = True
        return found

    def _read(self, index):
        self._file.seek((2 + index) * SLOT_BYTES)
        slot = self._file.read(SLOT_BYTES)
        if len(slot) < SLOT_BYTES:
            return None
        number, boot, at_ms, length, crc = struct.unpack("<IIQII", slot[:HEAD_BYTES])
        payload = slot[HEAD_BYTES : HEAD_BYTES + length]
        if not 0 < length <= PAYLOAD_BYTES_MAX or number % RECORDS != index:
            return None
        return (number, boot, at_ms, payload) if crc32(payload, crc32(slot[:20])) == crc else None

    def _write(self, slot, data):
        self._file.seek(slot * SLOT_BYTES)
        self._file.write(data)
        self._file.flush()
