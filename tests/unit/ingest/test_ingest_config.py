"""ingest.toml: each mistake is a sentence that names the file and the key; docs/ingest.toml shows every key."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from ingest.config import IngestConfig, load
from telemetry.errors import ConfigError

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "docs" / "ingest.toml"
SECRETS = {"password"}  # the sample speaks of it in prose: it excludes password_file


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "ingest.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_the_sample_loads_and_takes_every_default() -> None:
    assert load(SAMPLE) == IngestConfig()


def test_the_sample_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", SAMPLE.read_text()))
    IngestConfig.model_validate(shown)
    compare(shown, IngestConfig, "")


def compare(shown: dict[str, object], model: type[BaseModel], where: str) -> None:
    for key, field in model.model_fields.items():
        if key in SECRETS:
            continue
        assert key in shown, f"{where}{key} is not in docs/ingest.toml"
        value = shown[key]
        if isinstance(value, dict):
            compare(value, next(m for m in model_types(field.annotation)), f"{where}{key}.")
        elif field.default is not None:
            assert value == (list(field.default) if isinstance(field.default, tuple) else field.default), key


def model_types(annotation: object) -> list[type[BaseModel]]:
    options = getattr(annotation, "__args__", (annotation,))
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("colour = 1", "colour is not a known key"),
        ("[commit]\nage_ms = 1", "commit.age_ms is not a known key"),
        ("[trunk.tls]\nca = 'x'", "trunk.tls.ca is not a known key"),
        ("partitions = 'many'", "partitions must be a valid integer, unable to parse string as an integer, got 'many'"),
        ("partitions = 0", "partitions must be >= 1, got 0"),
        ("partitions = 65537", "partitions must be <= 65536, got 65537"),
        ("partitions = 4\nown = [3, 4]", "own names partition 4, there are 0 to 3"),
        ("own = [-1]", "own names partition -1, there are 0 to 15"),
        ("own = [1, 2, 1]", "own names a partition twice"),
        ("own = 1", "own must be a valid tuple, got 1"),
        ("trunk = 1883", "trunk must be a table, got 1883"),
        ("trunk.port = 0", "trunk.port must be >= 1, got 0"),
        ("trunk.keepalive_s = 1", "trunk.keepalive_s must be >= 5, got 1"),
        ("trunk = {password = 'a', password_file = 'b'}", "trunk: give password or password_file, not both"),
        ("commit.rows_max = 500001", "commit.rows_max must be <= 500000, got 500001"),
        ("commit.age_s_max = -0.5", "commit.age_s_max must be >= 0, got -0.5"),
        ("commit.age_s_max = inf", "commit.age_s_max must be a finite number, got inf"),
        ("commit.age_s_max = nan", "commit.age_s_max must be a finite number, got nan"),
        ("commit.buffer_bytes_max = 1000", "commit.buffer_bytes_max must be >= 1048576, got 1000"),
        ("clickhouse_url = 8123", "clickhouse_url must be a valid string, got 8123"),
        ("profile = 'fast'", "profile must be 'default' or 'low_latency', got 'fast'"),
        ("profile = ['low_latency']", "profile must be 'default' or 'low_latency', got a list"),
        ("profile = 'low_latency'\ncommit = 5", "commit must be a table, got 5"),
    ],
)
def test_a_mistake_is_a_sentence_with_file_and_key(tmp_path: Path, lines: str, sentence: str) -> None:
    assert complaint(tmp_path, lines) == sentence


@pytest.mark.parametrize(
    "url", ["tcp://u:secret@h:9000", "u:secret@h:8123", "http://u:secret@h:80x0", "http://u:secret@h?ssl=secret"]
)
def test_a_wrong_url_is_said_without_its_password(tmp_path: Path, url: str) -> None:
    said = complaint(tmp_path, f"clickhouse_url = '{url}'")
    assert said.startswith("clickhouse_url: The ClickHouse URL ")
    assert "secret" not in said


def test_a_password_that_is_no_text_is_not_repeated(tmp_path: Path) -> None:
    said = complaint(tmp_path, "[trunk]\npassword = 1234567\n")
    assert "trunk.password" in said
    assert "1234567" not in said


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "partitions = 0\ncolour = 1\n[trunk]\nport = 'x'\n[commit]\nrows_max = 0\n")
    assert [line.split(": ")[-1].split()[0] for line in said.splitlines()] == [
        "partitions",
        "trunk.port",
        "commit.rows_max",
        "colour",
    ]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ingest.toml"
    path.write_text("[trunk]\npassword_file = 'p'\ntls = {ca_file = 'ca.pem', key_file = '/etc/key.pem'}\n")
    trunk = load(path).trunk
    assert trunk.password_file == tmp_path / "p"
    assert trunk.tls is not None
    assert (trunk.tls.ca_file, trunk.tls.cert_file) == (tmp_path / "ca.pem", None)
    assert trunk.tls.key_file == Path("/etc/key.pem")


def test_a_profile_changes_the_age_of_commits_and_a_key_wins(tmp_path: Path) -> None:
    def age_s(text: str) -> float:
        path = tmp_path / "ingest.toml"
        path.write_text(text)
        return load(path).commit.age_s_max

    assert age_s("") == age_s("profile = 'default'") == 0.5
    assert age_s("profile = 'low_latency'") == 0.05
    assert age_s("profile = 'low_latency'\ncommit.rows_max = 10") == 0.05
    assert age_s("profile = 'low_latency'\ncommit.age_s_max = 0.3") == 0.3


def test_a_worker_owns_what_it_is_told_or_everything() -> None:
    assert IngestConfig(partitions=4).owned == [0, 1, 2, 3]
    assert IngestConfig(partitions=4, own=(3, 1)).owned == [1, 3]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("clickhouse_uri = 'http://h'", "clickhouse_uri is not a known key"),
        ("commit.rows_max = 'all'", "commit.rows_max must be a valid integer"),
        ("clickhouse_url = 'ftp://h'", "clickhouse_url: The ClickHouse URL must begin with http:// or https://"),
        ("partitions = ", "is not valid TOML"),
        (None, "cannot read the config: No such file or directory"),
        ("trunk.password_file = 'none'", "cannot read password_file"),
    ],
)
def test_the_command_says_it_and_ends(tmp_path: Path, text: str | None, phrase: str) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    command = [sys.executable, "-m", "fieldline", "ingest", "run", "--config", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    (said,) = ended.stderr.splitlines()
    assert phrase in said
    assert str(tmp_path) in said
