"""The cluster form, as text: what each kind of statement becomes, and what is refused."""

import re

import pytest

from analytics.cluster import Cluster
from analytics.migrate import formed, load, parse
from telemetry.errors import FieldlineError

SHARDED = """CREATE TABLE IF NOT EXISTS fieldline.readings
(
    device LowCardinality(String) COMMENT 'ENGINE = Log (it''s text) ORDER BY x',
    value Float64
)
ENGINE = ReplacingMergeTree(value)
ORDER BY (device, value)
SETTINGS non_replicated_deduplication_window = 100, fsync_after_insert = 1
COMMENT 'Readings, SETTINGS and all'"""
EVERYWHERE = (
    "CREATE TABLE IF NOT EXISTS fieldline.ledger (gateway String, device String) ENGINE = MergeTree ORDER BY gateway"
)
ON = "ON CLUSTER 'c'"


def forms(*statements: str) -> list[str]:
    """What the last one becomes after the others."""
    cluster = Cluster("c")
    return [list(cluster.forms(statement)) for statement in statements][-1]


def test_a_table_sorted_by_device_is_local_and_replicated_and_has_its_front() -> None:
    local, front = forms(SHARDED)
    assert local == (
        SHARDED.replace("fieldline.readings\n", f"fieldline.readings_local {ON}\n")
        .replace(
            "ReplacingMergeTree(value)",
            "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/fieldline/readings', '{replica}', value)",
        )
        .replace(
            "non_replicated_deduplication_window = 100",
            "replicated_deduplication_window = 100, replicated_deduplication_window_seconds = 604800",
        )
    )
    assert front == (
        f"CREATE TABLE IF NOT EXISTS fieldline.readings {ON} AS fieldline.readings_local\n"
        "ENGINE = Distributed('c', 'fieldline', 'readings_local', cityHash64(device))\n"
        "COMMENT 'Readings, SETTINGS and all'"
    )


def test_any_other_table_is_one_table_on_all_servers() -> None:
    (made,) = forms(EVERYWHERE)
    assert made == (
        f"CREATE TABLE IF NOT EXISTS fieldline.ledger {ON}\n(gateway String, device String) ENGINE ="
        " ReplicatedMergeTree('/clickhouse/tables/everywhere/fieldline/ledger', '{shard}-{replica}') ORDER BY gateway"
    )


def test_a_column_goes_to_the_local_table_and_then_to_its_front() -> None:
    changed, front = forms(SHARDED, "ALTER TABLE fieldline.readings ADD COLUMN IF NOT EXISTS x UInt8 COMMENT 'a, b'")
    assert changed == f"ALTER TABLE fieldline.readings_local {ON} ADD COLUMN IF NOT EXISTS x UInt8 COMMENT 'a, b'"
    assert front == forms(SHARDED)[1].replace("CREATE TABLE IF NOT EXISTS", "CREATE OR REPLACE TABLE")


