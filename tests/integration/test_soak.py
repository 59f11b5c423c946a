"""`make soak` in small: real load, a picture, and a verdict."""

from pathlib import Path

import pytest

from bench.soak import Samples, main


def test_a_soak_ends_with_a_picture_and_the_books(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--minutes", "0.2", "--devices", "40", "--out", str(tmp_path)])  # too short for its verdict on growth
    said = capsys.readouterr().out
    assert "duplicates=0 missing=0" in said
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    heading, *rows = (tmp_path / "soak.csv").read_text().splitlines()
    assert heading.startswith("seconds,memory edge,files edge")
    assert len(rows) >= 3


@pytest.mark.parametrize(
    ("values", "grew"), [([10, 50, 50, 50], False), ([10, 50, 50, 90], True), ([1, 2, 2, 3], False)]
)
def test_growth_is_from_the_second_quarter_to_the_last(values: list[float], grew: bool) -> None:
    samples = Samples()
    for at, value in enumerate(value for value in values for _ in range(5)):
        samples.add(float(at), {"memory": value})
    assert samples.grew("memory", slack=16) == grew
