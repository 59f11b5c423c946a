"""Sparkplug's room: topics, names, limits, how often it asks; and in the agent: births durable with their readings."""

import asyncio
import logging
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commit import GroupCommit
from edge_agent.config import GatewayConfig, Sparkplug
from edge_agent.decode import Decoder
from edge_agent.readings import Readings
from edge_agent.sparkplug import room
from edge_agent.sparkplug.room import Room
from edge_agent.spool import Spool
from telemetry.columns import Columns
from telemetry.delivery import Chunk, Delivery
from telemetry.errors import FieldlineError
from tests.committing import rig
from tests.records import NEW_YEAR_MS, numbered
from tests.sparkplug import DOUBLE, Ids, bd_seq, payload, values
from tests.spool import ALL, opened

LEVEL = {"name": "Level", "alias": 1, "datatype": DOUBLE, "double_value": 0.5}
BIRTH = payload(bd_seq(0), LEVEL, seq=0)
DATA = payload({"alias": 1, "double_value": 1.5}, seq=1)


def made(births: dict[str, bytes] | None = None, **config: Any) -> tuple[Room, Ids]:
    ids = Ids()
    return Room(Sparkplug.model_validate(config), ids.__getitem__, births or {}), ids


def told(of: Room, topic: str, content: bytes, at_ms: int = NEW_YEAR_MS) -> Readings:
    readings = Readings()
    decode = of.decoder(topic)
    assert decode is not None
    decode(content, at_ms, readings)
    return readings


def test_names_have_the_group_unless_the_config_says_otherwise() -> None:
    for option, device in (("group/node/device", "Plant 7/press"), ("node/device", "press")):
        of, ids = made(device=option)
        told(of, "spBv1.0/Plant 7/NBIRTH/press", BIRTH)
        told(of, "spBv1.0/Plant 7/DBIRTH/press/motor", BIRTH)
        assert {series.device for series in ids} == {device, f"{device}/motor"}


def test_groups_do_not_share_sessions() -> None:
    of, ids = made()
    told(of, "spBv1.0/a/NBIRTH/n", BIRTH)
    assert not told(of, "spBv1.0/b/NDATA/n", DATA).series
    assert values(ids.named(told(of, "spBv1.0/a/NDATA/n", DATA))) == [("a/n", "Level", 1.5)]


@pytest.mark.parametrize("topic", ["spBv1.0/g/NCMD/n", "spBv1.0/g/DCMD/n/d", "spBv1.0/STATE/host"])
def test_commands_and_states_are_no_measurements(topic: str) -> None:
    of, _ = made()
    assert told(of, topic, b'{"online": true}') == Readings()
    assert not of.take().commands


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/g",
        "/g/NDATA",
        "/g/NDATA/n/d",
        "/g/DDATA/n",
        "/g/XDATA/n",
        "//NDATA/n",
        "/g/NDATA/",
        "/g/ndata/n",
        "/g/DDATA/n/",
    ],
)
def test_topics_that_are_none_of_sparkplugs(topic: str) -> None:
    of, _ = made()
    with pytest.raises(FieldlineError, match="none of Sparkplug's"):
        of.decoder(f"spBv1.0{topic}")


def test_other_topics_are_not_for_it_and_names_must_be_names() -> None:
    of, _ = made()
    assert of.decoder("devices/d/telemetry") is None
    assert of.decoder("spBv1.01/g/NDATA/n") is None
    with pytest.raises(FieldlineError, match="has 133 characters"):
        of.decoder(f"spBv1.0/g/DDATA/n/{'x' * 129}")


def asks(of: Room, node: str, at_ms: int) -> bool:
    told(of, f"spBv1.0/g/NDATA/{node}", DATA, at_ms)
    return bool(of.take().commands)


def test_a_node_is_asked_again_after_the_interval_and_not_earlier() -> None:
    of, _ = made(rebirth_interval_s=10)
    asked_s = [s for s in range(25) if asks(of, "n", NEW_YEAR_MS + 1000 * s)]
    assert asked_s == [0, 10, 20]
    assert asks(of, "n", NEW_YEAR_MS), "a clock that was set back makes nobody wait"


