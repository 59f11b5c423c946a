"""What must be refused on the trunk: each with a sentence in a receipt and a dead letter, and nothing else is harmed.

One worker meets all of it. Every gateway sends half of its good batches, its bad message, the other half.
"""

import asyncio
import io
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest
from backports import zstd

from broker_bridge import contract
from broker_bridge.contract import Status
from ingest.decode import SEQ_MAX, decode
from ingest.worker import REFUSED_BYTES_MAX
from telemetry import wire
from telemetry.columns import Columns, DeadLetter, Series
from telemetry.errors import WireError
from telemetry.packing import GROUPED, strings, varint
from telemetry.wire import PLAIN_BYTES_MAX, ROWS_MAX, WIRE_BYTES_MAX
from tests.brokers import wait_until
from tests.packed import LOSS, ints, opened, packed
from tests.trunk import NEW_YEAR_MS, PARTITIONS, FakeGateway, Rig, WorkerProcess, make_batch

GOOD_ROWS = 20
PACKET_BYTES = 5 * 1024 * 1024  # more than the worker takes in a packet
SERIES = '{"0":["d","m","u"]}'

Make = Callable[[FakeGateway], bytes]


def arrow(
    sender: FakeGateway,
    columns: dict[str, pa.Array] | None = None,
    *,
    compression: str | None = None,
    times: int = 1,
    without: str = "",
    **metadata: str,
) -> bytes:
    """A batch of format 1, of two rows: right, except for what the arguments change."""
    rows: dict[str, pa.Array] = {
        "series": pa.array([0, 0], pa.int32()),
        "measured_at": pa.array([NEW_YEAR_MS] * 2, pa.int64()),
        "received_at": pa.array([NEW_YEAR_MS] * 2, pa.int64()),
        "value": pa.array([1.0, 2.0]),
        "quality": pa.array([0, 0], pa.uint8()),
    } | (columns or {})
    rows.pop(without, None)
    said = {"fieldline": "1", "gateway": sender.name, "epoch": "e1", "first_seq": "1", "count": "2", "series": SERIES}
    said |= metadata
    said.pop(without, None)
    schema = pa.schema([(name, column.type) for name, column in rows.items()], metadata=said)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(times):
            writer.write_batch(pa.record_batch(list(rows.values()), schema=schema))
    return bytes(zstd.compress(sink.getvalue()))


def cut(gateway: FakeGateway, keep: float) -> bytes:
    """A whole zstd frame around a part of an Arrow stream."""
    plain = zstd.decompress(arrow(gateway))
    return bytes(zstd.compress(plain[: int(len(plain) * keep)]))


