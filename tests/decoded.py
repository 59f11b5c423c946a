"""Decoded batches for tests of ingest that look at seqs only, or that need more rows than a wire batch may have."""

import numpy as np

from ingest.decode import Batch
from telemetry.columns import Series
from telemetry.records import Loss
from telemetry.wire import Header
from tests.records import NEW_YEAR_MS


def plain_batch(gateway: str, epoch: str, first_seq: int, count: int, *, loss: bool = False) -> Batch:
    """count equal readings, or a declared loss of count records."""
    rows = 0 if loss else count
    zeros = np.zeros(rows, np.int64)
    return Batch(
        header=Header(gateway, epoch, first_seq, count),
        names=[Series("d", "m", "u")],
        series=zeros.astype(np.int32),
        measured_at=zeros + NEW_YEAR_MS,
        received_at=zeros + NEW_YEAR_MS,
        value=zeros.astype(float),
        quality=zeros.astype(np.uint8),
        texts={},
        dead={},
        loss=Loss(first_seq, first_seq + count - 1, "evicted", NEW_YEAR_MS) if loss else None,
        bytes=0,
    )
