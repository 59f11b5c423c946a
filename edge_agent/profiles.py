"""Profiles of mappings: what a product publishes, by its name.

A mapping of gateway.toml that says `profile = "tasmota"` stands for the mappings of that profile, which are data in
profiles.toml. What it says besides counts for each of them and wins, key by key, also inside of tables.
"""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(1)
def profiles() -> dict[str, list[dict[str, Any]]]:
    """Name -> the mappings, as they would stand in gateway.toml."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def expanded(mappings: object) -> object:
    """Mappings as read from the file, with those of profiles. Raises ValueError, a sentence."""
    if not isinstance(mappings, list | tuple):
        return mappings
    return [each for mapping in mappings for each in _of(mapping)]


def _of(mapping: object) -> list[object]:
    if not isinstance(mapping, dict) or "profile" not in mapping:
        return [mapping]
    own = {key: value for key, value in mapping.items() if key != "profile"}
    name = mapping["profile"]
    known = profiles()
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"profile must be one of {', '.join(sorted(known))}, got {name!r}")
    if "format" in own:
        raise ValueError(f"the profile {name!r} says the format, remove one of the two")
    if "topic" in own and len(known[name]) > 1:
        raise ValueError(f"the profile {name!r} has several topics, write out its mappings to change them")
    return [_merged(each, own) for each in known[name]]


def _merged(mapping: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(mapping[key], value) if isinstance(value, dict) and isinstance(mapping.get(key), dict) else value
        for key, value in own.items()
    }
    return {**mapping, **both}
