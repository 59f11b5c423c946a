"""The file with OSCORE keys: read whole, or refused with a sentence that gives no secret away."""

from pathlib import Path

import pytest

from edge_agent.collect.oscore_file import DEFAULT, load_devices
from edge_agent.config import GatewayConfig
from edge_agent.run import make_collectors
from telemetry.clock import SystemClock
from telemetry.errors import ConfigError
from tests.oscore import DEVICES, METER, SECRET, TANK, keys_file


def test_keys_are_read_whole(tmp_path: Path) -> None:
    meter, tank = load_devices(keys_file(tmp_path))
    assert (meter.device, meter.recipient_id, meter.sender_id) == ("meter-1", b"\1", b"")
    assert (meter.master_secret.hex(), meter.master_salt.hex()) == (SECRET, METER["master_salt"])
    assert (meter.id_context, meter.algorithm) == (None, DEFAULT)
    assert (tank.device, tank.master_salt, tank.id_context) == ("tank", b"", bytes.fromhex(TANK["id_context"]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"master_secret": "00" * 15}, "master_secret must be a text of 16 to 64 bytes in hex. Make one with: openssl"),
        ({"master_secret": "xyz"}, "master_secret must be a text of 16 to 64 bytes in hex. Make one with: openssl"),
        ({"master_secret": TANK["master_secret"]}, "master_secret is that of another device"),
        ({"recipient_id": "00" * 8}, "recipient_id must be a text of 0 to 7 bytes in hex"),
        ({"recipient_id": "00" * 7, "algorithm": "A128GCM"}, "recipient_id must be a text of 0 to 6 bytes in hex"),
        ({"recipient_id": ""}, "recipient_id and sender_id must be different"),
        ({"recipient_id": "02", "id_context": TANK["id_context"]}, "recipient_id is that of another device"),
        ({"master_salt": "00" * 65}, "master_salt must be a text of 0 to 64 bytes in hex"),
        ({"algorithm": "AES"}, "algorithm must be one of AES-CCM-16-64-128, AES-CCM-16-128-128, A128GCM, ChaCha20"),
        ({"kid": "00"}, "kid is not a known key"),
    ],
)
def test_keys_that_cannot_be_used_are_a_sentence(change: dict[str, str], sentence: str, tmp_path: Path) -> None:
    path = keys_file(tmp_path, {"tank": TANK, "meter-1": METER | change})
    with pytest.raises(ConfigError) as raised:
        load_devices(path)
    assert f"keys_file {path}: meter-1: {sentence}" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    path = keys_file(tmp_path, mode=0o640)
    with pytest.raises(ConfigError, match=f"has mode 0640, so others may read the keys. Use: chmod 600 {path}"):
        load_devices(path)
    for text, sentence in (
        ("x", "is not valid TOML"),
        ("", "has 0 devices; it needs 1 to"),
        ("meter = 1", "meter: must be a table with recipient_id, sender_id, master_secret"),
        ('[meter]\nrecipient_id = "01"', "meter: sender_id is missing"),
        ('[meter]\nrecipient_id = 1\nsender_id = ""\nmaster_secret = ""', "recipient_id must be a text of 0 to 7"),
    ):
        keys_file(tmp_path).write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            load_devices(path)
    with pytest.raises(ConfigError, match="cannot read keys_file"):
        load_devices(tmp_path / "none")


def test_the_agent_reads_the_keys_and_says_how_many(tmp_path: Path) -> None:
    config = GatewayConfig.model_validate(
        {"gateway": "g", "coap": {"oscore": {"keys_file": keys_file(tmp_path)}}, "spool": {"path": tmp_path}}
    )
    collectors = make_collectors(config, SystemClock(), lambda _key: False)
    assert set(collectors) == {"coap"}
    assert collectors["coap"]._oscore.state() == f"OSCORE for {len(DEVICES)} devices"  # type: ignore[attr-defined]


def test_without_its_library_oscore_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "edge_agent.collect.coap_oscore", None)
    config = GatewayConfig.model_validate({"gateway": "g", "coap": {"oscore": {"keys_file": keys_file(tmp_path)}}})
    with pytest.raises(ConfigError, match=r"Install it with: pip install 'fieldline\[oscore\]'"):
        make_collectors(config, SystemClock(), lambda _key: False)
