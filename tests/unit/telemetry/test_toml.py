"""load_toml: whatever is wrong with a file, a sentence names the file and the key, and says what to do."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from telemetry.config import Name, Port, Section, load_toml, with_profile
from telemetry.errors import ConfigError


class Inner(Section):
    port: Port = 1883
    delay_s: Annotated[float, Field(gt=0)] = 1.0
    password: str | None = None


class Outer(Section):
    name: Name
    inner: Inner = Inner()
    others: tuple[Inner, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)


def load(path: Path, text: str) -> Outer:
    file = path / "some.toml"
    file.write_text(text)
    return load_toml(file, Outer)


def complaints(path: Path, text: str) -> list[str]:
    """The sentences, without the file's name that each must begin with."""
    with pytest.raises(ConfigError) as raised:
        load(path, text)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{path}/some.toml: ") for line in lines)
    return [line.removeprefix(f"{path}/some.toml: ") for line in lines]


def test_a_right_file_is_frozen_values(tmp_path: Path) -> None:
    config = load(tmp_path, 'name = "g-1"\n[inner]\nport = 1\n[[others]]\n[[others]]\ndelay_s = 2\n')
    assert config == Outer(name="g-1", inner=Inner(port=1), others=(Inner(), Inner(delay_s=2)))
    with pytest.raises(ValidationError):
        config.name = "h"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "name is missing"),
        ("name = 'g'\ncolour = 1", "colour is not a known key"),
        ("name = 'g'\n[inner]\ndelay_ms = 1", "inner.delay_ms is not a known key"),
        ("name = 'g'\n[[others]]\n[[others]]\ndelay = 1", "others.1.delay is not a known key"),
        ("name = 'g'\ninner = 5", "inner must be a table, got 5"),
        ("name = 'g'\nothers = 5", "others must be a valid tuple, got 5"),
        ("name = 5", "name must be a valid string, got 5"),
        ("name = []", "name must be a valid string, got a list"),
        ("name = {a = 1}", "name must be a valid string, got a table"),
        ("name = 'g'\ninner.port = 0", "inner.port must be >= 1, got 0"),
        ("name = 'g'\ninner.port = 65536", "inner.port must be <= 65535, got 65536"),
        ("name = 'g'\ninner.delay_s = 0", "inner.delay_s must be > 0, got 0"),
        ("name = 'g'\ninner.password = 17", "inner.password must be a valid string, got ***"),
        ("name = 'g'\nlabels = {a = 1}", "labels.a must be a valid string, got 1"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    assert complaints(tmp_path, text) == [sentence]


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    said = complaints(tmp_path, "colour = 1\n[inner]\nport = 'x'\n")
    assert [line.split()[0] for line in said] == ["name", "inner.port", "colour"]


@pytest.mark.parametrize("text", ["name = ", "name = 'a'\nname = 'b'", "[inner", "name = 'a", "\ufeffname = 'a'"])
def test_broken_toml_names_the_file(tmp_path: Path, text: str) -> None:
    (said,) = complaints(tmp_path, text)
    assert said.startswith("is not valid TOML: ")


def test_bytes_that_are_no_text_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"some\.toml: is not valid TOML: "):
        load_toml(file, Outer)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_toml(tmp_path / "none.toml", Outer)
    assert str(raised.value) == f"{tmp_path}/none.toml: cannot read the config: No such file or directory"
    with pytest.raises(ConfigError, match="cannot read the config: Is a directory"):
        load_toml(tmp_path, Outer)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True))
def test_names_are_names(name: str) -> None:
    assert TypeAdapter(Name).validate_python(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "a+", "é", "a\n", "a" * 129])
def test_what_cannot_stand_in_a_topic_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


PROFILES = {"quick": {"inner": {"delay_s": 0.1, "port": 1}}, "plain": {}}


@pytest.mark.parametrize(
    ("raw", "filled"),
    [
        ({}, {}),
        ({"profile": "plain"}, {"profile": "plain"}),
        ({"profile": "unknown"}, {"profile": "unknown"}),
        ({"profile": ["quick"]}, {"profile": ["quick"]}),
        ("quick", "quick"),
        ({"profile": "quick"}, {"profile": "quick", "inner": {"delay_s": 0.1, "port": 1}}),
        ({"profile": "quick", "inner": {"port": 5}}, {"profile": "quick", "inner": {"delay_s": 0.1, "port": 5}}),
        ({"profile": "quick", "inner": 5}, {"profile": "quick", "inner": 5}),
    ],
)
def test_a_profile_fills_in_what_the_file_does_not_say(raw: object, filled: object) -> None:
    assert with_profile(raw, PROFILES) == filled
