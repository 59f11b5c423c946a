"""Tags: what is said of a series beside its device, metric and unit, such as its site and line.

On the gateway, in the spool and on the wire the tags of a series are one text, so that a series stays a few strings: a
JSON object without spaces, its keys ascending; the empty text for none. Equal tags are therefore equal texts. Only
where rows are made for ClickHouse do they become a map.

Limits: TAGS_MAX tags, KEY_CHARS_MAX and VALUE_CHARS_MAX characters of one, TAGS_CHARS_MAX of the text.
"""

import json
import re
from collections.abc import Mapping

TAGS_MAX = 16
KEY_CHARS_MAX = 64
VALUE_CHARS_MAX = 128
TAGS_CHARS_MAX = 1024

KEY = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{KEY_CHARS_MAX - 1}}}")


def pack(tags: Mapping[str, str]) -> str:
    """Tags as their text. Raises ValueError, a sentence, for what cannot be tags."""
    if not tags:
        return ""
    if len(tags) > TAGS_MAX:
        raise ValueError(f"there are {len(tags)} tags, at most {TAGS_MAX} are allowed")
    for key, value in tags.items():
        if not KEY.fullmatch(key):
            raise ValueError(
                f"the tag's name {key[:60]!r} must be a letter or _ and then letters, digits, . _ or -, "
                f"at most {KEY_CHARS_MAX} in all"
            )
        if not value or len(value) > VALUE_CHARS_MAX or not value.isprintable():
            raise ValueError(f"the tag {key!r} must have 1 to {VALUE_CHARS_MAX} printable characters")
    text = json.dumps(dict(sorted(tags.items())), ensure_ascii=False, separators=(",", ":"))
    if len(text) > TAGS_CHARS_MAX:
        raise ValueError(f"the tags have {len(text)} characters together, at most {TAGS_CHARS_MAX} are allowed")
    return text


def unpack(text: str) -> dict[str, str]:
    """The tags of a text. Raises ValueError for one that `pack` does not make."""
    if not text:
        return {}
    if len(text) > TAGS_CHARS_MAX:
        raise ValueError(f"the tags have {len(text)} characters, at most {TAGS_CHARS_MAX} are allowed")
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the tags are no JSON") from None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ValueError("the tags are no object of texts")
    if pack(tags) != text:
        raise ValueError("the tags are not written as they must be: keys ascending, no spaces")
    return tags


def shown(text: str) -> str:
    """The tags of a text for people: `line=2 site=plant-7`."""
    return " ".join(f"{key}={value}" for key, value in unpack(text).items())
