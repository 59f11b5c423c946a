"""The drill's verdict, by value: what devices were told is safe against what the table holds.

Shares no code with the pipeline, on purpose: the journal that the fleet wrote, ClickHouse's HTTP interface, and
Python's standard library. The mixed devices, whose names begin with `drill`, have a verdict of their own, see
proof/mixed_checker.py. By hand: python -m proof.checker JOURNAL http://localhost:8123
"""

import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

QUERY = """
SELECT device, metric, toUnixTimestamp64Milli(measured_at), value, count()
FROM fieldline.readings WHERE NOT startsWith(device, 'drill')
GROUP BY device, metric, measured_at, value FORMAT JSONCompactEachRow
"""

Values = Counter[tuple[str, str, int, float]]
"""How often each (device, metric, ms since 1970 UTC, value) is there."""


class Verdict(NamedTuple):
    """missing: told to a device, and not in the table; double: in the table, and told to no device."""

    missing: Values
    double: Values

    def sentences(self) -> list[str]:
        """For people; empty when nothing differs."""
        said = []
        for what, values in (("missing from the table", self.missing), ("in the table too often", self.double)):
            if values:
                some = ", ".join(map(str, list(values)[:3]))
                said.append(f"{values.total()} readings are {what}, such as {some}")
        return said


def told(journal: Path) -> Values:
    """What devices were told is safe: one line of JSON per acknowledged message. A null is no reading."""
    values: Values = Counter()
    with journal.open() as lines:
        for entry in map(json.loads, lines):
            for metric, value in entry.get("values", {}).items():
                if value is not None:
                    values[entry["device"], metric, entry["ts"], float(value)] += 1
    return values


def held(url: str) -> Values:
    """What the table holds. Raises OSError."""
    request = urllib.request.Request(f"{url}/", QUERY.encode())  # noqa: S310 - the drill's own server
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return counted(answer)


def counted(lines: Iterable[bytes]) -> Values:
    """Rows of device, metric, time, value and count, as JSON."""
    return Counter({(row[0], row[1], int(row[2]), float(row[3])): int(row[4]) for row in map(json.loads, lines)})


def judge(said: Values, found: Values) -> Verdict:
    """The difference, both ways."""
    return Verdict(said - found, found - said)


def main() -> int:
    """Print the difference; 1 if there is one."""
    verdict = judge(told(Path(sys.argv[1])), held(sys.argv[2]))
    print("\n".join(verdict.sentences()) or "every reading is there, once")
    return 1 if any(verdict) else 0


if __name__ == "__main__":
    sys.exit(main())
