"""The tables a worker inserts into: their rows as Arrow, and the same as ClickHouse's input() reads them."""

from dataclasses import dataclass

import pyarrow as pa

TIME = pa.timestamp("ms", "UTC")
TEXT = pa.dictionary(pa.int32(), pa.string())
LOW = "LowCardinality(String)"
TIME64 = "DateTime64(3, 'UTC')"


@dataclass(frozen=True, slots=True)
class Target:
    """A table: for each column its name, Arrow type and ClickHouse type."""

    name: str
    columns: tuple[tuple[str, pa.DataType, str], ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, type_) for name, type_, _ in self.columns])

    @property
    def names(self) -> str:
        return ", ".join(name for name, _, _ in self.columns)

    @property
    def structure(self) -> str:
        """The argument of input(), quoted for SQL."""
        inner = ", ".join(f"{name} {type_}" for name, _, type_ in self.columns)
        return "'" + inner.replace("'", "\\'") + "'"


READINGS = Target(
    "readings",
    (
        ("device", TEXT, LOW),
        ("metric", TEXT, LOW),
        ("measured_at", TIME, TIME64),
        ("received_at", TIME, TIME64),
        ("ingested_at", TIME, TIME64),
        ("value", pa.float64(), "Float64"),
        ("text", TEXT, LOW),
        ("unit", TEXT, LOW),
        ("quality", pa.uint8(), "UInt8"),
        ("gateway", TEXT, LOW),
        ("epoch", TEXT, LOW),
        ("seq", pa.uint64(), "UInt64"),
    ),
)
TAGS = ("tags", TEXT, "Map(LowCardinality(String), LowCardinality(String))")
"""In Arrow the text of `telemetry.tags`: a word of a dictionary for each row, as every other name of a series."""
FINE = (("measured_us", pa.uint16(), "UInt16"), ("clock_offset_ms", pa.int64(), "Int64"))
"""What times have beside milliseconds."""


def with_columns(*, tags: bool, fine: bool) -> Target:
    """READINGS for a block in which a reading has tags, or a fine time. Blocks without them cost nothing for them."""
    columns = (*READINGS.columns, *([TAGS] if tags else []), *(FINE if fine else []))
    return Target(READINGS.name, columns) if tags or fine else READINGS


DEAD_LETTERS = Target(
    "dead_letters",
    (
        ("gateway", pa.string(), "String"),
        ("epoch", pa.string(), "String"),
        ("seq", pa.uint64(), "UInt64"),
        ("received_at", TIME, TIME64),
        ("ingested_at", TIME, TIME64),
        ("source", pa.string(), "String"),
        ("reason", pa.string(), "String"),
        ("raw", pa.binary(), "String"),
    ),
)
REPLAYED = Target("readings", (*with_columns(tags=True, fine=True).columns, ("replay", pa.uint64(), "UInt64")))
REPLAYS = Target(
    "replays",
    (
        ("gateway", pa.string(), "String"),
        ("epoch", pa.string(), "String"),
        ("seq", pa.uint64(), "UInt64"),
        ("replay", pa.uint64(), "UInt64"),
        ("done", pa.uint8(), "UInt8"),
        ("readings", pa.uint32(), "UInt32"),
        ("replayed_at", TIME, TIME64),
    ),
)
LOSSES = Target(
    "losses",
    (
        ("gateway", pa.string(), "String"),
        ("epoch", pa.string(), "String"),
        ("first_seq", pa.uint64(), "UInt64"),
        ("last_seq", pa.uint64(), "UInt64"),
        ("reason", pa.string(), "String"),
        ("declared_at", TIME, TIME64),
        ("ingested_at", TIME, TIME64),
    ),
)
INTENTS = Target(
    "intents",
    (
        ("worker", pa.string(), "String"),
        ("number", pa.uint64(), "UInt64"),
        ("done", pa.uint8(), "UInt8"),
        ("partitions", pa.list_(pa.uint32()), "Array(UInt32)"),
        ("created_at", TIME, TIME64),
        (
            "ranges",
            pa.list_(
                pa.struct(
                    [
                        ("gateway", pa.string()),
                        ("epoch", pa.string()),
                        ("first", pa.uint64()),
                        ("last", pa.uint64()),
                    ]
                )
            ),
            "Array(Tuple(gateway String, epoch String, first UInt64, last UInt64))",
        ),
        ("measured_min", TIME, TIME64),
        ("measured_max", TIME, TIME64),
    ),
)
LEDGER = Target(
    "ledger",
    (
        ("gateway", pa.string(), "String"),
        ("epoch", pa.string(), "String"),
        ("mark", pa.uint64(), "UInt64"),
        (
            "ahead",
            pa.list_(pa.struct([("first", pa.uint64()), ("last", pa.uint64())])),
            "Array(Tuple(first UInt64, last UInt64))",
        ),
        ("worker", pa.string(), "String"),
        ("intent", pa.uint64(), "UInt64"),
        ("version", pa.uint64(), "UInt64"),
        ("committed_at", TIME, TIME64),
    ),
)
WORKERS = Target(
    "workers",
    (
        ("partition", pa.uint32(), "UInt32"),
        ("fence", pa.uint64(), "UInt64"),
        ("worker", pa.string(), "String"),
        ("started_at", TIME, TIME64),
    ),
)
GATEWAYS = Target(
    "gateways",
    (
        ("gateway", pa.string(), "String"),
        ("epoch", pa.string(), "String"),
        ("reported_at", TIME, TIME64),
        ("agent_version", pa.string(), "String"),
        ("collectors", pa.string(), "String"),
        ("spool_records", pa.uint64(), "UInt64"),
        ("spool_bytes", pa.uint64(), "UInt64"),
        ("spool_oldest_at", TIME, f"Nullable({TIME64})"),
        ("mark", pa.uint64(), "UInt64"),
        ("last_seq", pa.uint64(), "UInt64"),
        ("thinned", pa.uint64(), "UInt64"),
    ),
)
