"""Writes the reference in docs/queries.md from the queries' files: `python -m analytics.queries.page docs/queries.md`.

What stands above the mark is written by hand, and stays.
"""

import sys
from pathlib import Path

from analytics.queries import load, names

MARK = "<!-- From here on: python -m analytics.queries.page docs/queries.md -->\n"


def text() -> str:
    """The mark and what follows it."""
    parts = [MARK]
    for name in names():
        query = load(name)
        parts.append(f"\n### {name}\n\n{query.title}.\n\n{query.about}\n")
        if query.parameters:
            parts.append("\n| parameter | type | default | |\n|---|---|---|---|\n")
        for parameter in query.parameters:
            default = "" if parameter.default is None else f"`{parameter.default}`" if parameter.default else "empty"
            parts.append(f"| `{parameter.name}` | `{parameter.type}` | {default} | {parameter.about} |\n")
    return "".join(parts)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(path.read_text(encoding="utf-8").partition(MARK)[0] + text(), encoding="utf-8")
