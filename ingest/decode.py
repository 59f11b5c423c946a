"""Batches off the wire, checked before they are believed. Counterpart of `telemetry.wire`.

A batch comes from outside: every size is limited before memory is taken, and the numbers must be consistent. What
breaks a rule is a WireError with a sentence; a row that cannot be stored (a time out of range) becomes a dead letter
and harms no other. Two formats are read: the present one (ingest.packed), and the first (ingest.arrow), which a
gateway that is updated later still sends.
"""

import json
from dataclasses import replace

import numpy as np

from ingest import arrow, packed
from ingest.batch import MEASURED_MS_MAX, MEASURED_MS_MIN, SEQ_MAX, SERIES_TEXT_CHARS_MAX, Batch
from ingest.dictionaries import Dictionaries
from telemetry import tags
from telemetry.columns import DEAD, DeadLetter
from telemetry.errors import WireError
from telemetry.wire import VERSION, WIRE_BYTES_MAX

__all__ = ["MEASURED_MS_MAX", "MEASURED_MS_MIN", "SEQ_MAX", "SERIES_TEXT_CHARS_MAX", "Batch", "decode", "describe"]


def decode(payload: bytes, gateway: str, dictionaries: Dictionaries | None = None) -> Batch:
    """A batch that came on the topic of `gateway`. Raises WireError.

    dictionaries: what gateways have told before, and where this batch's definitions go. Without them a batch that does
    not define all of its series is refused.
    """
    if len(payload) > WIRE_BYTES_MAX:
        raise WireError(f"the batch is {len(payload)} bytes long, the limit is {WIRE_BYTES_MAX}")
    if payload[:4] == arrow.MAGIC:
        batch = arrow.read(payload, gateway)
    elif payload[:1] == bytes([VERSION]):
        batch = packed.read(payload, gateway, Dictionaries() if dictionaries is None else dictionaries)
    else:
        raise WireError(
            f"the batch begins with {payload[:4].hex() or 'nothing'}, which is no format that this ingest reads: "
            "if its gateway is newer, update ingest"
        )
    return _bury_bad_times(batch)


def _bury_bad_times(batch: Batch) -> Batch:
    """Readings whose time the tables cannot hold become dead letters, in place."""
    low, high = MEASURED_MS_MIN, MEASURED_MS_MAX
    bad = ((batch.measured_at < low) | (batch.measured_at >= high)) & (batch.series != DEAD)
    for position in np.flatnonzero(bad).tolist():
        at = int(batch.measured_at[position])
        reason = f"measured_at is {at} ms since 1970, which is not between the years 2000 and 2100"
        batch.dead[position] = describe(batch, position, reason)
    received_at = batch.received_at.clip(0, high - 1)  # a gateway's clock may say anything
    if not bad.any() and np.array_equal(received_at, batch.received_at):
        return batch
    return replace(
        batch,
        series=np.where(bad, np.int32(DEAD), batch.series),
        received_at=received_at,
        texts={p: text for p, text in batch.texts.items() if not bad[p]},
    )


def describe(batch: Batch, position: int, reason: str) -> DeadLetter:
    """A reading as a dead letter: its fields as JSON are its raw bytes."""
    name = batch.names[batch.series[position]]
    value = float(batch.value[position])
    fields = {
        **({"tags": tags.unpack(name.tags)} if name.tags else {}),
        "device": name.device,
        "metric": name.metric,
        "unit": name.unit,
        "measured_at": int(batch.measured_at[position]),
        "value": value if np.isfinite(value) else None,
        "text": batch.texts.get(position, ""),
        "quality": int(batch.quality[position]),
    }
    return DeadLetter(f"reading of {name.device}", json.dumps(fields).encode(), reason)
