"""The backlog of the device programs in C and MicroPython: one file, and after a power cut either goes on with it."""

import ctypes
import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stubs import IN_C, IN_MICROPYTHON

RECORDS, SLOT_BYTES, PAYLOAD_BYTES_MAX = 3, 256, 232


class CRecord(ctypes.Structure):
    _fields_ = [
        ("number", ctypes.c_uint32),
        ("boot", ctypes.c_uint32),
        ("at_ms", ctypes.c_uint64),
        ("length", ctypes.c_uint16),
        ("payload", ctypes.c_char * (PAYLOAD_BYTES_MAX + 1)),
    ]


class CStruct(ctypes.Structure):
    _fields_ = [
        ("fd", ctypes.c_int),
        *((name, ctypes.c_uint32) for name in ("generation", "done", "last", "note")),
    ]


class CRing:
    """ring.c with the methods of ring.py."""

    library: ctypes.CDLL

    def __init__(self, path: Path, random: int) -> None:
        self._ring = CStruct()
        assert self.library.ring_open(ctypes.byref(self._ring), str(path).encode(), random) == 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ring, name)

    def put(self, boot: int, at_ms: int, payload: bytes) -> int:
        record = CRecord(0, boot, at_ms, len(payload), payload)
        assert self.library.ring_put(ctypes.byref(self._ring), ctypes.byref(record)) in {0, 1}
        return record.number

    def get(self, number: int) -> tuple[int, int, int, bytes] | None:
        record = CRecord()
        if self.library.ring_get(ctypes.byref(self._ring), number, ctypes.byref(record)):
            return None
        return record.number, record.boot, record.at_ms, ctypes.string_at(record.payload, record.length)

    def acknowledged(self, number: int) -> None:
        assert self.library.ring_done(ctypes.byref(self._ring), number) == 0

    def remember(self, note: int) -> None:
        assert self.library.ring_note(ctypes.byref(self._ring), note) == 0

    def close(self) -> None:
        os.close(self._ring.fd)


