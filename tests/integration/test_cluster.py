"""The cluster form on the real engine, as far as one server without Keeper goes.

Every statement is parsed, every replicated table is refused for Keeper alone, and all of it is run over Distributed
tables: the custody tests with a crash at every statement, a worker that is killed, the rollups, every named query.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from analytics.cluster import WORKER_SETTINGS, Cluster
from analytics.migrate import migrate, script
from analytics.queries import ask, every, load, views
from analytics.rollup import roll_up
from ingest.clickhouse.client import ClickHouseError, Client, connect
from telemetry.errors import FieldlineError
from telemetry.ranges import SeqRanges
from tests.brokers import mosquitto
from tests.clickhouse import clickhouse
from tests.clustered import Embedded, embedded
from tests.commands import fieldline
from tests.integration import test_custody as custody
from tests.integration.test_custody import Crash, Life, account, batch_bytes, stored
from tests.trunk import Rig

NO_KEEPER, DOUBLE_DISTRIBUTED = 225, 288
ON = "ON CLUSTER one"
EXAMPLES: dict[str, Any] = {"String": "m", "Array(String)": ["g1-d", "m"], "Int64": 1_000}
"""For parameters that must be given: the answers are compared elsewhere, here they are to be planned and given."""

test_predecessor = custody.test_a_predecessor_that_wakes_up_can_write_nothing
test_fence_of_others = custody.test_a_fence_of_other_partitions_harms_nobody
test_same_insert_twice = custody.test_the_same_insert_twice_is_stored_once
test_any_order = custody.test_batches_in_any_order_twice_and_cut_differently


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Mosquitto, and a ClickHouse that is a cluster of itself, with the tables and views of the cluster form."""
    folder = tmp_path_factory.mktemp("cluster")
    with mosquitto(folder) as broker, clickhouse(folder / "ch", module="tests.clustered") as server:
        client = connect(server.url, database="default")
        migrate(Embedded(client), cluster=Cluster("one"))
        views.refresh(Embedded(client), Cluster("one").forms)
        yield Rig(folder, broker, server, client)
        client.close()


