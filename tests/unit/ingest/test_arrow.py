"""Format 1, as gateways wrote it before format 2: recorded bytes (tests/cases/wire), and their damage."""

import random
import struct
from pathlib import Path

import pytest
from backports import zstd

from ingest.decode import decode
from telemetry.errors import WireError
from telemetry.records import Loss
from telemetry.wire import Header
from tests.records import NEW_YEAR_MS, numbered, series_of

CASES = Path(__file__).parents[2] / "cases" / "wire"
EPOCH = "0123456789abcdef"
RECORDS = (CASES / "format-1-records.batch").read_bytes()
LOSS = (CASES / "format-1-loss.batch").read_bytes()


def test_recorded_records_are_read() -> None:
    """They are numbered(1, 40): readings, texts and dead letters."""
    batch, made = decode(RECORDS, "farm-7"), numbered(1, 40)
    assert batch.header == Header("farm-7", EPOCH, 1001, 40)
    assert [batch.names[i] if i >= 0 else None for i in batch.series] == [
        series_of(id_)._replace(tags="") if id_ >= 0 else None for id_ in made.series
    ]
    assert batch.measured_at.tobytes() == made.measured_at.tobytes()
    assert batch.received_at.tobytes() == made.received_at.tobytes()
    assert batch.value.tobytes() == made.value.tobytes()
    assert batch.quality.tobytes() == made.quality.tobytes()
    assert (batch.texts, batch.dead) == (made.texts, made.dead)


def test_a_recorded_loss_is_read() -> None:
    reason = "evicted: the spool was full (drop_oldest)"
    assert decode(LOSS, "farm-7").loss == Loss(2001, 2500, reason, NEW_YEAR_MS)


def test_a_batch_of_another_gateway_is_refused() -> None:
    with pytest.raises(WireError, match="names gateway 'farm-7', but came on the topic of 'farm-8'"):
        decode(RECORDS, "farm-8")


def test_whatever_is_broken_in_a_batch_the_answer_is_a_sentence() -> None:
    """Seeded mutations of the Arrow streams: decode returns or raises WireError, nothing else."""
    chance = random.Random(11)
    right = [zstd.decompress(RECORDS), zstd.decompress(LOSS)]
    refused = 0
    for _ in range(3000):
        plain = bytearray(chance.choice(right))
        at = chance.randrange(len(plain) - 8)
        match chance.randrange(4):
            case 0:
                plain[at] = chance.randrange(256)
            case 1:
                plain = plain[: at + 1]
            case 2:
                plain[at : at + 4] = struct.pack("<i", chance.choice((0, 1, -1, 2**31 - 1, -(2**31))))
            case 3:
                at &= ~7
                plain[at : at + 8] = struct.pack("<q", chance.choice((0, -1, 2**63 - 1, 2**40)))
        try:
            decode(zstd.compress(bytes(plain), 1), "farm-7")
        except WireError:
            refused += 1
    assert refused > 1000
