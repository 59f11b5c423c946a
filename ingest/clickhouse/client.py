"""How every part of Fieldline reaches ClickHouse: one HTTP client by a URL, explicit settings, clear errors.

The URL is described in ingest/clickhouse/address.py. A client has no session, keeps its own connections and
belongs to one thread. Towards loopback nothing is compressed, and no proxy of the environment is used.

Inserts. A block is committed as a whole and only once if the server does for a retry exactly what it did
before, so INSERT_SETTINGS leaves nothing to defaults that differ between versions: no asynchronous insert,
one thread, the answer only after the part is on disk, deduplication on (and refused without a token where
rows come through a SELECT), and one Arrow record batch of up to BLOCK_ROWS_MAX rows stays one block.

Nothing is retried in here, with one exception that clickhouse_connect does not let switch off: a request
that only reads is sent once more when its connection breaks.
"""

import logging
import socket
from collections.abc import Mapping, Sequence

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import all_managers, core_socket_options, get_pool_manager

from ingest.clickhouse.address import DATABASE, URL_DEFAULT, Address, address
from ingest.clickhouse.explain import explain, server_text

__all__ = [
    "BLOCK_ROWS_MAX",
    "DATABASE",
    "INSERT_SETTINGS",
    "URL_DEFAULT",
    "Address",
    "ClickHouseError",
    "Client",
    "address",
    "connect",
    "explain",
    "insert",
    "known",
    "server_text",
]

BLOCK_ROWS_MAX = 500_000

INSERT_SETTINGS: Mapping[str, int | str] = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "max_insert_threads": 1,
    "max_threads": 1,
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    "deduplicate_insert_select": "force_enable",
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # These squash or cut blocks. Those in rows are twice BLOCK_ROWS_MAX, those in bytes are off.
    "max_insert_block_size": 1_048_449,
    "max_insert_block_size_bytes": 0,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 0,
    "min_insert_block_size_rows_for_materialized_views": 0,
    "min_insert_block_size_bytes_for_materialized_views": 0,
    "input_format_parallel_parsing": 0,
}
"""What every insert of the worker sends. Settings that an older server lacks are left out by `known`."""

_LOOPBACK = (*core_socket_options, (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024))
"""A short send buffer: what is sent is received while it is still in the processor's cache, which here takes a fifth
less time for 10 MB than the 4 MB that Linux would let the buffer grow to."""

_TRANSPORT = frozenset({"wait_end_of_query"})  # a parameter of the HTTP interface, not in system.settings


def connect(
    url: str | None = None,
    *,
    database: str | None = None,
    connect_timeout_s: int = 5,
    answer_timeout_s: int = 300,
) -> Client:
    """Connect, check the login and read the server's settings.

    `database` overrides the URL's, e.g. `default` before the migrations have run. `answer_timeout_s` limits
    the silence while an answer is awaited. Raises ConfigError for the URL and FieldlineError, both sentences.
    """
    where = address(url)
    # Its warnings repeat, with a traceback, what the raised error says.
    for library in ("clickhouse_connect", "urllib3"):
        logging.getLogger(library).setLevel(logging.ERROR)
    own_pool = get_pool_manager(ca_cert=where.ca_file, socket_options=_LOOPBACK) if where.is_loopback else None
    options: dict[str, object] = {"dedicated_pool": True, "ca_cert": where.ca_file}
    if own_pool is not None:
        options = {"pool_mgr": own_pool, "compress": False}
    try:
        client = clickhouse_connect.get_client(
            interface=where.interface,
            host=where.host,
            port=where.port,
            username=where.username,
            password=where.password,
            database=database or where.database,
            connect_timeout=connect_timeout_s,
            send_receive_timeout=answer_timeout_s,
            autogenerate_session_id=False,
            query_retries=0,
            show_clickhouse_errors="scrub",
            client_name="fieldline",
            **options,
        )
    except (ClickHouseError, OSError, ValueError) as error:
        all_managers.pop(own_pool, None)  # else the library keeps the pool for as long as the process lives
        raise explain(error, where) from error
    client.http_retries = 0
    if own_pool is not None:
        client._backend.owns_pool_manager = True  # noqa: SLF001 - so that client.close() closes our own pool
    return client


def insert(
    client: Client, statement: str, body: Sequence[bytes | memoryview], settings: Mapping[str, int | str]
) -> None:
    """Send an INSERT with its data, in parts, as they are: neither copied, nor sent again when a connection breaks.

    Not by `client.command`, which decodes all of the data as text to see whether it is a query that only reads.
    """
    parts = [b"".join((statement.encode(), b"\n", body[0])), *body[1:]]
    length = str(sum(map(len, parts)))
    client.raw_insert(insert_block=parts, settings=dict(settings), transport_settings={"Content-Length": length})


def known(client: Client, settings: Mapping[str, int | str]) -> dict[str, int | str]:
    """The settings this server has; an unknown one would make it refuse the query."""
    return {name: value for name, value in settings.items() if name in _TRANSPORT or name in client.server_settings}