def test_many_nodes_are_asked_one_after_another() -> None:
    of, _ = made()
    first = [asks(of, f"n{i}", NEW_YEAR_MS + i) for i in range(200)]
    assert [i for i, asked in enumerate(first) if asked] == [0, 100]
    assert asks(of, "n1", NEW_YEAR_MS + 300), "who was passed over is asked with its next message"


def test_nobody_is_asked_if_the_config_says_so() -> None:
    of, _ = made(request_rebirth=False)
    assert not asks(of, "n", NEW_YEAR_MS)


def test_nodes_and_births_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "NODES_MAX", 2)
    of, _ = made()
    for node in ("a", "b", "c"):  # whoever has no birth makes room
        told(of, f"spBv1.0/g/NDATA/{node}", DATA)
    for node in ("a", "b"):
        told(of, f"spBv1.0/g/NBIRTH/{node}", BIRTH)
    with pytest.raises(FieldlineError, match="already has 2 Sparkplug edge nodes"):
        told(of, "spBv1.0/g/NDATA/c", DATA)
    monkeypatch.setattr(room, "BIRTHS_BYTES_MAX", 2 * len(BIRTH))
    for _ in range(3):
        told(of, "spBv1.0/g/NBIRTH/a", BIRTH)
    of.take()
    readings = Readings()
    decode = of.decoder("spBv1.0/g/DBIRTH/a/d")
    assert decode is not None
    assert (decode(BIRTH, NEW_YEAR_MS, readings) or "").startswith("the gateway's birth certificates already have")
    assert not readings.series
    told(of, "spBv1.0/g/NDEATH/b", payload(bd_seq(0)))
    assert decode(BIRTH, NEW_YEAR_MS, readings) is None


def test_a_birth_of_another_version_in_the_spool_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        of, _ = made({"spBv1.0/g/NBIRTH/n": b"\x08", "spBv1.0/x": BIRTH, "spBv1.0/g/NBIRTH/m": BIRTH})
    assert len(caplog.records) == 2
    assert of.take().births == {"spBv1.0/g/NBIRTH/n": None, "spBv1.0/x": None}
    assert told(of, "spBv1.0/g/NDATA/m", DATA).value == [1.5]


def config(**more: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"gateway": "g", "mqtt": {}, "sparkplug": {}, **more})


def test_the_decode_stage_keeps_a_message_beside_its_readings() -> None:
    ids, columns = Ids(), Columns()
    both = payload({"alias": 1, "double_value": 1.5}, {"alias": 2, "double_value": 2.5}, seq=1)
    topics = ["spBv1.0/g/NBIRTH/n", "spBv1.0/g/NDATA/n", "devices/d/telemetry", "spBv1.0/g/x"]
    decoder = Decoder(config(), ids.__getitem__, {})
    refused = decoder.decode(Chunk(NEW_YEAR_MS, topics, [BIRTH, both, b'{"p": 1}', b"x"], [0] * 4), columns)
    assert sorted(refused) == [1, 3]
    assert list(columns.value[:4]) == [1.0, 0.0, 0.5, 1.5]
    assert columns.dead[4].raw == both
    assert columns.value[5] == 1.0
    todo = decoder.take()
    assert todo is not None
    assert list(todo.births) == topics[:1]


