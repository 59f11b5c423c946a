"""`fieldline dead-letters`: list, show, replay, against the real engine."""

import io
import json
import subprocess
import sys

import pytest

from analytics import dead_letters, replay
from analytics.account import fetch
from analytics.dead_letters import Filter
from analytics.migrate import migrate
from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from ingest.clickhouse.client import connect
from ingest.insert import ContentError, Inserter
from telemetry.errors import FieldlineError
from tests.clickhouse import ROOT, clickhouse

JUNE, MAY = 1_717_200_000_000, 1_714_521_600_000
MESSAGE = b'{"ts": %d, "a": %d, "b": 2.5}'


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("letters") / "ch") as server:
        yield server


@pytest.fixture
def server(running):
    """A server with an empty database."""
    client = connect(running.url, database="default")
    client.command("DROP DATABASE IF EXISTS fieldline SYNC")
    migrate(client)
    client.close()
    return running


@pytest.fixture
def client(server):
    connection = connect(server.url)
    yield connection
    connection.close()


def bury(client, *letters, gateway="g", epoch="e1"):
    """Store dead letters with the seqs 1, 2, 3 …; each is (source, raw, reason). The ledger vouches for them."""
    for seq, (source, raw, reason) in enumerate(letters, 1):
        client.command(
            "INSERT INTO fieldline.dead_letters SELECT %(gateway)s, %(epoch)s, %(seq)s, "
            "fromUnixTimestamp64Milli(%(at)s, 'UTC'), now64(3), %(source)s, %(reason)s, unhex(%(raw)s)",
            parameters={
                "gateway": gateway,
                "epoch": epoch,
                "seq": seq,
                "at": JUNE + seq,
                "source": source,
                "reason": reason,
                "raw": raw.hex(),
            },
        )
    client.command(
        "INSERT INTO fieldline.ledger (gateway, epoch, mark, version) SELECT %(gateway)s, %(epoch)s, %(mark)s, 1",
        parameters={"gateway": gateway, "epoch": epoch, "mark": len(letters)},
    )


def mapped(*topics):
    """What decodes with a mapping of these topics."""
    mappings = [{"topic": topic} for topic in topics]
    return Decoder.alone(GatewayConfig.model_validate({"gateway": "g", "coap": {}, "mappings": mappings}))


def replayed(server, *topics, **options):
    """Exit status and what is said."""
    out = io.StringIO()
    chosen = options.pop("chosen", Filter("g"))
    return replay.run(server.url, mapped(*topics), chosen, out=out, **options), out.getvalue()


def readings(client):
    query = (
        "SELECT epoch, seq, device, metric, toUnixTimestamp64Milli(measured_at), value, "
        "toUnixTimestamp64Milli(received_at) FROM fieldline.readings ORDER BY ALL"
    )
    return client.query(query).result_rows


def test_list_groups_by_what_the_reasons_say(server, client):
    letters = [(f"x/{n}", b"{", f"topic 'x/{n}' matches no mapping") for n in range(3)]
    bury(client, *letters, ("devices/\x1b[31md", b"1", "the value of 'a' is \x1b]0;x\x07"))
    out = io.StringIO()
    assert dead_letters.list_(server.url, Filter(), "json", out=out) == 0
    first, second = json.loads(out.getvalue())
    assert (first["letters"], first["replayed"], first["gateways"]) == (3, 0, 1)
    assert (first["latest_reason"], first["latest_id"]) == ("topic 'x/2' matches no mapping", "g/e1/3")
    assert second["letters"] == 1
    out = io.StringIO()
    dead_letters.list_(server.url, Filter(reason="MATCHES NO"), out=out)
    assert "topic 'x/2' matches no mapping" in out.getvalue()
    assert "the value of" not in out.getvalue()
    out = io.StringIO()
    dead_letters.list_(server.url, Filter(), out=out)
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()


def test_list_of_nothing(server):
    out = io.StringIO()
    assert dead_letters.list_(server.url, Filter(), out=out) == 0
    assert out.getvalue() == "No dead letters.\n"


