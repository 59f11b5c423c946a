"""The programs that cannot be built here: a compiler checks their types and names against stand-ins for the headers."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.stubs import IN_C, ROOT

STANDINS = Path(__file__).parents[2] / "standins"
STRICT = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", str(IN_C)]
CASES = [
    ("esp_idf/main/main.cpp", ["g++", "-std=c++17"], "esp_idf.h", r'"((?:esp_|freertos/|mqtt_|nvs_|protocol_)[^"]+)"'),
    ("zephyr/src/main.c", ["gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L"], "zephyr.h", r"<(zephyr/[^>]+)>"),
]


def compile_(source: Path, compiler: list[str], standin: str, headers: str, folder: Path) -> str:
    """What the compiler says; empty when it has nothing to say."""
    for header in re.findall(headers, source.read_text()):
        (folder / header).parent.mkdir(parents=True, exist_ok=True)
        (folder / header).write_text("")
    command = [*compiler, *STRICT, "-I", str(folder), "-include", str(STANDINS / standin), str(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr


@pytest.mark.parametrize(("program", "compiler", "standin", "headers"), CASES)
def test_what_cannot_be_run_compiles_and_says_that_it_was_not_run(
    program: str, compiler: list[str], standin: str, headers: str, tmp_path: Path
) -> None:
    source = ROOT / program
    assert "NOT RUN" in source.read_text()
    assert compile_(source, compiler, standin, headers, tmp_path) == ""
    broken = tmp_path / f"broken{source.suffix}"
    broken.write_text(source.read_text().replace("device_measure(&device)", "device_measure(device)"))
    assert "device_measure" in compile_(broken, compiler, standin, headers, tmp_path), "the check can fail"