def test_the_example_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    section = page.split("\n## sparkplug\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    start = next(at for at, line in enumerate(lines) if line.startswith("spBv1.0/"))
    ids = Ids()
    written = config(**tomllib.loads("\n".join(lines[:start])))
    assert written.sparkplug == Sparkplug()
    decoder = Decoder(written, ids.__getitem__, {})
    got: list[str] = []
    for message in re.split(r"\n(?=spBv1\.0/)", "\n".join(lines[start:])):
        topic, *rest = message.splitlines()
        digits = "".join(line for line in rest if not line.startswith(" "))
        columns = Columns()
        assert not decoder.decode(Chunk(NEW_YEAR_MS, [topic], [bytes.fromhex(digits)], [0]), columns)
        of = [list(ids)[id_] for id_ in columns.series]
        shown = [f"    {s.device}  {s.metric}  {v:g} {s.unit}".rstrip() for s, v in zip(of, columns.value, strict=True)]
        assert shown == [line for line in rest if line.startswith(" ")]
        got += shown
    assert len(got) == 6


def test_a_birth_too_large_to_be_decoded_ends_the_one_before() -> None:
    decoder = Decoder(config(collect={"payload_bytes_max": 64}), Ids().__getitem__, {})
    topics = ["spBv1.0/g/NBIRTH/n", "spBv1.0/g/NBIRTH/n", "spBv1.0/g/NDATA/n"]
    columns = Columns()
    refused = decoder.decode(Chunk(NEW_YEAR_MS, topics, [BIRTH, BIRTH + b"\x12\0" * 64, DATA], [0] * 3), columns)
    assert len(BIRTH) <= 64
    assert refused[1].startswith("the payload has")
    assert refused[2] == "alias 1 is in no birth certificate of the session"


def test_nothing_of_sparkplug_is_read_alone() -> None:
    columns, _ = Decoder.alone(config())(Chunk(NEW_YEAR_MS, ["spBv1.0/g/NBIRTH/n"], [BIRTH], [0]))
    assert columns.dead[0].reason.startswith("a Sparkplug message cannot be read alone")
    without = GatewayConfig.model_validate({"gateway": "g", "mqtt": {}})
    columns, _ = Decoder.alone(without)(Chunk(NEW_YEAR_MS, ["spBv1.0/g/NBIRTH/n"], [BIRTH], [0]))
    assert "matches no mapping" in columns.dead[0].reason


def test_births_live_in_the_spool_until_a_death(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(numbered(1, 1), births={"a": b"1", "b": b"2"})
        spool.append(numbered(2, 1), births={"a": b"3", "c": None})
    with opened(tmp_path) as spool:
        assert spool.births() == {"b": b"2", "a": b"3"}
        spool.append(numbered(3, 1), births={"b": None})
        assert spool.births() == {"a": b"3"}


def test_births_do_not_hide_what_a_damaged_spool_holds(tmp_path: Path) -> None:
    from edge_agent.spool_copy import SpoolCopy

    with opened(tmp_path) as spool:
        spool.append(numbered(1, 3), [7, 8], births={f"t{i}": bytes([i]) * 8 * i for i in range(200)})
        spool.append(numbered(4, 2), [9])
    copy = SpoolCopy(tmp_path / "spool.db")
    assert (copy.next_seq, copy.readable, copy.journal, copy.gateway) == (6, 5, [7, 8, 9], "g")
    copy.close()


def test_a_birth_and_a_command_leave_with_the_commit_and_not_before(tmp_path: Path) -> None:
    async def main() -> None:
        published: list[tuple[str, int]] = []
        async with rig(tmp_path) as it:
            commit = with_sparkplug(it.commit, it.spool)
            commit.publish = lambda topic, _payload: published.append((topic, it.spool.next_seq))
            it.gate.clear()
            chunk = Chunk(NEW_YEAR_MS, ["spBv1.0/g/NBIRTH/n", "spBv1.0/g/DDATA/n/d"], [BIRTH, DATA], [1, 2])
            await commit.deliver(Delivery(chunk, lambda _: it.settled.append(("x", _, 0))))
            await asyncio.sleep(0.02)
            assert not published
            assert it.spool.births() == {}
            it.failures = [OSError("no")]
            it.gate.set()
            await it.until_settled(1)
            assert it.spool.births() == {"spBv1.0/g/NBIRTH/n": BIRTH}
            await asyncio.sleep(0)
            assert published == [("spBv1.0/g/NCMD/n", 5)]
            run = it.spool.read(0, ALL, ALL)
            assert run is not None

    asyncio.run(main())


def with_sparkplug(commit: GroupCommit, spool: Spool) -> GroupCommit:
    commit._decoder = Decoder(config(), spool.series_id, spool.births())
    return commit
