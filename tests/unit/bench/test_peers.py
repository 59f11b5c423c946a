"""The comparison with others: what it counts, how it fills in configurations, and what it makes of measurements."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers import load
from bench.peers.install import STAMP, install, versions
from bench.peers.peer import HERE, PLACEHOLDER, Peer, Place, render
from bench.peers.peers import PEERS
from bench.peers.report import Result, draw, remarks, table
from bench.peers.runs import Custody, Round, Throughput
from bench.peers.thingsboard_gateway.stand_in import columns
from proof.checker import judge
from proof.ports import Ports
from telemetry.errors import FieldlineError

TEMPLATES = [
    path for path in HERE.glob("*/*") if path.suffix in {".json", ".yaml", ".js"} and path.name != "package.json"
]


def place(directory: Path) -> Place:
    return Place(directory, directory, Ports(mqtt=1, coap=2, trunk=3, clickhouse=4))


def test_no_reading_is_like_another():
    readings = load.told(range(5000))
    assert readings.total() == 5000 * len(load.METRICS)
    assert set(readings.values()) == {1}


def test_a_message_holds_the_readings_it_is_counted_as():
    topic, payload = load.message(4711)
    fields = json.loads(payload)
    at = fields.pop("ts")
    assert set(load.told([4711])) == {(topic.split("/")[1], metric, at, value) for metric, value in fields.items()}


def test_what_is_missing_and_what_is_double_is_told_apart():
    told, held = load.told(range(100)), load.told(range(10, 100))
    held[next(iter(held))] += 2
    missing, double = judge(told, held)
    assert (missing.total(), double.total()) == (30, 2)


def test_placeholders_are_filled_in():
    assert render("tcp://127.0.0.1:@MQTT_PORT@ @DIRECTORY@", {"MQTT_PORT": "1883", "DIRECTORY": "/d"}) == (
        "tcp://127.0.0.1:1883 /d"
    )


def test_an_unknown_placeholder_is_an_error():
    with pytest.raises(KeyError):
        render("@MQTT_PROT@", {"MQTT_PORT": "1883"})


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_can_be_rendered(template: Path, tmp_path: Path):
    text = place(tmp_path).render(template).read_text()
    assert not PLACEHOLDER.search(text)
    if template.suffix == ".json":
        json.loads(text)


def test_the_configurations_are_found():
    assert {path.parent.name for path in TEMPLATES} == {"mq_bridge", "node_red", "thingsboard_gateway"}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_says_why_it_is_set_up_so(peer: Peer):
    assert (peer.folder / "README.md").read_text().startswith("# ")


def test_a_flow_leads_to_nodes_that_exist(tmp_path: Path):
    nodes = json.loads(place(tmp_path).render(HERE / "node_red" / "flows.json").read_text())
    ids = {node["id"] for node in nodes}
    assert {target for node in nodes for wire in node.get("wires", []) for target in wire} <= ids


def test_readings_in_the_gateway_apis_telemetry():
    payload = b'{"dev-1": [{"ts": 5, "values": {"a": 1.5, "b": 2}}, {"ts": 6, "values": {"a": 3}}], "dev-2": []}'
    assert columns([payload]) == [["dev-1"] * 3, ["a", "b", "a"], [5, 5, 6], [1.5, 2, 3]]


def test_what_is_installed_already_is_used(tmp_path: Path):
    peer = next(peer for peer in PEERS if peer.name == "mq_bridge")
    where = tmp_path / peer.name
    where.mkdir()
    (where / STAMP).write_text((peer.folder / "requirements.txt").read_text())
    assert install(peer, tmp_path) == where


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FieldlineError, match="npm is missing"):
        install(next(peer for peer in PEERS if peer.name == "node_red"), tmp_path / "peers")


def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(FieldlineError, match="a package registry that npm can reach; npm said: no network"):
        install(next(peer for peer in PEERS if peer.name == "node_red"), tmp_path / "peers")


def test_the_versions_are_those_that_are_installed(tmp_path: Path):
    peer = next(peer for peer in PEERS if peer.name == "node_red")
    for name in peer.packages:
        (tmp_path / "node_modules" / name).mkdir(parents=True)
        (tmp_path / "node_modules" / name / "package.json").write_text(f'{{"version": "1.{len(name)}"}}')
    assert versions(peer, tmp_path) == {name: f"1.{len(name)}" for name in peer.packages}


def result(name: str, *seconds: float | None, missing: int = 0, others_share: float = 0.0) -> Result:
    peer = next(peer for peer in PEERS if peer.name == name)
    programs = (*peer.own, *peer.stand_ins, "clickhouse", "device-broker")
    rounds = [Round(3000, each, dict.fromkeys(programs, 0.5), others_share) for each in seconds]
    throughput = Throughput(1000, rounds, dict.fromkeys(programs, 50.0), missing, 0)
    return Result(peer, {"it": "1"}, throughput, Custody(4500, missing, 1, 3, 0.5), Custody(4500, 0, 0, 0, 0.5))


def test_rows_per_second_is_the_median_of_the_rounds():
    assert result("node_red", 1, 2, 30).rows_per_s == 1500


def test_a_round_that_was_not_finished_is_not_hidden():
    shown = result("node_red", 1, 2, None)
    assert shown.rows_per_s is None
    assert "did not finish" in str(list(table([shown], "here").columns[2].cells))


def test_cpu_is_counted_over_all_rounds_and_processes():
    fieldline = result("fieldline", 1, 1, 1)
    per_program = 0.5 / 3000 * 1e6
    assert fieldline.cpu_s_per_million(fieldline.peer.own) == pytest.approx(3 * per_program)
    assert fieldline.cpu_s_per_million(fieldline.peer.gateway) == pytest.approx(per_program)


def test_stand_ins_are_not_counted_as_the_peer():
    gateway = result("thingsboard_gateway", 1)
    assert gateway.memory_mb(gateway.peer.own) == 50
    assert not set(gateway.peer.stand_ins) & set(gateway.peer.own)


def test_what_the_reader_must_know_is_said():
    said = " ".join(remarks([result("script_first", 1, missing=7), result("node_red", 1, others_share=0.3)]))
    assert "7 readings are missing" in said
    assert "Node-RED 30%" in said
    assert remarks([result("node_red", 1)]) == ["Node-RED: it 1"]


def test_all_of_it_as_json_and_as_a_picture(tmp_path: Path):
    results = [result(peer.name, 1, 2, 3) for peer in PEERS]
    results[-1] = replace(results[-1], throughput=result("script_first", None).throughput)
    assert json.loads(json.dumps([each.as_dict() for each in results]))[-1]["rows_per_second"] is None
    draw(results, "2 cores", tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
