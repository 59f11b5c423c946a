"""One insert, repeated: the same bytes, settings and token every time, and a token that stands for nothing else.

The client is a fake that fails; what a real engine makes of the token is in tests/integration/test_custody.py
and test_fencing.py.
"""

import logging
import threading
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from ingest.clickhouse.client import INSERT_SETTINGS
from ingest.insert import CONTENT_CODES, FENCED, ContentError, FencedError, Inserter, StoppedError
from ingest.tables import LOSSES

TOO_MANY_PARTS, READ_ONLY, NO_MEMORY, NO_TABLE, CANCELLED, WRONG_PASSWORD = 252, 164, 241, 60, 394, 516

Call = tuple[list[bytes], dict[str, object], dict[str, str]]


@dataclass
class FailingClient:
    """Fails with each of `errors`, then takes everything."""

    errors: list[Exception]
    calls: list[Call] = field(default_factory=list)
    server_settings: dict[str, object] = field(
        default_factory=lambda: {**INSERT_SETTINGS, "insert_deduplication_token": ""}
    )

    def raw_insert(
        self, insert_block: list[bytes], settings: dict[str, object], transport_settings: dict[str, str]
    ) -> None:
        self.calls.append((list(map(bytes, insert_block)), settings, transport_settings))
        if self.errors:
            raise self.errors.pop(0)


class Impatient(threading.Event):
    """Counts the pauses between attempts, and makes none."""

    pauses = 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses += 1
        return self.is_set()


def inserter(*errors: Exception, worker: str = "w1", partitions: tuple[int, ...] = (3, 7)) -> Inserter:
    return Inserter(FailingClient(list(errors)), worker, list(partitions), Impatient())


def rows(*lasts: int) -> pa.Table:
    columns = dict.fromkeys(LOSSES.schema.names, "")
    made = [{**columns, "first_seq": 1, "last_seq": last, "declared_at": 0, "ingested_at": 0} for last in lasts]
    return pa.Table.from_pylist(made, LOSSES.schema)


def sent(one: Inserter) -> list[Call]:
    assert isinstance(one.client, FailingClient)
    return one.client.calls


def token(one: Inserter) -> object:
    return sent(one)[-1][1]["insert_deduplication_token"]


def failure(code: int | None, text: str = "DB::Exception: no") -> Exception:
    error: Exception = DatabaseError(text, code=code)
    return error


def test_every_attempt_sends_the_same() -> None:
    one = inserter(OperationalError("gone"), failure(TOO_MANY_PARTS), ConnectionResetError(), failure(CANCELLED))
    one.insert(LOSSES, rows(1, 2, 3))
    assert len(sent(one)) == 5
    assert all(call == sent(one)[0] for call in sent(one))


def test_the_token_stands_for_this_content_of_this_worker() -> None:
    tokens = []
    for worker, lasts in (("w1", (1, 2)), ("w1", (1, 3)), ("w1", (1,)), ("w1", (2, 1)), ("w2", (1, 2))):
        one = inserter(worker=worker)
        one.insert(LOSSES, rows(*lasts))
        assert str(token(one)).startswith(worker)
        tokens.append(token(one))
    assert len(set(tokens)) == 5
    again = inserter()
    again.insert(LOSSES, rows(1, 2))
    assert token(again) == tokens[0]


def test_the_statement_carries_the_fence_and_the_settings() -> None:
    one = inserter()
    one.insert(LOSSES, rows(1))
    ((body, settings, transport),) = sent(one)
    statement = body[0].partition(b"\n")[0].decode()
    assert statement.endswith(" FORMAT Native")
    assert transport == {"Content-Length": str(len(b"".join(body)))}
    assert "/* fieldline worker w1 */" in statement, "KILL QUERY finds it by this"
    assert "countIf(owner != 'w1')" in statement
    assert "partition IN (3,7)" in statement
    assert FENCED in statement
    assert settings == {**INSERT_SETTINGS, "insert_deduplication_token": token(one)}


def test_a_setting_that_an_older_server_does_not_know_is_left_out() -> None:
    one = inserter()
    del one.client.server_settings["deduplicate_insert_select"]
    one.insert(LOSSES, rows(1))
    settings = sent(one)[0][1]
    assert "deduplicate_insert_select" not in settings
    assert {"wait_end_of_query", "async_insert", "insert_deduplication_token"} <= set(settings)


@pytest.mark.parametrize("code", sorted(CONTENT_CODES))
def test_what_says_these_rows_is_not_tried_again(code: int) -> None:
    one = inserter(failure(code, "DB::Exception: Constraint `sane` is violated"))
    with pytest.raises(ContentError, match="sane"):
        one.insert(LOSSES, rows(1))
    assert len(sent(one)) == 1


def test_a_fence_ends_it_at_once() -> None:
    one = inserter(failure(395, f"DB::Exception: {FENCED}: while executing"))
    with pytest.raises(FencedError, match="Another worker has taken over"):
        one.insert(LOSSES, rows(1))
    assert len(sent(one)) == 1


@pytest.mark.parametrize("code", [TOO_MANY_PARTS, READ_ONLY, NO_MEMORY, NO_TABLE, CANCELLED, WRONG_PASSWORD, None])
def test_what_can_pass_is_tried_again_and_said_once(code: int | None, caplog: pytest.LogCaptureFixture) -> None:
    one = inserter(*(failure(code, "DB::Exception: not now") for _ in range(5)))
    with caplog.at_level(logging.INFO):
        one.insert(LOSSES, rows(1))
    assert [record.message for record in caplog.records] == [
        "ClickHouse does not take losses now, trying again: DB::Exception: not now",
        "ClickHouse takes inserts again.",
    ]
    assert one.trouble == ""
    assert isinstance(one.stop, Impatient)
    assert one.stop.pauses == 5


def test_a_stop_ends_the_waiting() -> None:
    one = inserter(*(failure(TOO_MANY_PARTS) for _ in range(5)))
    one.stop.set()
    with pytest.raises(StoppedError):
        one.insert(LOSSES, rows(1))
    assert len(sent(one)) == 1
    assert one.trouble.startswith("ClickHouse does not take losses now, trying again: ")