class Truncating:
    """A client whose TRUNCATE of the readings means the local table: a Distributed one has no rows of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def command(self, statement: str, **options: Any) -> Any:
        return self._client.command(
            statement.replace("TRUNCATE TABLE fieldline.readings", "TRUNCATE TABLE fieldline.readings_local"), **options
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def client(rig: Rig) -> Iterator[Truncating]:
    """For the custody tests: empty tables."""
    client = connect(rig.server.url)
    truncating = Truncating(client)
    for table in custody.TABLES:
        truncating.command(f"TRUNCATE TABLE fieldline.{table}")
    yield truncating
    client.close()


def test_a_crash_after_any_statement_loses_and_doubles_nothing(client: Client) -> None:
    custody.test_a_crash_at_any_statement_loses_and_doubles_nothing(client, after=True)


def statements() -> list[str]:
    return [text.removesuffix(";") for text in script("one") if not text.startswith("--")]


def test_the_engine_parses_every_statement_and_each_has_its_place(rig: Rig) -> None:
    """On what the engine has understood, not on our text."""
    local, fronts, everywhere, read = set(), set(), set(), set()
    for statement in statements():
        query = "SELECT formatQuerySingleLine({statement:String})"
        ((said,),) = rig.client.query(query, parameters={"statement": statement}).result_rows
        if made := re.match(rf"CREATE (?:OR REPLACE )?TABLE (?:IF NOT EXISTS )?fieldline\.(\w+) {ON} ", said):
            if front := re.search(r"ENGINE = Distributed\('one', 'fieldline', '(\w+)', cityHash64\(device\)\)", said):
                assert front[1] == f"{made[1]}_local"
                fronts.add(made[1])
            elif re.search(r"ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/\{shard\}/", said):
                local.add(made[1].removesuffix("_local"))
            else:
                assert re.search(r"ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/everywhere/", said), said
                everywhere.add(made[1])
        elif once := re.match(r"(?:ALTER TABLE|TRUNCATE TABLE IF EXISTS|INSERT INTO) fieldline\.(\w+) (?!ON)", said):
            assert once[1] in everywhere, said
        else:
            assert f" {ON} " in f"{said} ", said
        read |= set(re.findall(r"(?:FROM|JOIN) fieldline\.(\w+)", said))
    assert fronts == local
    assert not {name for name in read if name.endswith("_local")}, "who reads needs the rows of all shards"
    assert {"readings", "rollup_1m_buckets", "rollup_1h_buckets"} <= fronts
    assert {"ledger", "intents", "workers", "schema_migrations"} <= everywhere


def test_nothing_but_keeper_is_lacking_for_a_replicated_table(rig: Rig) -> None:
    """The engine takes columns, codecs, arguments, settings, keys and TTL of each; then it looks for Keeper."""
    made = [text for text in statements() if "ENGINE = Replicated" in text]
    assert made
    for statement in made:
        here = re.sub(r" ON CLUSTER '[^']*'", "", statement).replace("EXISTS fieldline.", "EXISTS default.", 1)
        with pytest.raises(ClickHouseError) as refused:
            rig.client.command(here, use_database=False)
        assert refused.value.code == NO_KEEPER, refused.value


class OneShard:
    """A client that crashes its user in the first insert of readings, when one of two shards has its rows."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def raw_insert(self, *, insert_block: list[bytes], settings: Any, transport_settings: Any) -> None:
        head = bytes(insert_block[0])
        if b"INSERT INTO fieldline.readings " not in head:
            self._client.raw_insert(insert_block=insert_block, settings=settings, transport_settings=transport_settings)
            return
        half = head.replace(b" FORMAT Native", b" AND cityHash64(device) % 2 = 0 FORMAT Native", 1)
        assert half != head
        self._client.raw_insert(insert_block=[half, *insert_block[1:]], settings=settings)
        raise Crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_a_block_that_is_stored_on_one_of_its_shards_is_recovered_row_by_row(client: Client) -> None:
    first = Life(client)
    first.take_over()
    first.commit(batch_bytes(1, 10))
    with pytest.raises(Crash):
        Life(OneShard(client)).work(batch_bytes(11, 30))
    half = stored(client)
    assert 10 < len(half) < 40, "some of it"
    successor = Life(client)
    successor.take_over()
    assert successor.receipt() == SeqRanges([(seq, seq) for seq in half])
    successor.commit(batch_bytes(successor.receipt().mark + 1, 40 - successor.receipt().mark))
    assert stored(client) == list(range(1, 41))
    assert account(client) == (40, 36, 4, 0, 0, 0, 0)


async def deliver(rig: Rig, name: str, last: int) -> None:
    async with rig.gateway(name) as gateway:
        for at in range(1, last + 1, 200):
            await gateway.deliver({(at, at + 199): gateway.batch(at, 200)})
            await gateway.send(gateway.batch(at, 150))  # again, and cut differently


