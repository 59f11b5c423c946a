"""Batches of format 2, as `telemetry.wire` has it.

Every count is checked against what is left of the batch (ingest.reader), or against the number of its records, before
memory is taken for it. Values are divided as float64: whatever the integers are, it is some float64 that comes out.
"""

import zlib

import numpy as np
import numpy.typing as npt

from ingest.batch import OFFSET_MS_MAX, SERIES_ID_MAX, Batch, Ints, check_names, checked, decompressed, loss_batch
from ingest.dictionaries import Dictionaries
from ingest.reader import Reader
from telemetry.columns import DEAD, US_PER_MS, DeadLetter, Series
from telemetry.decimals import DIGITS_MAX, NAN_BITS
from telemetry.errors import WireError
from telemetry.packing import GROUPED, RELATIVE
from telemetry.wire import DICTIONARY, FINE, HEX, LOSS, TAGS, ZSTD, Header

RECORD_BYTES = 29
"""Of one record in a Batch, without texts and dead letters."""

_HEAD_BYTES = 5
_DICTIONARY_BYTES, _EPOCH_BYTES = 4, 8
_POWERS = np.array([10.0**digits for digits in range(DIGITS_MAX + 1)])
_NAN = np.frombuffer(NAN_BITS, "<i8")


def read(payload: bytes, gateway: str, dictionaries: Dictionaries) -> Batch:
    """A batch that came on the topic of `gateway`; its times are not looked at. Raises WireError."""
    content = payload[_HEAD_BYTES:]
    if payload[1:_HEAD_BYTES] != zlib.crc32(content, zlib.crc32(gateway.encode())).to_bytes(4, "little"):
        raise WireError(f"the batch's checksum is wrong: it is damaged, or not of {gateway!r}, on whose topic it came")
    head = Reader(content)
    flags = head.byte()
    if flags & ~(ZSTD | LOSS | HEX | DICTIONARY | TAGS | FINE):
        raise WireError(f"the batch has flags {flags:#x}, which this ingest does not know: update it")
    epoch = head.take(_EPOCH_BYTES).hex() if flags & HEX else _text(head.take(head.byte()))
    dictionary = head.take(_DICTIONARY_BYTES).hex() if flags & DICTIONARY else ""
    header = checked(Header(gateway, epoch, head.varint(), head.varint()), is_loss=bool(flags & LOSS))
    body = Reader(decompressed(head.rest()) if flags & ZSTD else head.rest())
    if flags & LOSS:
        declared_at = body.signed()
        reason = body.rest()
        return loss_batch(header, _text(reason), declared_at, len(reason))
    return _records(header, body, dictionary, dictionaries, flags)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"the batch holds a text that is not UTF-8: {error}") from error


def _records(header: Header, body: Reader, dictionary: str, dictionaries: Dictionaries, flags: int) -> Batch:
    n = header.count
    size = RECORD_BYTES * n + body.left
    ids, defined = _table(body, n, has_tags=bool(flags & TAGS))
    _, ranks = body.column(n)
    if ranks.min() < 0 or ranks.max() >= len(ids):
        raise WireError("the batch has a record of a series that is not in its table")
    order = np.argsort(ranks.astype(np.uint16 if len(ids) <= 2**16 else np.int64), kind="stable")
    quality = _within(body.column(n)[1], 255, "quality code")
    measured_at = _placed(*body.column(n, GROUPED), order)
    how, received_at = body.column(n, GROUPED | RELATIVE)
    received_at = _placed(how, received_at, order)
    if how & RELATIVE:
        received_at = received_at + measured_at
    value = _values(body, ranks, order, len(ids))
    texts = _texts(body, n)
    is_dead = ids == DEAD
    series = np.where(is_dead, DEAD, np.cumsum(~is_dead) - 1).astype(np.int32)[ranks]
    dead = _dead(body, np.flatnonzero(series == DEAD).tolist())
    fine = _fine(body, n) if flags & FINE else {}
    if body.left:
        raise WireError(f"the batch has {body.left} bytes behind its end")
    return Batch(
        header=header,
        names=_names(header, dictionary, dictionaries, ids[~is_dead].tolist(), defined),
        series=series,
        measured_at=measured_at,
        received_at=received_at,
        value=value,
        quality=quality.astype(np.uint8),
        texts=texts,
        dead=dead,
        loss=None,
        bytes=size,
        fine=fine,
    )


