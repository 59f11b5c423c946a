"""What every config file of ours has in common: TOML, frozen pydantic models, unknown keys refused.

Units stand in the keys' names. An error is a line `file: key must …, got …`, all of a file's at once.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from telemetry.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=Section)


def load_toml(path: Path, model: type[Model]) -> Model:
    """Parse and check a file; paths in it are relative to it. Raises ConfigError, one line per problem."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    return relative_to(path.parent, parse_toml(text, str(path), model))


def parse_toml(text: str, name: str, model: type[Model]) -> Model:
    """Parse and check a config that is no file; `name` is what errors call it. Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: is not valid TOML: {error}") from error
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{name}: {line}" for line in sentences(error))) from error


Profiles = Mapping[str, Mapping[str, Mapping[str, object]]]
"""profile -> section -> key -> value"""


def with_profile(raw: object, profiles: Profiles) -> object:
    """A config as read from its file, with the values of its profile for the keys that it does not have."""
    if not isinstance(raw, dict) or not isinstance(raw.get("profile"), str):
        return raw
    filled = dict(raw)
    for section, values in profiles.get(raw["profile"], {}).items():
        given = raw.get(section, {})
        if isinstance(given, dict):  # else it is an error, or made in code with all its values
            filled[section] = {**values, **given}
    return filled


def relative_to(folder: Path, section: Model) -> Model:
    """The section with every path in it, and in its sections, as seen from `folder`."""
    changed: dict[str, object] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Path):
            changed[key] = folder / value
        elif isinstance(value, Section):
            changed[key] = relative_to(folder, value)
    return section.model_copy(update=changed)


def sentences(error: ValidationError) -> list[str]:
    """Pydantic's findings as `key must …, got …`."""
    return [_sentence(dict(finding)) for finding in error.errors()]


def _sentence(finding: dict[str, object]) -> str:
    location = finding["loc"]
    assert isinstance(location, tuple)
    key = ".".join(str(part) for part in location)
    kind, message, given = finding["type"], str(finding["msg"]), finding["input"]
    if kind == "missing":
        return f"{key} is missing"
    if kind == "extra_forbidden":
        return f"{key} is not a known key"
    if kind == "model_type":
        message = "be a table"
    message = re.sub(r"^(Input|String|Value error,) ?(should )?", "", message)
    message = message.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    message = message.replace("greater than", ">").replace("less than", "<")
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    if isinstance(given, dict | list | tuple):  # not repeated: a password may be in it
        shown = "a table" if isinstance(given, dict) else "a list"
    else:
        shown = "***" if "password" in key else repr(given)
    return f"{key} must {message}, got {shown}"