async def deliver_all(rig: Rig, last: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for name in ("g1", "g2"):
            tasks.create_task(deliver(rig, name, last))


def test_a_worker_that_is_killed_stores_once_and_the_rollups_are_exact(rig: Rig, client: Client) -> None:
    async def until_it_is_killed() -> None:
        delivering = asyncio.create_task(deliver_all(rig, 2000))
        while rig.rows("SELECT count() FROM fieldline.readings") < [(1000,)]:
            await asyncio.sleep(0.01)
        assert not delivering.done()
        worker.process.kill()
        delivering.cancel()

    with rig.worker("commit.age_s_max = 0.05") as worker:
        asyncio.run(until_it_is_killed())
    with rig.worker("commit.age_s_max = 0.05"):
        asyncio.run(deliver_all(rig, 2000))
    for name in ("g1", "g2"):
        assert rig.stored(name) == list(range(1, 2001))
    rig.assert_accounted()
    assert rig.rows("SELECT count() FROM fieldline.readings_local") == [(4000,)]
    before = rig.rows("SELECT * FROM fieldline.rollup_1m ORDER BY ALL")
    assert roll_up(rig.client) > 0
    assert rig.rows("SELECT count() > 0 FROM fieldline.rollup_1m_buckets_local") == [(1,)]
    assert rig.rows("SELECT * FROM fieldline.rollup_1m ORDER BY ALL") == before
    newest = rig.rows("SELECT device, max(value) FROM fieldline.readings_local GROUP BY device ORDER BY device")
    assert rig.rows("SELECT device, value FROM fieldline.latest ORDER BY device") == newest


@pytest.fixture
def two_shards(rig: Rig, client: Client) -> Iterator[Client]:
    """The fronts over the cluster `two`: queries are planned as over two shards, whose rows are the same."""
    fronts = [
        text for text in script("two") if re.match(r"CREATE (?:OR REPLACE )?TABLE .*\sENGINE = Distr", text, re.DOTALL)
    ]
    assert fronts
    for made in fronts:
        rig.client.command(embedded(made.removesuffix(";")).replace("TABLE IF NOT EXISTS", "OR REPLACE TABLE"))
    yield client
    for made in fronts:
        again = embedded(made.removesuffix(";")).replace("TABLE IF NOT EXISTS", "OR REPLACE TABLE")
        rig.client.command(again.replace("Distributed('two'", "Distributed('one'"))


def test_everything_that_is_asked_can_be_planned_over_two_shards(rig: Rig, two_shards: Client) -> None:
    rig.client.command(
        "INSERT INTO fieldline.readings_local (device, metric, measured_at, value, gateway, epoch, seq)"
        " SETTINGS async_insert = 0"
        " VALUES ('g1-d', 'm', now64(3), 1, 'g1', 'e', 1), ('m', 'm', now64(3), 2, 'g1', 'e', 2)"
    )
    rows = rig.rows("SELECT name FROM system.tables WHERE database = 'fieldline' AND name NOT LIKE 'query_%'")
    for (table,) in rows:
        rig.rows(f"SELECT * FROM fieldline.{table} LIMIT 10")
    roll_up(two_shards)
    for name in every():
        needed = {one.name: EXAMPLES[one.type] for one in load(name).parameters if one.default is None}
        ask(rig.client, name, **needed)
    twice = "SELECT count() FROM fieldline.readings WHERE device IN (SELECT device FROM fieldline.readings)"
    assert rig.rows(twice) == [(4,)], "each row is on both"
    with pytest.raises(ClickHouseError) as refused:
        rig.client.query(twice, settings={"prefer_global_in_and_join": 0})
    assert refused.value.code == DOUBLE_DISTRIBUTED, "or these are not two shards"


def test_a_database_does_not_change_its_form(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FieldlineError, match=r"that of a single server and stays one\. Begin with a new database"):
        migrate(Embedded(rig.client), cluster=Cluster("one"))  # without Keeper its own table is not replicated
    monkeypatch.setattr("analytics.migrate._rows", lambda *_: [("ReplicatedReplacingMergeTree",)])
    monkeypatch.setattr("analytics.migrate.NEEDED", ())
    with pytest.raises(FieldlineError, match=r"that of a cluster\. Run `fieldline analytics migrate --cluster NAME`"):
        migrate(rig.client)


def test_printed_is_what_is_needed_and_begins_with_what_is_not_proven() -> None:
    said = fieldline("analytics", "migrate", "--print", "--cluster", "one").out
    assert said.startswith("-- What a receipt promises is not proven on a cluster: ")
    assert all(f"{name} = '{value}'" in said for name, value in WORKER_SETTINGS.items())
    assert said.split("\n\n")[2:4] == [statement + ";" for statement in statements()[:2]]