@pytest.mark.parametrize(
    ("statement", "becomes"),
    [
        ("CREATE DATABASE IF NOT EXISTS fieldline", [f"CREATE DATABASE IF NOT EXISTS fieldline {ON}"]),
        ("CREATE OR REPLACE VIEW fieldline.v AS SELECT 1", [f"CREATE OR REPLACE VIEW fieldline.v {ON} AS SELECT 1"]),
        (
            "CREATE VIEW IF NOT EXISTS fieldline.v\n(a UInt8)\nAS SELECT 1",
            [f"CREATE VIEW IF NOT EXISTS fieldline.v {ON}\n(a UInt8)\nAS SELECT 1"],
        ),
        ("DROP VIEW IF EXISTS fieldline.v", [f"DROP VIEW IF EXISTS fieldline.v {ON}"]),
        (
            "ALTER TABLE fieldline.readings ADD INDEX IF NOT EXISTS i value TYPE minmax",
            [f"ALTER TABLE fieldline.readings_local {ON} ADD INDEX IF NOT EXISTS i value TYPE minmax"],
        ),
        (
            "ALTER TABLE fieldline.readings MODIFY SETTING a = 1, b = 2",
            [f"ALTER TABLE fieldline.readings_local {ON} MODIFY SETTING a = 1, b = 2"],
        ),
        (
            "ALTER TABLE fieldline.ledger MODIFY SETTING a = 1",
            [f"ALTER TABLE fieldline.ledger {ON} MODIFY SETTING a = 1"],
        ),
        (
            "ALTER TABLE fieldline.ledger\n    ADD COLUMN x UInt8",
            ["ALTER TABLE fieldline.ledger\n    ADD COLUMN x UInt8"],
        ),
        ("TRUNCATE TABLE IF EXISTS fieldline.ledger", ["TRUNCATE TABLE IF EXISTS fieldline.ledger"]),
        ("TRUNCATE TABLE IF EXISTS fieldline.readings", [f"TRUNCATE TABLE IF EXISTS fieldline.readings_local {ON}"]),
        (
            "DELETE FROM fieldline.readings WHERE value = 1",
            [f"DELETE FROM fieldline.readings_local {ON} WHERE value = 1"],
        ),
        (
            "DROP TABLE IF EXISTS fieldline.readings",
            [f"DROP TABLE IF EXISTS fieldline.readings{end} {ON} SYNC" for end in ("", "_local")],
        ),
        ("INSERT INTO fieldline.ledger SELECT 1, 2", ["INSERT INTO fieldline.ledger SELECT 1, 2"]),
    ],
)
def test_every_other_kind_of_statement(statement: str, becomes: list[str]) -> None:
    assert forms(SHARDED, EVERYWHERE, statement) == becomes


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE MATERIALIZED VIEW fieldline.m TO fieldline.x AS SELECT 1", "it knows CREATE TABLE IF NOT EXISTS"),
        ("CREATE TABLE fieldline.x (a UInt8) ENGINE = MergeTree ORDER BY a", "it knows CREATE TABLE IF NOT EXISTS"),
        ("RENAME TABLE fieldline.ledger TO fieldline.x", "it knows CREATE TABLE"),
        ("ALTER TABLE ledger ADD COLUMN x UInt8", "each with the name in full"),
        ("ALTER TABLE fieldline.nowhere ADD COLUMN x UInt8", "no statement before it makes the table nowhere"),
        ("INSERT INTO fieldline.nowhere SELECT 1", "no statement before it makes the table nowhere"),
        ("CREATE TABLE IF NOT EXISTS fieldline.x (a UInt8) ENGINE = Log", "one of the MergeTree family"),
        (
            "CREATE TABLE IF NOT EXISTS fieldline.x (a UInt8) COMMENT 'ENGINE = MergeTree'",
            "one of the MergeTree family",
        ),
        (
            "CREATE TABLE IF NOT EXISTS fieldline.x_local (a UInt8) ENGINE = MergeTree ORDER BY a",
            "names that end in _local",
        ),
        ("ALTER TABLE fieldline.ledger ADD COLUMN x UInt8, MODIFY SETTING a = 1", "an ALTER TABLE of their own"),
        ("ALTER TABLE fieldline.readings MODIFY ORDER BY (device, x)", "does not say what 'MODIFY ORDER BY"),
    ],
)
def test_what_has_no_cluster_form_is_refused(statement: str, said: str) -> None:
    with pytest.raises(FieldlineError, match=r"cannot be brought into the cluster form: .*") as caught:
        forms(SHARDED, EVERYWHERE, statement)
    assert said in str(caught.value)


def test_the_migration_of_a_refused_statement_is_named() -> None:
    with pytest.raises(FieldlineError, match=r"^Migration 0099_new: `OPTIMIZE TABLE fieldline.readings` cannot be"):
        formed([parse("0099_new.sql", "OPTIMIZE TABLE fieldline.readings;\n")], Cluster("c"))


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(FieldlineError, match=r"as in system\.clusters"):
        Cluster("c'; DROP")
    assert Cluster("{cluster}").on == " ON CLUSTER '{cluster}'"


def test_all_migrations_have_a_cluster_form_with_every_table_on_one_of_both_lists() -> None:
    cluster = Cluster("c")
    set_up, migrations = formed(load(), cluster)
    statements = [*set_up, *(statement for migration in migrations for statement in migration.statements)]
    assert {"readings", "rollup_1m_buckets", "rollup_1h_buckets"} <= cluster.sharded.keys()
    assert {"ledger", "intents", "workers", "schema_migrations", "dead_letters", "losses"} <= cluster.everywhere
    for statement in statements:
        said_once = re.match(
            r"(?:ALTER TABLE|TRUNCATE TABLE IF EXISTS|DELETE FROM|INSERT INTO) fieldline\.(\w+)\s(?!ON)", statement
        )
        assert ON in statement or (said_once and said_once[1] in cluster.everywhere), statement
