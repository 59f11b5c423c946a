"""One line of InfluxDB line protocol, as its parts; and an expression for lines that have the same fields.

A backslash is an escape before `,` ` ` and, but in a measurement, `=`; inside a string before `"` and itself;
anywhere else it is a backslash. Expressions never go back over what they have taken (`++`): time is linear.

Limits: expressions for at most SHAPE_FIELDS_MAX fields, SHAPES_MAX of them remembered.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

SHAPES_MAX = 256
SHAPE_FIELDS_MAX = 64

_FLOAT = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_MEASUREMENT = r"(?:[^ ,\\]++|\\[ ,]|\\(?![ ,]))++"
_NAME = r"(?:[^ ,=\\]++|\\[ ,=]|\\(?![ ,=]))++"
_head = re.compile(rf"({_MEASUREMENT})((?:,{_NAME}={_NAME})*+) ++").match
_tags = re.compile(rf",({_NAME})=({_NAME})").findall
_field = re.compile(rf'({_NAME})=(?:"((?:[^"\\]++|\\.)*+)"|([^ ,"]++))(?=[ ,]|$)').match
_end = re.compile(r" *+(-?[0-9]{1,19})? *+").fullmatch
_float = re.compile(_FLOAT).fullmatch
_integer = re.compile(r"([-+]?[0-9]{1,20})([iu])").fullmatch

_RANGES = {"i": range(-(2**63), 2**63), "u": range(2**64)}
_BOOLEANS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), 1.0),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), 0.0),
}
_NUMBERS = {"f": f"({_FLOAT})", "i": "(-?[0-9]{1,18})i", "u": "([0-9]{1,18})u"}


class Point(NamedTuple):
    """A line. kinds: a letter per field, f, i and u for numbers. ticks: the timestamp, in the sender's unit."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float | str]
    kinds: str
    ticks: int | None


def parse(line: str) -> Point | str:
    """The parts of a line without its end, or why it is none."""
    head = _head(line)
    if head is None:
        return f"measurement, tags and fields must be as in m,tag=a field=1, got {line[:60]!r}"
    pairs = _tags(head[2])
    tags = {_unescaped(tag): _unescaped(value) for tag, value in pairs}
    if len(tags) != len(pairs):
        return f"a tag comes twice in {head[0][:60]!r}"
    fields: dict[str, float | str] = {}
    kinds = ""
    at = head.end()
    while field := _field(line, at):
        key, (kind, value) = _unescaped(field[1]), _value(field)
        if not kind:
            return f"the value of {key[:60]!r} {value}"
        if key in fields:
            return f"the field {key[:60]!r} comes twice"
        fields[key] = value
        kinds += kind
        at = field.end()
        if line[at : at + 1] != ",":
            break
        at += 1
    end = _end(line, at)
    if end is None or field is None:
        what = "a field or the timestamp" if fields else "a field"
        return f"{what} is not as in field=1,field=2i 1767225600, at {line[at : at + 60]!r}"
    return Point(_unescaped(head[1], " ,"), tags, fields, kinds, int(end[1]) if end[1] else None)


def _value(field: "re.Match[str]") -> tuple[str, float | str]:
    """The kind of a value and the value; no kind, and what is wrong with it."""
    text, bare = field[2], field[3]
    if text is not None:
        return "s", re.sub(r'\\(["\\])', r"\1", text)
    if _float(bare):
        number = float(bare)
        return ("f", number) if abs(number) != float("inf") else ("", "is out of a float64's range")
    if (integer := _integer(bare)) is not None:
        whole = int(integer[1])
        return (integer[2], whole) if whole in _RANGES[integer[2]] else ("", "is out of its type's range")
    if bare in _BOOLEANS:
        return "b", _BOOLEANS[bare]
    return "", f"is no number, boolean or string in quotes: {bare[:60]!r}"


def _unescaped(name: str, special: str = " ,=") -> str:
    return re.sub(rf"\\([{special}])", r"\1", name) if "\\" in name else name


@lru_cache(SHAPES_MAX)
def expression(keys: tuple[str, ...], kinds: str) -> "Callable[[bytes], re.Match[bytes] | None] | None":
    """Matches what follows the head of a line with exactly these fields, all of them numbers.

    Its groups are what `float` takes, and, at the end, the timestamp or None. None for fields that are not worth one.
    """
    if len(keys) > SHAPE_FIELDS_MAX or not _NUMBERS.keys() >= set(kinds):
        return None
    fields = ",".join(f"{re.escape(key)}={_NUMBERS[kind]}" for key, kind in zip(keys, kinds, strict=True))
    return re.compile(rf"{fields}(?: (-?[0-9]{{1,19}}))?\r?".encode()).fullmatch
