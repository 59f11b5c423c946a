"""Batches of format 2 made by hand, and taken apart: for tests of what the encoder would never send.

packed("g", ranks=column(lanes.of([0, 7]), 2))     right, but for one section
wire.seal("g", opened(payload))                    uncompressed, with a right checksum
"""

from ingest.batch import decompressed
from ingest.reader import Reader
from telemetry import lanes, wire
from telemetry.packing import DELTA, GROUPED, column, signed, strings, varint
from tests.records import NEW_YEAR_MS


def ints(*values: int, form: int = 0) -> bytes:
    """A column."""
    return column(lanes.of(values), len(values), form)


SECTIONS = {
    "flags": b"\0",
    "epoch": b"\x02e1",
    "dictionary": b"",
    "first_seq": varint(1),
    "count": varint(2),
    "series": varint(1),
    "ids": ints(0),
    "definitions": varint(1),
    "defined": b"",
    "names": strings([b"d"]) + strings([b"m"]) + strings([b"u"]),
    "ranks": ints(0, 0),
    "quality": ints(0, 0),
    "measured_at": ints(NEW_YEAR_MS, NEW_YEAR_MS + 1, form=DELTA),
    "received_at": ints(NEW_YEAR_MS, NEW_YEAR_MS + 1, form=DELTA),
    "digits": ints(0),
    "integers": ints(1, 2, form=GROUPED | DELTA),
    "exceptions": varint(0),
    "texts": varint(0),
    "dead": b"",
}
"""Two readings, 1 and 2, of one series; in the order in which they travel."""

LOSS = {
    "flags": bytes([wire.LOSS]),
    "epoch": b"\x02e1",
    "first_seq": varint(1),
    "count": varint(2),
    "declared_at": signed(NEW_YEAR_MS),
    "reason": b"evicted",
}


def packed(gateway: str, sections: dict[str, bytes] | None = None, **changed: bytes) -> bytes:
    """A batch of these sections (default: SECTIONS), some of them changed."""
    right = SECTIONS if sections is None else sections
    assert changed.keys() <= right.keys()
    return wire.seal(gateway, b"".join((right | changed).values()))


def opened(payload: bytes) -> bytes:
    """What is behind the checksum of a batch, as if it had not been compressed."""
    head = Reader(payload[5:])
    flags = head.byte()
    epoch = head.take(8 if flags & wire.HEX else head.byte())
    if not flags & wire.HEX:
        epoch = bytes([len(epoch)]) + epoch
    dictionary = head.take(4 if flags & wire.DICTIONARY else 0)
    seqs = varint(head.varint()) + varint(head.varint())
    body = decompressed(head.rest()) if flags & wire.ZSTD else head.rest()
    return bytes([flags & ~wire.ZSTD]) + epoch + dictionary + seqs + body
