"""KILL QUERY of a writer and a reader: one shape, whatever the blanks, and only the own queries of a reader."""

import pytest

from ingest.clickhouse.kill import restricted
from ingest.clickhouse.statement import StatementError

WORKER = b"KILL QUERY WHERE query LIKE '%fieldline worker w-1 %' AND query NOT LIKE 'KILL%' SYNC"


def test_a_writer_ends_what_a_worker_left() -> None:
    assert restricted(WORKER, None) == WORKER
    assert restricted(b"kill query where query_id = 'a' -- c", None).endswith(b"Settings['log_comment'] = 'a'")


def test_a_reader_ends_only_its_own() -> None:
    mine = restricted(WORKER + b";", ["a", "it's\\"])
    assert mine == WORKER.removesuffix(b" SYNC") + rb" AND Settings['log_comment'] IN ('a', 'it\'s\\') SYNC"
    assert restricted(b"KILL QUERY WHERE query_id='b'", []).endswith(b"='b' AND 0")


@pytest.mark.parametrize(
    "text",
    [
        "KILL QUERY WHERE 1",
        "KILL QUERY WHERE query_id = 'a' OR 1",
        "KILL QUERY WHERE query_id = 'a') OR (1",
        "KILL QUERY WHERE query_id = file('/etc/hostname')",
        "KILL QUERY WHERE query_id = (SELECT 'a')",
        "KILL QUERY WHERE query_id = 'a",
        "KILL QUERY WHERE query_id = 'a\\'",
        "KILL QUERY WHERE query_id = string",
        "KILL QUERY WHERE `query_id` = 'a'",
        "KILL QUERY WHERE user = 'default'",
        "KILL QUERY WHERE query_id = 'a' FORMAT JSON",
        "KILL QUERY ON CLUSTER c WHERE query_id = 'a'",
        "KILL MUTATION WHERE query_id = 'a'",
        "KILL QUERY WHERE query_id = 'a'; KILL QUERY WHERE query_id = 'b'",
        "KILL QUERY WHERE query = $$a$$",
        "KILL QUERY WHERE query_id = {a:String}",
        "KILL",
    ],
)
def test_every_other_shape_is_refused(text: str) -> None:
    for own in (None, ["a"]):
        with pytest.raises(StatementError, match="Not enough privileges"):
            restricted(text.encode(), own)