def status(**changes: object) -> bytes:
    fields = {
        "epoch": '"e1"',
        "agent_version": '"1"',
        "reported_at": "0",
        "mark": "1",
        "last_seq": "2",
        "spool_records": "1",
        "spool_bytes": "1",
        "spool_oldest_at": "0",
        "collectors": "{}",
    } | changes
    return ("{" + ",".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


INTS = pa.array([0, 0], pa.int64())

BATCHES: dict[str, tuple[Make, str]] = {
    "an empty payload": (lambda _: b"", "begins with nothing"),
    "garbage": (lambda _: random.Random(1).randbytes(5000), "no format that this ingest reads"),
    "a format of the future": (
        lambda _: b"\3" + bytes(100),
        "no format that this ingest reads: if its gateway is newer",
    ),
    "a truncated frame": (lambda g: arrow(g)[:-20], "truncated"),
    "a damaged frame": (lambda g: arrow(g)[:20] + bytes(50) + arrow(g)[70:], "not a zstd frame"),
    "something behind the frame": (lambda g: arrow(g) + b"!", "1 bytes behind its zstd frame"),
    "a frame around nothing": (lambda _: zstd.compress(b""), "no Arrow schema"),
    "a frame around garbage": (lambda _: zstd.compress(b"hello" * 1000), "not a readable Arrow stream"),
    "a stream cut in its schema": (lambda g: cut(g, 0.1), "not a readable Arrow stream"),
    "a stream cut in its rows": (lambda g: cut(g, 0.7), "not a readable Arrow stream"),
    "too many bytes": (lambda _: os.urandom(WIRE_BYTES_MAX + 1), f"{WIRE_BYTES_MAX + 1} bytes long, the limit"),
    "too many bytes for a packet": (lambda _: os.urandom(PACKET_BYTES), f"{PACKET_BYTES} bytes long, the limit"),
    "a bomb": (lambda _: zstd.compress(bytes(PLAIN_BYTES_MAX + 1)), f"longer than {PLAIN_BYTES_MAX} bytes"),
    "another gateway's": (lambda g: arrow(g, gateway="stranger"), "names gateway 'stranger', but came on"),
    "another version": (lambda g: arrow(g, fieldline="2"), "of format '2', this ingest reads format '1'"),
    "no version": (lambda g: arrow(g, without="fieldline"), "of format None"),
    "a version as long as a book": (lambda g: arrow(g, fieldline="9" * 10**6), "of format '999"),
    "compressed buffers": (lambda g: arrow(g, compression="zstd"), "compressed Arrow buffers"),
    "an unknown column": (lambda g: arrow(g, {"colour": INTS}), "column 'colour' of type int64"),
    "a column of another type": (lambda g: arrow(g, {"series": INTS}), "column 'series' of type int64"),
    "a missing column": (lambda g: arrow(g, without="quality"), "'quality' is missing"),
    "nulls": (lambda g: arrow(g, {"value": pa.array([1.0, None])}), "'value' is missing or has nulls"),
    "two record batches": (lambda g: arrow(g, times=2), "exactly one Arrow record batch"),
    "more rows than it counts": (lambda g: arrow(g, count="1"), "counts 1 records and holds 2 rows"),
    "no rows": (lambda g: arrow(g, times=0), "counts 2 records and holds 0 rows"),
    "a count of 0": (lambda g: arrow(g, count="0", times=0), "seqs are out of range"),
    "a count without end": (lambda g: arrow(g, count=str(ROWS_MAX + 1)), "seqs are out of range"),
    "a count that is no number": (lambda g: arrow(g, count="two"), "header is incomplete"),
    "a seq of 0": (lambda g: arrow(g, first_seq="0"), "seqs are out of range"),
    "a seq beyond all": (lambda g: arrow(g, first_seq=str(SEQ_MAX)), "seqs are out of range"),
    "a seq with 5000 digits": (lambda g: arrow(g, first_seq="9" * 5000), "header is incomplete"),
    "no epoch": (lambda g: arrow(g, without="epoch"), "header is incomplete"),
    "an epoch with quotes": (lambda g: arrow(g, epoch="e' OR ''='"), "gateway or epoch is not a name"),
    "series that are no JSON": (lambda g: arrow(g, series="{"), "series are not readable"),
    "series of another shape": (lambda g: arrow(g, series='{"0": "d"}'), "series are not readable"),
    "a series it does not define": (lambda g: arrow(g, series="{}"), "does not define"),
    "a series with a bad id": (lambda g: arrow(g, series='{"-1": ["d","m","u"]}'), "ids out of range"),
    "a long name": (lambda g: arrow(g, series='{"0": ["%s","m","u"]}' % ("d" * 300)), "longer than 256"),
    "half a character": (lambda g: arrow(g, series=r'{"0": ["\ud800","m","u"]}'), "not valid Unicode"),
    "a dead letter without its bytes": (
        lambda g: arrow(g, {"series": pa.array([0, -1], pa.int32())}),
        "no source, raw bytes or reason",
    ),
    "a loss without its time": (lambda g: arrow(g, loss="evicted", times=0), "without saying when"),
}

PACKED: dict[str, tuple[Make, str]] = {
    "packed, truncated": (lambda g: g.batch(1, 200)[:-20], "checksum is wrong"),
    "packed, another gateway's": (lambda g: g.batch(1, 5, name="stranger"), "on whose topic it came"),
    "packed, nothing behind the checksum": (lambda g: wire.seal(g.name, b""), "ends too early"),
    "packed, an unknown flag": (lambda g: packed(g.name, flags=b"\x40"), "has flags 0x40"),
    "packed, garbage for a frame": (lambda g: packed(g.name, flags=bytes([wire.ZSTD])), "not a zstd frame"),
    "packed, a bomb": (
        lambda g: wire.seal(g.name, bytes([wire.ZSTD]) + b"\2e1\1\2" + zstd.compress(bytes(PLAIN_BYTES_MAX + 1))),
        f"longer than {PLAIN_BYTES_MAX} bytes",
    ),
    "packed, an epoch with quotes": (lambda g: packed(g.name, epoch=b"\4e' O"), "gateway or epoch is not a name"),
    "packed, an epoch that is no text": (lambda g: packed(g.name, epoch=b"\2\xff\xff"), "not UTF-8"),
    "packed, an epoch without end": (lambda g: packed(g.name, epoch=b"\xffe1"), "ends too early"),
    "packed, a count of 0": (lambda g: packed(g.name, count=varint(0)), "seqs are out of range"),
    "packed, a count without end": (lambda g: packed(g.name, count=varint(ROWS_MAX + 1)), "seqs are out of range"),
    "packed, a seq of 0": (lambda g: packed(g.name, first_seq=varint(0)), "seqs are out of range"),
    "packed, a seq beyond all": (lambda g: packed(g.name, first_seq=varint(SEQ_MAX)), "seqs are out of range"),
    "packed, a seq of 70 bits": (lambda g: packed(g.name, first_seq=b"\xff" * 10), "more than 64 bits"),
    "packed, no series": (lambda g: packed(g.name, series=varint(0), ids=b""), "ids that are out of range"),
    "packed, more series than rows": (lambda g: packed(g.name, series=varint(3)), "counts 3 series, at most 2"),
    "packed, a series twice": (
        lambda g: packed(g.name, series=varint(2), ids=ints(5, 5)),
        "ids that are out of range or come twice",
    ),
    "packed, a series with a bad id": (lambda g: packed(g.name, ids=ints(-2)), "ids that are out of range"),
    "packed, a series it does not define": (
        lambda g: packed(g.name, definitions=varint(0), names=b""),
        "does not define",
    ),
    "packed, too many definitions": (lambda g: packed(g.name, definitions=varint(2)), "counts 2 definitions"),
    "packed, a definition of no series": (
        lambda g: packed(g.name, series=varint(2), ids=ints(0, 1), defined=ints(2)),
        "definitions are not ascending below 2",
    ),
    "packed, a name for dead letters": (lambda g: packed(g.name, ids=ints(-1)), "a name for its dead letters"),
    "packed, a long name": (
        lambda g: packed(g.name, names=strings([b"d" * 300]) + strings([b"m"]) + strings([b""])),
        "longer than 256",
    ),
    "packed, a name that is no text": (
        lambda g: packed(g.name, names=strings([b"\xed\xa0\x80"]) + strings([b"m"]) + strings([b""])),
        "not UTF-8",
    ),
    "packed, a name longer than the batch": (lambda g: packed(g.name, names=ints(10**6)), "longer than the batch"),
    "packed, a name of less than nothing": (lambda g: packed(g.name, names=ints(-1)), "longer than the batch"),
    "packed, a rank beyond the table": (lambda g: packed(g.name, ranks=ints(0, 1)), "not in its table"),
    "packed, a rank before the table": (lambda g: packed(g.name, ranks=ints(0, -1)), "not in its table"),
    "packed, a column of no form": (lambda g: packed(g.name, ranks=b"\x8f\0"), "form 0x8f, which cannot be"),
    "packed, a column of nine planes": (lambda g: packed(g.name, ranks=b"\x09" + bytes(18)), "of 9 planes"),
    "packed, a column without its planes": (
        lambda g: packed(g.name, dead=b"", texts=b"", integers=b"\x28"),
        "too early",
    ),
    "packed, a quality of 256": (lambda g: packed(g.name, quality=ints(0, 256)), "not within 0..255"),
    "packed, a grouped quality": (lambda g: packed(g.name, quality=ints(0, 1, form=GROUPED)), "which cannot be"),
    "packed, ten digits": (lambda g: packed(g.name, digits=ints(10)), "not within 0..9"),
    "packed, less than no digits": (lambda g: packed(g.name, digits=ints(-1)), "not within 0..9"),
    "packed, values as they came": (lambda g: packed(g.name, integers=ints(1, 2)), "not in the order of its series"),
    "packed, an exception beyond all": (
        lambda g: packed(g.name, exceptions=varint(1) + ints(2) + ints(0)),
        "exceptions are not ascending below 2",
    ),
    "packed, more exceptions than rows": (lambda g: packed(g.name, exceptions=varint(3)), "counts 3 exceptions"),
    "packed, a text twice": (
        lambda g: packed(g.name, texts=varint(2) + ints(1, 1) + strings([b"a", b"b"])),
        "texts are not ascending below 2",
    ),
    "packed, a text that is no text": (
        lambda g: packed(g.name, texts=varint(1) + ints(0) + strings([b"\xff"])),
        "not UTF-8",
    ),
    "packed, a dead letter without its bytes": (
        lambda g: packed(g.name, ids=ints(-1), definitions=varint(0), names=b""),
        "ends too early",
    ),
    "packed, something behind its end": (lambda g: packed(g.name, dead=b"!"), "1 bytes behind its end"),
    "packed, a loss of no epoch": (lambda g: packed(g.name, LOSS, epoch=b"\0"), "not a name"),
    "packed, a loss that is no text": (lambda g: packed(g.name, LOSS, reason=b"\xff"), "not UTF-8"),
    "packed, a loss without its time": (lambda g: packed(g.name, LOSS, declared_at=b"", reason=b""), "too early"),
}
BATCHES |= PACKED

OTHERS: dict[str, tuple[str, bytes, str]] = {
    "an unknown kind": ("telemetry", b"1", "'telemetry' is not a kind of message"),
    "an empty hello": ("hello", b"", "is not JSON"),
    "a hello that is no JSON": ("hello", b"hello", "is not JSON"),
    "a hello that is no UTF-8": ("hello", b'{"epoch": "\xff\xfe"}', "is not JSON"),
    "a hello of another shape": ("hello", b"[1]", "is not a JSON object"),
    "a hello without an epoch": ("hello", b"{}", "must name its epoch"),
    "a hello with a number": ("hello", b'{"epoch": 7}', "must name its epoch"),
    "a hello with half a character": ("hello", rb'{"epoch": "\ud800"}', "is not JSON"),
    "a deep hello": ("hello", b"[" * 50_000, "is not JSON"),
    "a long hello": ("hello", b'{"epoch": "%s"}' % (b"e" * 10**6), "the limit is"),
    "an empty status": ("status", b"", "is not JSON"),
    "a status with less than nothing": ("status", status(spool_bytes=-1), "out of range"),
    "a status with too much": ("status", status(spool_records=2**63), "out of range"),
    "a status with 10^400": ("status", status(mark="1e400"), "not a status"),
    "a status with infinity": ("status", status(last_seq="-Infinity"), "not a status"),
    "a status with no number": ("status", status(mark="NaN"), "not a status"),
    "a status with 5000 digits": ("status", status(mark="9" * 5000), "is not JSON"),
    "a status with a list": ("status", status(collectors="[]"), "not a status"),
    "a status with half a character": ("status", status(agent_version=r'"\udc00"'), "is not JSON"),
    "a status without a mark": ("status", b'{"epoch": "e1"}', "not a status"),
}

NAMES = (
    "it's",
    'say "hi"',
    "a b",
    "größe-✓",
    "x'); DROP TABLE fieldline.readings; --",
    "back\\slash",
    "{name:String}",
    "%s%d",
    "",
    "n" * 129,
    "n" * 65_000,
)


@dataclass(frozen=True)
class Outcome:
    """What a bad message came to. letters: (gateway, epoch, seq, reason, raw) of its dead letters."""

    topic: str
    payload: bytes
    sentence: str
    letters: list[tuple[object, ...]]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig.started(tmp_path_factory.mktemp("bad")) as rig:
        yield rig


@pytest.fixture(scope="module")
def worker(rig: Rig) -> Iterator[WorkerProcess]:
    with rig.worker("commit.age_s_max = 0.05") as worker:
        yield worker


@pytest.fixture(scope="module")
def outcomes(rig: Rig, worker: WorkerProcess) -> dict[str, Outcome]:
    """All bad messages, sent by one gateway each, between good ones that must be committed."""
    sent: dict[str, tuple[str, bytes, str]] = {}

    async def one(case: str, number: int) -> None:
        async with rig.gateway(f"bad-{number}") as gateway:
            kind, payload = ("batch", BATCHES[case][0](gateway)) if case in BATCHES else OTHERS[case][:2]
            await gateway.send(gateway.batch(1, GOOD_ROWS))
            try:
                sentence = await gateway.refused(payload, kind)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}\n{worker.said}") from error
            await gateway.send(gateway.batch(GOOD_ROWS + 1, GOOD_ROWS))
            await gateway.receipt(lambda r: r.mark == 2 * GOOD_ROWS, f"{case}: the good batches are committed")
            sent[case] = contract.up_topic(gateway.partition, kind, gateway.name), payload, sentence

    async def all_() -> None:
        for number, case in enumerate([*BATCHES, *OTHERS]):
            await one(case, number)

    asyncio.run(all_())
    wait_until(lambda: rig.rows("SELECT count() FROM fieldline.dead_letters") == [(len(sent),)], "the dead letters")
    rows = rig.client.query(
        "SELECT source, toString(gateway), toString(epoch), seq, reason, raw FROM fieldline.dead_letters",
        column_formats={"raw": "bytes"},
    ).result_rows
    letters: dict[str, list[tuple[object, ...]]] = {}
    for source, *rest in rows:
        letters.setdefault(source, []).append(tuple(rest))
    return {case: Outcome(*said, letters.get(said[0], [])) for case, said in sent.items()}