def test_show_obeys_no_bytes(server, client):
    bury(client, ("t", b'{"a":\n 1', "not JSON"), ("t", b"\x1b[2J\xff", "not UTF-8"), ("t", bytes(10_000), "zeros"))
    out = io.StringIO()
    dead_letters.show(server.url, Filter(), 10, out=out)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert '    {"a":\n     1\n' in shown
    assert "000000  1b 5b 32 4a ff" in shown
    assert ".[2J." in shown
    assert "… and 5,904 bytes more" in shown
    with pytest.raises(FieldlineError, match="no such dead letter"):
        dead_letters.show(server.url, Filter.of("g/e1/9"), 10)


def test_raw_bytes_come_out_as_they_went_in(server, client):
    raw = bytes(range(256)) * 40
    bury(client, ("t", raw, "bad"), ("t", b"x", "bad"))
    command = [sys.executable, "-m", "fieldline", "dead-letters", "show", "--raw", "--url", server.url]
    done = subprocess.run([*command, "g/e1/1"], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stdout == raw
    several = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert several.returncode == 1
    assert b"several" in several.stderr


@pytest.mark.parametrize("text", ["g", "g/e", "g/e/x", "/e/1", "g/e/-1", f"g/e/{2**64}"])
def test_a_wrong_id_is_told(text):
    with pytest.raises(FieldlineError, match="is not the id of a dead letter"):
        Filter.of(text)


def test_replay_after_a_mend_stores_every_reading_once(server, client):
    bury(
        client,
        ("site/d1", MESSAGE % (JUNE, 1), "topic 'site/d1' matches no mapping"),
        ("site/d2", MESSAGE % (MAY, 2), "topic 'site/d2' matches no mapping"),
        ("site/d3", b"{", "topic 'site/d3' matches no mapping"),
    )
    assert replayed(server, "devices/{device}/telemetry")[0] == 1
    assert readings(client) == []
    status, said = replayed(server, "site/{device}", dry=True)
    assert (status, said.splitlines()[0]) == (1, "2 dead letters would give 4 readings.")
    assert readings(client) == []
    status, said = replayed(server, "site/{device}")
    assert status == 1
    assert said.splitlines()[:2] == ["2 dead letters gave 4 readings.", "1 still cannot become readings:"]
    stored = readings(client)
    assert stored == [
        ("e1", 1, "d1", "a", JUNE, 1, JUNE + 1),
        ("e1", 1, "d1", "b", JUNE, 2.5, JUNE + 1),
        ("e1", 2, "d2", "a", MAY, 2, JUNE + 2),
        ("e1", 2, "d2", "b", MAY, 2.5, JUNE + 2),
    ]
    assert replayed(server, "site/{device}")[1].splitlines()[0] == "0 dead letters gave 0 readings."
    assert readings(client) == stored
    (row,) = fetch(client)
    assert row.identity_holds
    assert (row.committed, row.stored, row.dead_lettered) == (3, 0, 3)
    out = io.StringIO()
    dead_letters.list_(server.url, Filter(), "json", out=out)
    assert json.loads(out.getvalue())[0]["replayed"] == 2


def test_a_wrong_mend_is_replaced(server, client):
    bury(client, ("site/d1/x", MESSAGE % (JUNE, 1), "no mapping"))
    replayed(server, "site/+/{device}")
    assert {row[2] for row in readings(client)} == {"x"}
    assert "no such dead letters" in replayed(server, "site/{device}/+")[1]
    assert replayed(server, "site/{device}/+", again=True)[0] == 0
    assert [row[2:4] for row in readings(client)] == [("d1", "a"), ("d1", "b")]


def test_only_the_gateway_and_the_reason_that_were_chosen(server, client):
    bury(client, ("site/d1", MESSAGE % (JUNE, 1), "one"), ("site/d2", MESSAGE % (JUNE, 1), "two"))
    bury(client, ("site/d3", MESSAGE % (JUNE, 1), "one"), gateway="other")
    replayed(server, "site/{device}", chosen=Filter("g", reason="ONE"))
    assert {row[2] for row in readings(client)} == {"d1"}
    replayed(server, "site/{device}", chosen=Filter.of("g/e1/2"))
    assert {row[2] for row in readings(client)} == {"d1", "d2"}


def test_what_is_not_whole_or_no_payload_is_refused(server, client):
    bury(
        client,
        ("site/d1", b"1", "the payload has 100 bytes, payload_bytes_max is 64; the first 1 are kept"),
        ("site/d2", MESSAGE % (JUNE, 1), "ClickHouse: no"),
        ("site/d3", MESSAGE % (-1000, 1), "no mapping"),
    )
    status, said = replayed(server, "site/{device}")
    assert status == 1
    assert "3 still cannot become readings" in said
    assert readings(client) == []


@pytest.mark.parametrize("dies_at", range(1, 6))
def test_a_replay_that_was_killed_anywhere_is_made_good_by_the_next(server, client, monkeypatch, dies_at):
    bury(client, ("site/d1/x", MESSAGE % (JUNE, 1), "no mapping"), ("site/d2/x", MESSAGE % (MAY, 2), "no mapping"))
    insert, calls = Inserter.insert, 0

    def dying(self, target, rows):
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        insert(self, target, rows)

    monkeypatch.setattr(Inserter, "insert", dying)
    try:
        replayed(server, "site/+/{device}")
    except KeyboardInterrupt:
        assert dies_at <= 4  # begun, June, July, done
    monkeypatch.undo()
    replayed(server, "site/{device}/+", again=True)
    assert [row[1:4] for row in readings(client)] == [(1, "d1", "a"), (1, "d1", "b"), (2, "d2", "a"), (2, "d2", "b")]
    assert fetch(client)[0].identity_holds


def test_readings_that_clickhouse_refuses_are_found_among_the_others(server, client, monkeypatch):
    bury(client, *((f"site/d{n}", MESSAGE % (JUNE, n), "no mapping") for n in range(7)))
    insert = Inserter.insert

    def refusing(self, target, rows):
        if "device" in rows.column_names and "d4" in rows["device"].to_pylist():
            raise ContentError("Code: 6. d4 is refused")
        insert(self, target, rows)

    monkeypatch.setattr(Inserter, "insert", refusing)
    status, said = replayed(server, "site/{device}")
    assert status == 1
    assert said.splitlines()[0] == "6 dead letters gave 12 readings."
    assert "1: ClickHouse: Code: 6. d4 is refused" in said
    assert len(readings(client)) == 12
    assert len({row[1:4] for row in readings(client)}) == 12


def test_a_replay_that_was_stopped_by_who_looks_on_is_gone_on_with(server, client, monkeypatch):
    bury(client, *((f"site/d{n}", MESSAGE % (JUNE, n), "no mapping") for n in range(5)))
    monkeypatch.setattr(replay, "GROUP_LETTERS_MAX", 2)
    steps = []

    def stop(step):
        steps.append((step.letters, step.total, len(step.decoded)))
        raise FieldlineError("stopped")

    with pytest.raises(FieldlineError, match="stopped"):
        replay.replay(client, mapped("site/{device}"), Filter("g"), seen=stop)
    assert steps == [(2, 5, 2)]
    assert replayed(server, "site/{device}")[1] == "3 dead letters gave 6 readings.\n"
    assert len(readings(client)) == 10
    assert fetch(client)[0].identity_holds


def test_a_replay_that_was_overtaken_stores_and_removes_nothing(server, client):
    bury(client, ("site/d1", MESSAGE % (JUNE, 1), "no mapping"))
    former = replay.Replay.begin(client, "g")
    letters = replay._fetch(client, "g", [("e1", 1)])
    decoded = [replay._decode(letters[0], mapped("site/{device}"), replay.Outcome())]
    assert replayed(server, "site/{device}")[0] == 0
    stored = readings(client)
    with pytest.raises(FieldlineError, match="another replay has begun"):
        former.store(letters, decoded, replay.Outcome())
    former._remove(letters, below=former.number)
    assert readings(client) == stored
