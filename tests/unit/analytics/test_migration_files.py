"""The shipped migrations keep the rules that make them safe to repeat."""

import re

from hypothesis import given
from hypothesis import strategies as st

from analytics.migrate import load, parse


def test_the_files_are_numbered_without_a_gap():
    assert [m.name[:5] for m in load()] == [f"{n:04}_" for n in range(1, len(load()) + 1)]


def test_every_statement_can_be_repeated_and_names_its_objects_in_full():
    for migration in load():
        assert migration.statements
        for statement in migration.statements:
            head = " ".join(statement.split("\n")[:2])
            repeatable = (
                r"CREATE (TABLE|VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW|"
                r"ALTER TABLE(?=.* ((COLUMN|INDEX) IF NOT EXISTS|COMMENT COLUMN|MODIFY TTL|MODIFY SETTING) )"
            )
            assert re.match(rf"({repeatable}) fieldline\.\w+ ", head), head


def test_a_file_is_split_at_semicolons_at_line_ends_only():
    text = "-- a; comment;\nCREATE x COMMENT 'a; b';\n\n  -- more\nCREATE y\n(\n a\n);  \n"
    assert parse("0001_x.sql", text).statements == ("CREATE x COMMENT 'a; b'", "CREATE y\n(\n a\n)")


@given(st.lists(st.sampled_from(["SELECT 1", "SELECT\n  ';' x", "-- note;"]), max_size=6))
def test_line_ends_make_no_difference(parts):
    text = ";\n".join(parts)
    assert parse("0001_x.sql", text) == parse("0001_x.sql", text.replace("\n", "\r\n"))


def test_a_changed_text_has_another_checksum():
    assert parse("0001_x.sql", "SELECT 1;").checksum != parse("0001_x.sql", "SELECT 2;").checksum
