"""The pages that say what is supported name tests that are there, and leave no format and no profile out."""

import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.formats import FORMATS

ROOT = Path(__file__).parents[2]
PAGES = ("supported.md", "formats.md", "profiles.md", "coap.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"`(tests/[\w/*.-]+)`", text)
    assert named
    for pattern in named:
        assert list(ROOT.glob(pattern)), f"{page} names {pattern}"


def test_every_format_is_in_its_table() -> None:
    table = (ROOT / "docs" / "formats.md").read_text()
    assert [name for name in FORMATS if f"| `{name}` |" not in table] == []


def test_every_profile_is_in_its_table() -> None:
    page = (ROOT / "docs" / "profiles.md").read_text()
    profiles = tomllib.loads((ROOT / "edge_agent" / "profiles.toml").read_text())
    assert profiles
    assert [name for name in profiles if f"| [`{name}`]" not in page] == []


def test_what_is_linked_is_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([\w./-]+\.(?:md|toml|png))(?:#[\w-]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
