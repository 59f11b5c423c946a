"""The HTTP interface on a full disk, without an engine."""

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from ingest.clickhouse.engine import Engine, EngineError
from ingest.clickhouse.interface import Interface
from ingest.clickhouse.lanes import Lanes
from ingest.clickhouse.spill import Spill


class FullDisk(Spill):
    """Its files are on a device that has no space."""

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        with Path("/dev/full").open("wb", buffering=0) as file:
            yield file


class NoRoom(Engine):
    """Its disk has less free than it wants."""

    def check_room(self, free_bytes_min: int = 2**62) -> None:
        super().check_room(free_bytes_min)


def answered(engine: Engine, spill: Spill, body: bytes) -> tuple[int, str]:
    """Status and text of the answer to a POST."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        lanes = Lanes({"read": 1, "write": 1, "control": 1})
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
        await Interface(engine, spill, lanes)(scope, receive, send)
        lanes.close()

    asyncio.run(main())
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def test_data_that_finds_no_space_is_refused_with_a_sentence(tmp_path: Path) -> None:
    body = b"INSERT INTO t FORMAT TSV\n" + b"1\n" * 1_000_000
    status, text = answered(Engine(tmp_path), FullDisk(tmp_path), body)
    assert status == 500
    assert text.startswith(f"Code: 243. DB::Exception: The disk of {tmp_path} is full. Free some of it. (NOT_ENOUGH")


@pytest.mark.parametrize("text", ["CREATE TABLE t (a Int8) ENGINE = Memory", "ALTER TABLE t ADD COLUMN a Int8"])
def test_a_definition_is_not_written_to_a_full_disk(tmp_path: Path, text: str) -> None:
    status, said = answered(NoRoom(tmp_path), Spill(tmp_path), text.encode())
    assert status == 500
    assert "are needed to change a definition" in said


def test_what_frees_space_is_not_refused(tmp_path: Path) -> None:
    for text in ("ALTER TABLE t DROP PARTITION 1", "DROP TABLE t", "TRUNCATE TABLE t"):
        _, said = answered(NoRoom(tmp_path), Spill(tmp_path), text.encode())
        assert "are needed" not in said


def test_there_is_room_here(tmp_path: Path) -> None:
    Engine(tmp_path).check_room(1)
    with pytest.raises(EngineError, match="Drop a partition"):
        Engine(tmp_path).check_room(2**62)
