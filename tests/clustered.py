"""The embedded ClickHouse as the only server of its clusters: Distributed tables are real here, replication is not.

`python -m tests.clustered --path DIR --port PORT` is `ingest.clickhouse.server` with two clusters: `one`, a shard, and
`two`, the same server as both of its shards: what is stored is seen twice, but planned as over two shards. Every
statement has the settings that a worker's user has on a cluster. There is no Keeper, so `embedded` takes from a
statement what would need it.
"""

import re
import sys
from pathlib import Path
from typing import Any

from analytics.cluster import WORKER_SETTINGS
from ingest.clickhouse import engine, server
from ingest.clickhouse.client import Client

_CONFIG = """<clickhouse>
  <tcp_port>9000</tcp_port>
  <macros><shard>1</shard><replica>1</replica></macros>
  <remote_servers>
    <one>
      <shard><internal_replication>true</internal_replication>
        <replica><host>localhost</host><port>9000</port></replica></shard>
    </one>
    <two>
      <shard><replica><host>localhost</host><port>9000</port></replica></shard>
      <shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
    </two>
  </remote_servers>
</clickhouse>"""
"""A replica is local if its port is tcp_port and its host an address of this machine. Nothing listens there."""


def embedded(statement: str) -> str:
    """A statement of the cluster form as one server without Keeper takes it."""
    statement = re.sub(r" ON CLUSTER '[^']*'", "", statement)
    statement = re.sub(r"\breplicated_deduplication_window =", "non_replicated_deduplication_window =", statement)
    return re.sub(r"\bReplicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?", r"\1(", statement)


class Embedded:
    """A client that sends what `embedded` makes of its commands."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.query = client.query
        self.server_version = client.server_version
        self.server_settings = client.server_settings

    def command(self, statement: str, **options: Any) -> object:
        return self.client.command(embedded(statement), **options)


def main() -> None:
    from chdb.state import sqlitelike

    config = Path(f"{sys.argv[sys.argv.index('--path') + 1]}.xml")
    config.write_text(_CONFIG, encoding="utf-8")
    connect = sqlitelike.connect
    sqlitelike.connect = lambda where: connect(f"{where}?config-file={config}")
    engine._AS_A_SERVER |= WORKER_SETTINGS
    server.main()


if __name__ == "__main__":
    main()
