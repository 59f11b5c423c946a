"""A fleet's own books: what it counts as acknowledged, its report and its journal."""

import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from firmware_stubs.counts import Book, Counts
from firmware_stubs.message import make
from tests import reference

GOOD = make("d1", 0.0, 1_425_164_400_000, {"a": 1.5, "b": None, "c": -2.0})
POISON = GOOD._replace(payload=b"\xff", readings=0, poison=True)


def test_what_was_acknowledged_counts_by_reading_and_poison_by_message() -> None:
    book = Book()
    for _ in range(4):
        book.sent()
    book.acked(GOOD, "mqtt")
    book.acked(POISON, "mqtt")  # over MQTT the broker acknowledges what the agent will refuse
    book.refused(POISON, "the payload is not JSON")
    book.unacked(1)
    expected = Counts(messages_sent=4, messages_acked=3, readings_acked=2, poison_acked=2, refused=1, unacked=1)
    assert book.counts == expected
    assert book.last_refusal == "the payload is not JSON"


def test_what_nobody_took_and_what_may_be_double_are_not_acknowledged() -> None:
    book = Book()
    book.rejected()
    book.reposted()
    book.reposted()
    assert book.counts == Counts(rejected=1, reposted=2)


def test_a_good_message_that_is_refused_becomes_a_dead_letter_in_the_books() -> None:
    """Were a gateway to refuse valid data, the demo must still account for it: one message, no reading."""
    book = Book()
    book.refused(GOOD, "series_max")
    assert (book.counts.readings_acked, book.counts.poison_acked, book.counts.messages_acked) == (0, 1, 1)


def test_the_journal_reads_as_the_reference_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    book = Book(path)
    book.open()
    book.acked(GOOD, "mqtt")
    book.acked(GOOD, "coap")
    book.acked(POISON, "mqtt")
    book.refused(POISON, "no")
    book.rejected()
    book.close()
    readings, poison = reference.journal(path)
    assert readings == {("d1", "a", 1_425_164_400_000, 1.5): 2, ("d1", "c", 1_425_164_400_000, -2.0): 2}
    assert poison == 2
    assert [json.loads(line)["via"] for line in path.read_text().splitlines()] == ["mqtt", "coap", "mqtt", "coap"]


def test_the_report_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    book = Book()
    book.write_report(path)
    done = threading.Event()

    def write() -> None:
        for _ in range(300):
            book.acked(GOOD, "mqtt")
            book.write_report(path)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    while not done.is_set():
        seen.append(json.loads(path.read_text()))
    thread.join()
    assert all(entry["readings_acked"] == 2 * entry["messages_acked"] for entry in seen)
    assert [entry["messages_acked"] for entry in seen] == sorted(entry["messages_acked"] for entry in seen)
    assert json.loads(path.read_text()) == asdict(book.counts)
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_many_threads_lose_no_count(tmp_path: Path) -> None:
    book = Book(tmp_path / "journal.jsonl")
    book.open()

    def work() -> None:
        for _ in range(500):
            book.sent()
            book.acked(GOOD, "mqtt")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.close()
    assert book.counts == Counts(messages_sent=4000, messages_acked=4000, readings_acked=8000)
    readings, _ = reference.journal(tmp_path / "journal.jsonl")
    assert set(readings.values()) == {4000}


def test_places_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Book(tmp_path / "none" / "journal").open()
    with pytest.raises(FileNotFoundError):
        Book().write_report(tmp_path / "none" / "report")