Open = Callable[[Path, int], Any]


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Open]:
    library = tmp_path_factory.mktemp("ring") / "ring.so"
    command = ["gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", f"-DRING_RECORDS={RECORDS}", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(IN_C / "ring.c")], check=True)
    CRing.library = ctypes.CDLL(str(library))
    spec = importlib.util.spec_from_file_location("ring", IN_MICROPYTHON / "ring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RECORDS = RECORDS
    module.Ring.close = lambda self: self._file.close()
    return {"c": CRing, "micropython": module.Ring}


LANGUAGE = st.sampled_from(["c", "micropython"])
PAYLOAD = st.binary(min_size=1, max_size=PAYLOAD_BYTES_MAX).map(lambda data: data.replace(b"\0", b"0"))
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
STEP = st.one_of(
    st.tuples(st.just("put"), U32, U64, PAYLOAD),
    st.tuples(st.just("acknowledge"), st.integers(1, RECORDS)),
    st.tuples(st.just("remember"), U32),
    st.tuples(st.just("restart"), LANGUAGE),
    st.tuples(st.just("cut in put"), LANGUAGE, PAYLOAD, st.integers(0, SLOT_BYTES)),
    st.tuples(st.just("cut in mark"), LANGUAGE, st.integers(0, 16)),
)


def torn(path: Path, before: bytes, written: int) -> None:
    """Let the power fail when so many bytes of what changed in the file were on the disk."""
    after = path.read_bytes()
    slot = next(
        (at for at in range(0, len(after), SLOT_BYTES) if after[at:][:SLOT_BYTES] != before[at:][:SLOT_BYTES]), 0
    )
    path.write_bytes(before[:slot] + after[slot : slot + written] + before[slot + written :])


@given(begin=U32, first=LANGUAGE, steps=st.lists(STEP, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_waits_is_what_was_kept_and_not_acknowledged(
    begin: int, first: str, steps: list[Any], rings: dict[str, Open], tmp_path: Path
) -> None:
    path = tmp_path / "ring"
    path.unlink(missing_ok=True)
    ring = rings[first](path, begin)
    done = begin >> 1
    waiting: list[tuple[int, int, bytes]] = []
    note = 0
    assert (ring.done, ring.last) == (done, done), "numbers begin where chance has it"
    for what, *values in steps:
        before = path.read_bytes()
        if what == "put":
            assert ring.put(*values) == (done + len(waiting) + 1 if len(waiting) < RECORDS else 0)
            waiting += [tuple(values)][: RECORDS - len(waiting)]
        elif what == "acknowledge":
            count = min(values[0], len(waiting))
            ring.acknowledged(done + count)
            done, waiting = done + count, waiting[count:]
        elif what == "remember":
            (note,) = values
            ring.remember(note)
        else:
            if what == "cut in put":
                ring.put(1, 2, values[1])
            elif what == "cut in mark":
                ring.remember(note + 1 & 0xFFFFFFFF)
            ring.close()
            if what != "restart":
                torn(path, before, values[-1])
            ring = rings[values[0]](path, 0)
            if what == "cut in put" and ring.last > done + len(waiting):
                waiting.append((1, 2, values[1]))
            if what == "cut in mark":
                assert ring.note in {note, note + 1 & 0xFFFFFFFF}
                note = ring.note
        assert (ring.done, ring.last, ring.note) == (done, done + len(waiting), note)
        assert [ring.get(done + 1 + index) for index in range(len(waiting))] == [
            (done + 1 + index, *values) for index, values in enumerate(waiting)
        ]
    ring.close()


@pytest.mark.parametrize("language", ["c", "micropython"])
def test_a_full_ring_refuses_what_is_new_until_something_is_acknowledged(
    language: str, rings: dict[str, Open], tmp_path: Path
) -> None:
    ring = rings[language](tmp_path / "ring", 0)
    assert [ring.put(0, 1, b"%d" % n) for n in range(RECORDS + 2)] == [*range(1, RECORDS + 1), 0, 0]
    assert ring.get(1) == (1, 0, 1, b"0")
    ring.acknowledged(1)
    assert ring.put(0, 1, b"x") == RECORDS + 1
    ring.close()


@pytest.mark.parametrize("language", ["c", "micropython"])
def test_damage_costs_what_is_damaged_and_nothing_waits_unseen(
    language: str, rings: dict[str, Open], tmp_path: Path
) -> None:
    path = tmp_path / "ring"
    ring = rings[language](path, 200)
    for payload in (b"a", b"b", b"c"):
        ring.put(0, 1, payload)
    ring.acknowledged(101)
    ring.close()
    whole = path.read_bytes()

    slot = (2 + 102 % RECORDS) * SLOT_BYTES
    path.write_bytes(whole[: slot + 24] + b"B" + whole[slot + 25 :])
    ring = rings[language](path, 0)
    assert (ring.done, ring.last) == (101, 103)
    assert [ring.get(number) for number in (102, 103)] == [None, (103, 0, 1, b"c")]
    ring.close()

    path.write_bytes(bytes(2 * SLOT_BYTES) + whole[2 * SLOT_BYTES :])
    ring = rings[language](path, 0)
    assert (ring.done, ring.last) == (100, 103), "both marks lost: rather twice than never"
    ring.close()
    ring = rings[language](path, 0)
    assert (ring.done, ring.last) == (100, 103), "and that is durable"
    ring.close()


@pytest.mark.parametrize("language", ["c", "micropython"])
def test_a_ring_whose_making_was_interrupted_is_made_anew(
    language: str, rings: dict[str, Open], tmp_path: Path
) -> None:
    path = tmp_path / "ring"
    path.write_bytes(bytes(3 * SLOT_BYTES + 7))
    ring = rings[language](path, 200)
    assert (ring.done, ring.last, path.stat().st_size) == (100, 100, (2 + RECORDS) * SLOT_BYTES)
    assert ring.put(0, 1, b"a") == 101
    ring.close()
