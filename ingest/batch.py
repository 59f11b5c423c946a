"""A batch that was checked, and the limits of what is accepted in one, whatever its format."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from backports import zstd

from broker_bridge.contract import is_name
from telemetry import tags
from telemetry.columns import DeadLetter, Series
from telemetry.errors import WireError
from telemetry.records import Loss
from telemetry.wire import PLAIN_BYTES_MAX, ROWS_MAX, Header

SERIES_TEXT_CHARS_MAX = 256
SERIES_ID_MAX = 2**31
LOSS_CHARS_MAX = 1000
SEQ_MAX = 2**62
OFFSET_MS_MAX = 100 * 366 * 86_400_000
"""A century: what a clock can be corrected by."""
MEASURED_MS_MIN, MEASURED_MS_MAX = 946_684_800_000, 4_102_444_800_000  # 2000-01-01 and 2100-01-01, UTC

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch. Arrays have one entry per record; `series` indexes `names` (DEAD: a dead letter).

    `texts`, `dead` and `fine` are sparse, by position, as in `telemetry.columns`. `loss` is a declared loss, which has
    no rows. `bytes`: about how much memory it takes.
    """

    header: Header
    names: list[Series]
    series: npt.NDArray[np.int32]
    measured_at: Ints
    received_at: Ints
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    texts: dict[int, str]
    dead: dict[int, DeadLetter]
    loss: Loss | None
    bytes: int
    fine: dict[int, int] = field(default_factory=dict)


def checked(header: Header, *, is_loss: bool) -> Header:
    """The header, if it can be. Raises WireError."""
    if not is_name(header.gateway) or not is_name(header.epoch):
        raise WireError("the batch's gateway or epoch is not a name")
    count_max = SEQ_MAX if is_loss else ROWS_MAX
    if header.first_seq < 1 or not 1 <= header.count <= count_max or header.last_seq > SEQ_MAX:
        raise WireError(f"the batch's seqs are out of range: {header.count} from {header.first_seq} on")
    return header


def decompressed(frame: bytes) -> bytes:
    """What one zstd frame holds, never more than PLAIN_BYTES_MAX. Raises WireError."""
    try:
        decompressor = zstd.ZstdDecompressor()
        plain = decompressor.decompress(frame, max_length=PLAIN_BYTES_MAX)
    except zstd.ZstdError as error:
        raise WireError(f"the batch is not a zstd frame: {error}") from error
    if not decompressor.eof:
        raise WireError(f"the batch is truncated, or longer than {PLAIN_BYTES_MAX} bytes when decompressed")
    if decompressor.unused_data:
        raise WireError(f"the batch has {len(decompressor.unused_data)} bytes behind its zstd frame")
    return plain


def check_names(names: "list[Series]") -> None:
    """Raises WireError if one is too long, or has tags that are none."""
    if any(len(text) > SERIES_TEXT_CHARS_MAX for series in names for text in series[:3]):
        raise WireError(f"a device, metric or unit is longer than {SERIES_TEXT_CHARS_MAX} characters")
    for text in {series.tags for series in names}:
        try:
            tags.unpack(text)
        except ValueError as error:
            raise WireError(f"the batch has a series whose tags cannot be taken: {error}") from None


def loss_batch(header: Header, reason: str, declared_at: int, size: int) -> Batch:
    """A declared loss. declared_at: ms since 1970 UTC, as the gateway's clock had it."""
    declared_at = min(max(declared_at, 0), MEASURED_MS_MAX - 1)
    loss = Loss(header.first_seq, header.last_seq, reason[:LOSS_CHARS_MAX], declared_at)
    none = np.empty(0, np.int64)
    return Batch(
        header, [], none.astype(np.int32), none, none, none.astype(float), none.astype(np.uint8), {}, {}, loss, size
    )