@pytest.mark.parametrize("case", [*BATCHES, *OTHERS])
def test_it_is_refused_with_a_sentence_and_kept_as_a_dead_letter(outcomes: dict[str, Outcome], case: str) -> None:
    outcome = outcomes[case]
    phrase = (BATCHES.get(case) or OTHERS[case])[-1]
    assert phrase in outcome.sentence
    assert len(outcome.sentence) <= 500
    gateway = outcome.topic.rsplit("/", 1)[-1]
    kept = outcome.payload[:REFUSED_BYTES_MAX]
    assert outcome.letters == [(gateway, "", 0, outcome.sentence, kept)]


def test_good_batches_beside_bad_ones_are_stored_once(rig: Rig, outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert rig.stored(outcome.topic.rsplit("/", 1)[-1]) == list(range(1, 2 * GOOD_ROWS + 1))
    rig.assert_accounted()


def test_the_worker_has_lived_through_all_of_it(worker: WorkerProcess, outcomes: dict[str, Outcome]) -> None:
    assert outcomes
    assert not worker.has_ended
    assert "Traceback" not in worker.said


def test_the_wrong_partition_is_refused_with_the_next_step(rig: Rig, worker: WorkerProcess) -> None:
    async def run() -> str:
        async with rig.gateway("moved") as gateway:
            return await gateway.refused(gateway.batch(1, 10), partition=(gateway.partition + 1) % PARTITIONS)

    sentence = asyncio.run(run())
    assert f"uplink.partitions in its config must be {PARTITIONS}" in sentence
    assert rig.stored("moved") == []
    assert not worker.has_ended


@pytest.mark.parametrize("name", NAMES, ids=[name.strip()[:12].strip() or "none" for name in NAMES])
def test_a_strange_name_in_the_topic_harms_nothing(rig: Rig, worker: WorkerProcess, name: str) -> None:
    async def run() -> None:
        async with rig.gateway("witness") as gateway:
            partition = contract.partition_of(name, PARTITIONS)
            for kind, payload in (
                ("batch", make_batch(wire.Header(name, "e1", 1, 3))),
                ("hello", b'{"epoch": "e1"}'),
                ("status", status()),
            ):
                await gateway.publish(contract.up_topic(partition, kind, name), payload)
            await gateway.answered()

    counted = (
        "SELECT count() FROM fieldline.dead_letters WHERE startsWith(source, 'fieldline/1/') AND source LIKE {s:String}"
    )
    asyncio.run(run())
    suffix = "%/" + name.replace("\\", "\\\\").replace("%", "\\%")
    wait_until(lambda: rig.client.query(counted, parameters={"s": suffix}).result_rows == [(3,)], "three dead letters")
    assert not worker.has_ended, worker.said
    assert rig.client.query("SELECT count() FROM fieldline.gateways WHERE mark = 1").result_rows == [(0,)]


def test_a_status_at_the_limits_is_taken(rig: Rig, worker: WorkerProcess) -> None:
    async def run() -> None:
        async with rig.gateway("large") as gateway:
            top = 2**63 - 1
            await gateway.send(Status("e1", "1", top, top, top, top, top, top, {"m": "x"}, top).encode(), "status")

    asyncio.run(run())
    query = "SELECT mark, thinned, toYear(spool_oldest_at) FROM fieldline.gateways FINAL WHERE gateway = 'large'"
    wait_until(lambda: rig.rows(query) == [(2**63 - 1, 2**63 - 1, 2099)], "the status is stored")
    assert not worker.has_ended


def test_times_that_no_table_can_hold_become_dead_letters(rig: Rig, worker: WorkerProcess) -> None:
    """Also when a commit holds nothing else, and for the times of dead letters themselves."""
    times = (-(2**63), -1, 0, 946_684_799_999, 4_102_444_800_000, 2**53, 2**63 - 1)

    async def run() -> None:
        async with rig.gateway("broken-clock") as gateway:
            for seq, at_ms in enumerate(times, start=1):
                column = pa.array([at_ms], pa.int64())
                one = {
                    "series": pa.array([0], pa.int32()),
                    "value": pa.array([1.0]),
                    "quality": pa.array([0], pa.uint8()),
                }
                one |= {"measured_at": column, "received_at": column}
                await gateway.send(arrow(gateway, one, first_seq=str(seq), count="1"))
                await gateway.receipt(lambda r, seq=seq: r.mark == seq, f"measured_at {at_ms} is committed")
            await gateway.send(gateway.batch(len(times) + 1, 5))
            await gateway.receipt(lambda r: r.mark == len(times) + 5)

    asyncio.run(run())
    query = "SELECT count() FROM fieldline.dead_letters WHERE gateway = 'broken-clock' AND epoch = 'e1'"
    assert rig.rows(query) == [(len(times),)]
    assert len(rig.stored("broken-clock")) == 5
    rig.assert_accounted()
    assert not worker.has_ended


def test_whatever_is_broken_in_a_batch_the_answer_is_a_sentence() -> None:
    """Seeded mutations of right batches, sealed again, in this process: decode returns or raises WireError only."""
    chance = random.Random(11)
    columns = Columns()
    for position in range(30):
        if position % 7 == 0:
            columns.add_dead(DeadLetter("t", b"raw", "why"), NEW_YEAR_MS)
            continue
        columns.series.append(position % 3)
        columns.measured_at.append(NEW_YEAR_MS + position)
        columns.received_at.append(NEW_YEAR_MS)
        columns.value.append(1.0)
        columns.quality.append(0)
        columns.texts[position] = "on"
    header = wire.Header("g", "e", 1, 30)
    right = [
        opened(wire.encode(header, columns, lambda id_: Series(f"d{id_}", "m", "u"))),
        opened(wire.encode_loss(header, "evicted", NEW_YEAR_MS)),
    ]
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
                plain[at : at + 1] = varint(chance.choice((0, 127, 2**32, 2**63 - 1, 2**64 - 1)))
        try:
            decode(wire.seal("g", bytes(plain)), "g")
        except WireError:
            refused += 1
    assert refused > 1000
