"""The drill: its link and its verdict, and a short run of it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from proof.checker import counted, judge, told
from proof.faults import FAULTS
from proof.link import Link
from proof.ports import free_port
from proof.witness import Witness
from tests.brokers import HOST
from tests.clickhouse import ROOT


def test_a_short_drill_passes_and_reports(tmp_path: Path) -> None:
    report = tmp_path / "drill.json"
    command = [sys.executable, "-m", "fieldline", "drill", "--seconds", "12", "--seed", "3", "--report", str(report)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=170)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1].startswith("accounting: sent=")
    assert lines[-1].endswith("duplicates=0 missing=0")
    said = json.loads(report.read_text())
    assert said["passed"]
    assert said["accounting"] == lines[-1]
    assert {entry["fault"] for entry in said["faults"]} <= set(FAULTS)
    assert said["faults"]
    assert said["thinned"] > 0
    transports = said["transports"]
    assert len(transports) == 11
    for via, counts in transports.items():
        assert counts["said"] >= counts["found"] > 0, via
    losses = int(lines[-1].partition(" losses=")[2].split()[0])  # declared: a fault of this seed corrupts the spool
    assert sum(max(0, counts["promised"] - counts["found"]) for counts in transports.values()) <= losses


@pytest.mark.timeout(480)  # six seeds, if it comes to that
def test_drills_of_broken_code_fail_and_say_where() -> None:
    """Side by side; `python -m tests.broken` has all the bugs."""
    bugs = ("ack_before_write", "no_recovery", "whole_batches")
    drills = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.broken", bug],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for bug in bugs
    ]
    said = [drill.communicate()[0] for drill in drills]
    assert [drill.returncode for drill in drills] == [0, 0, 0], "\n".join(said)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def answer(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, data: bytes, seconds: float) -> bytes:
    """What comes back, or nothing within the time."""
    writer.write(data)
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(100)
    except TimeoutError:
        return b"nothing"


def test_the_link_passes_on_swallows_and_cuts() -> None:
    async def main() -> None:
        target, port = free_port(), free_port()
        server = await asyncio.start_server(echo, HOST, target)
        async with server, Link(port, target).open() as link:
            reader, writer = await asyncio.open_connection(HOST, port)
            assert await answer(writer, reader, b"one", 5) == b"one"
            with link.bad(is_black_hole=True):
                assert await answer(writer, reader, b"two", 0.3) == b"nothing"
            assert await answer(writer, reader, b"", 5) == b"", "a connection caught in a black hole is reset"
            writer.close()
            reader, writer = await asyncio.open_connection(HOST, port)
            assert await answer(writer, reader, b"three", 5) == b"three"
            with link.bad(is_cut=True):
                assert await answer(writer, reader, b"", 5) == b""
                writer.close()
                reader, writer = await asyncio.open_connection(HOST, port)
                assert await answer(writer, reader, b"", 5) == b"", "while cut, new connections end at once"
                writer.close()

    asyncio.run(main())


def test_the_witness_hears_acknowledgements_out_of_order() -> None:
    publish = b"\x32\x07\x00\x01t\x00%cab"
    witness = Witness()
    ear = witness()
    for byte in publish % 1 + publish % 2 + b"\x30\x05\x00\x01tab" + publish % 3 + publish % 4:
        ear.answers(bytes([byte]))
    ear.words(b"\x82\x06\x00\x01\x00\x01t\x01\x40\x02\x00\x01\x40\x02\x00")
    ear.words(b"\x02")
    assert (witness.acknowledged, witness.sentences()) == (2, [])
    ear.words(b"\x40\x02\x00\x04")
    (sentence,) = witness.sentences()
    assert sentence.endswith("message 4 was acknowledged, message 3 was the oldest open one")
    witness().words(b"\x40\x02\x00\x01")
    assert len(witness.wrong) == 2, "another connection knows nothing of the first one's messages"


def test_the_verdict_finds_what_is_missing_and_what_is_double(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(
        '{"device": "d", "ts": 1, "values": {"a": 1.5, "b": null}}\n{"device": "d", "ts": 2, "values": {"a": 2.5}}\n'
    )
    said = told(journal)
    right = [b'["d", "a", "1", 1.5, "1"]', b'["d", "a", 2, 2.5, 1]']
    assert judge(said, counted(right)).sentences() == []
    (missing,) = judge(said, counted(right[:1])).sentences()
    assert missing == "1 readings are missing from the table, such as ('d', 'a', 2, 2.5)"
    (double,) = judge(said, counted([right[0], b'["d", "a", 2, 2.5, 3]'])).sentences()
    assert double.startswith("2 readings are in the table too often")
