"""Tags as one text: equal tags are equal texts, and what is no such text is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.tags import TAGS_CHARS_MAX, TAGS_MAX, VALUE_CHARS_MAX, pack, shown, unpack

KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,15}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(st.dictionaries(KEYS, VALUES, max_size=TAGS_MAX))
def test_what_was_packed_is_unpacked_and_the_order_makes_no_difference(tags: dict[str, str]) -> None:
    text = pack(tags)
    assert unpack(text) == tags
    assert pack(dict(reversed(tags.items()))) == text
    assert bool(text) == bool(tags)


@given(st.one_of(st.text(max_size=40), st.from_regex(r'\{("a":"[a-c]",?){0,3}\}', fullmatch=True)))
def test_a_text_is_tags_only_as_pack_writes_it(text: str) -> None:
    try:
        tags = unpack(text)
    except ValueError:
        return
    assert pack(tags) == text


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({f"k{n}": "v" for n in range(TAGS_MAX + 1)}, "there are 17 tags, at most 16"),
        ({"1st": "v"}, "the tag's name '1st' must be a letter"),
        ({"k" * 65: "v"}, "at most 64 in all"),
        ({"site": ""}, "the tag 'site' must have 1 to 128 printable"),
        ({"site": "v" * (VALUE_CHARS_MAX + 1)}, "must have 1 to 128 printable"),
        ({"site": "a\nb"}, "must have 1 to 128 printable"),
        ({f"k{n}": "v" * VALUE_CHARS_MAX for n in range(9)}, f"at most {TAGS_CHARS_MAX} are allowed"),
    ],
)
def test_limits(tags: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack(tags)


@pytest.mark.parametrize("text", ["[]", '{"a":1}', "[" * 1000, '{"a": "b"}', '{"b":"x","a":"y"}', "{}", "x" * 2000])
def test_what_is_no_text_of_tags(text: str) -> None:
    with pytest.raises(ValueError, match="the tags"):
        unpack(text)


def test_for_people() -> None:
    assert shown(pack({"site": "plant 7", "line": "2"})) == "line=2 site=plant 7"
    assert shown("") == ""