def _table(body: Reader, n: int, *, has_tags: bool) -> tuple[Ints, dict[int, Series]]:
    """The ids of the batch's series by rank, and what the batch says of those that it defines."""
    count = body.count(n, "series")
    _, ids = body.column(count)
    if not count or ids.min() < DEAD or ids.max() >= SERIES_ID_MAX or len(np.unique(ids)) < count:
        raise WireError("the batch's series have ids that are out of range or come twice")
    new = body.count(count, "definitions")
    ranks = body.positions(new, count, "definitions") if new < count else np.arange(count)
    parts = [[_text(name) for name in body.strings(new)] for _ in Series._fields[: 4 if has_tags else 3]]
    defined = dict(zip(ids[ranks].tolist(), map(Series, *parts), strict=True))
    if DEAD in defined:
        raise WireError("the batch has a name for its dead letters")
    check_names(list(defined.values()))
    return ids, defined


def _names(
    header: Header, dictionary: str, dictionaries: Dictionaries, ids: list[int], defined: dict[int, Series]
) -> list[Series]:
    if dictionary:
        return dictionaries.names((header.gateway, header.epoch, dictionary), ids, defined)
    if len(defined) < len(ids):
        raise WireError("the batch mentions a series that it does not define")
    return [defined[id_] for id_ in ids]


def _placed(how: int, column: Ints, order: npt.NDArray[np.int64]) -> Ints:
    """In the order of the records."""
    if not how & GROUPED:
        return column
    placed = np.empty_like(column)
    placed[order] = column
    return placed


def _within(column: Ints, most: int, what: str) -> Ints:
    if column.min() < 0 or column.max() > most:
        raise WireError(f"the batch has a {what} that is not within 0..{most}")
    return column


def _values(body: Reader, ranks: Ints, order: npt.NDArray[np.int64], series: int) -> npt.NDArray[np.float64]:
    digits = _within(body.column(series)[1], DIGITS_MAX, "number of digits")
    how, integers = body.column(len(ranks), GROUPED)
    if not how & GROUPED:
        raise WireError("the batch's values are not in the order of its series")
    grouped = integers / np.repeat(_POWERS[digits], np.bincount(ranks, minlength=series))
    exceptions = body.count(len(ranks), "exceptions")
    places = body.positions(exceptions, len(ranks), "exceptions")
    grouped.view(np.int64)[places] = body.column(exceptions)[1] ^ _NAN
    value: npt.NDArray[np.float64] = np.empty_like(grouped)
    value[order] = grouped
    return value


def _texts(body: Reader, n: int) -> dict[int, str]:
    count = body.count(n, "texts")
    positions = body.positions(count, n, "texts")
    return dict(zip(positions.tolist(), map(_text, body.strings(count)), strict=True))


def _fine(body: Reader, n: int) -> dict[int, int]:
    count = body.count(n, "fine times")
    if not count:
        return {}
    positions = body.positions(count, n, "fine times")
    microseconds = _within(body.column(count)[1], US_PER_MS - 1, "number of microseconds")
    offsets = body.column(count)[1]
    if np.abs(offsets).max() > OFFSET_MS_MAX:
        raise WireError("the batch has a time that was corrected by more than a century")
    return dict(zip(positions.tolist(), (offsets * US_PER_MS + microseconds).tolist(), strict=True))


def _dead(body: Reader, positions: list[int]) -> dict[int, DeadLetter]:
    sources, raws, reasons = (body.strings(len(positions)) for _ in DeadLetter._fields)
    letters = map(DeadLetter, map(_text, sources), raws, map(_text, reasons))
    return dict(zip(positions, letters, strict=True))
