"""The schema changes under a worker that runs: a real one, against the real engine, and nobody stops anything."""

import asyncio
from array import array
from pathlib import Path

from analytics.migrate import load, migrate, parse
from ingest.clickhouse.client import connect
from telemetry import wire
from telemetry.columns import Columns, Series
from tests.brokers import mosquitto
from tests.clickhouse import clickhouse
from tests.trunk import NEW_YEAR_MS, FakeGateway, Rig

WITHOUT_TAGS = [migration for migration in load() if migration.name < "0010"]
LATER = parse(
    "9999_later.sql",
    """
ALTER TABLE fieldline.readings ADD COLUMN IF NOT EXISTS trust Float64 DEFAULT 0.5 COMMENT 'Something new';
ALTER TABLE fieldline.gateways ADD COLUMN IF NOT EXISTS note String DEFAULT 'none' COMMENT 'Something new';
ALTER TABLE fieldline.intents ADD COLUMN IF NOT EXISTS note String DEFAULT 'none' COMMENT 'Something new';
""",
)


def tagged(gateway: FakeGateway, first: int, count: int, tags: str) -> bytes:
    """A batch of one device whose series have these tags, in a unit that was not there before."""
    columns = Columns(
        array("i", [0] * count),
        array("q", range(NEW_YEAR_MS + first, NEW_YEAR_MS + first + count)),
        array("q", [NEW_YEAR_MS] * count),
        array("d", map(float, range(first, first + count))),
        array("B", bytes(count)),
    )
    header = wire.Header(gateway.name, gateway.epoch, first, count)
    return wire.encode(header, columns, lambda _: Series("tagged", "m", "furlong", tags))


def test_a_running_worker_goes_on_through_new_columns_a_new_tag_and_a_new_unit(tmp_path: Path) -> None:
    """First it is newer than the schema and waits with what has no place yet; then the schema is newer than it."""

    async def run(rig: Rig) -> None:
        with rig.worker("commit.age_s_max = 0.05") as worker:
            async with rig.gateway("g") as gateway:
                await gateway.deliver({(1, 100): gateway.batch(1, 100)})
                waiting = asyncio.create_task(
                    gateway.deliver({(101, 110): tagged(gateway, 101, 10, '{"site":"north"}')})
                )
                await asyncio.to_thread(worker.until_said, "ClickHouse does not take readings now, trying again")
                assert rig.stored("g") == list(range(1, 101)), "nothing is stored without its tags"
                await asyncio.to_thread(migrate, rig.client)
                await waiting
                await asyncio.to_thread(worker.until_said, "ClickHouse takes inserts again.")

                said = len(worker.said)
                changing = asyncio.create_task(asyncio.to_thread(migrate, rig.client, [*load(), LATER]))
                at = 111
                while at < 1000 or not changing.done():
                    await gateway.deliver({(at, at + 19): gateway.batch(at, 20)})
                    at += 20
                await changing
                await gateway.deliver({(at, at + 9): tagged(gateway, at, 10, '{"line":"7","site":"south"}')})
                assert rig.stored("g") == list(range(1, at + 10))
            assert not worker.has_ended
            assert "trying again" not in worker.said[said:], "a schema that is newer is nothing that a worker notices"
        rig.assert_accounted()
        assert rig.rows("SELECT DISTINCT trust FROM fieldline.readings") == [(0.5,)]
        assert rig.rows(
            "SELECT DISTINCT tags FROM fieldline.readings WHERE device = 'tagged' ORDER BY toString(tags)"
        ) == [
            ({"line": "7", "site": "south"},),
            ({"site": "north"},),
        ]
        assert rig.rows("SELECT DISTINCT unit FROM fieldline.readings ORDER BY unit") == [("furlong",), ("u",)]

    with mosquitto(tmp_path) as broker, clickhouse(tmp_path / "ch") as server:
        client = connect(server.url, database="default")
        migrate(client, WITHOUT_TAGS)
        asyncio.run(run(Rig(tmp_path, broker, server, client)))
        client.close()
