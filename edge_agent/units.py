"""Conversions between units, by the library pint, in a process of its own that ends at once.

A linear conversion is a factor and an offset. So the library is needed while a config is read, and not while the agent
works, to whose memory it would add more than half. `python -m edge_agent.units` reads pairs of units as JSON and
answers with factors and offsets, or with a sentence for each pair that has none.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, NamedTuple

CHILD_S_MAX = 60


class Conversion(NamedTuple):
    """value * scale + offset is the value in the other unit. Both are the exact ones, rounded once."""

    scale: float
    offset: float


def conversions(pairs: Sequence[tuple[str, str]]) -> list[Conversion | str]:
    """For each (from, to) its conversion, or a sentence why there is none. Raises OSError."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", "edge_agent.units"],
            input=json.dumps(pairs),
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_S_MAX,
        )
    except subprocess.TimeoutExpired:
        return [f"the units could not be looked up within {CHILD_S_MAX} s"] * len(pairs)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return [f"the units cannot be looked up: {last}"] * len(pairs)
    return [answer if isinstance(answer, str) else Conversion(*answer) for answer in json.loads(child.stdout)]


def _main() -> None:
    """The child."""
    try:
        import pint  # noqa: PLC0415 - it is not needed elsewhere, and may not be installed
    except ImportError:
        sys.exit("unit_from needs pint. Install it with: pip install 'fieldline[units]'")
    registry: Any = pint.UnitRegistry(non_int_type=Fraction)
    print(json.dumps([_answer(registry, pint, *pair) for pair in json.load(sys.stdin)]))


def _answer(registry: Any, pint: Any, given: str, wanted: str) -> list[float] | str:
    try:
        zero, one, two = (registry.Quantity(Fraction(n), given).to(wanted).magnitude for n in range(3))
    except pint.UndefinedUnitError as error:
        name = str(error.args[0]) if error.args else given
        close = " or ".join(get_close_matches(name, map(str, dir(registry)), n=3))
        return f"there is no unit {name!r}" + (f"; did you mean {close}?" if close else "")
    except pint.DimensionalityError:
        return f"{given!r} cannot become {wanted!r}: they measure different things"
    except Exception as error:  # noqa: BLE001 - its parser raises many kinds
        return f"{given!r} or {wanted!r} cannot be read as a unit: {error}"
    if abs(float(two - zero) - 2 * float(one - zero)) > 1e-9 * abs(float(two - zero)):
        return f"{given!r} to {wanted!r} is no linear conversion"
    return [float(one - zero), float(zero)]


if __name__ == "__main__":
    _main()
