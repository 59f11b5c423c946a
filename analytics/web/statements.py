"""Statements that people have saved, and those that were run last: a JSON file beside the dashboard.

Written whole and renamed, so a reader never sees half of one. At most `SAVED_MAX` are kept under names, and the last
`HISTORY_MAX` that ran.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from telemetry.errors import FieldlineError

SAVED_MAX = 500
HISTORY_MAX = 50
CHARACTERS_MAX = 100_000


class Statements:
    """The file; read anew each time, so that several dashboards may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self) -> tuple[dict[str, str], list[str]]:
        with suppress(OSError, ValueError, TypeError, AttributeError):
            read = json.loads(self.path.read_text(encoding="utf-8"))
            saved = {str(name): str(text) for name, text in read["saved"].items()}
            return saved, [str(text) for text in read["history"]]
        return {}, []

    def _write(self, saved: dict[str, str], history: list[str]) -> None:
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"saved": saved, "history": history}, ensure_ascii=False), encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            raise FieldlineError(
                f"cannot write {self.path}: {error.strerror}. Choose another file with --saved."
            ) from error

    @property
    def saved(self) -> dict[str, str]:
        """The statement of each name, sorted by name."""
        return dict(sorted(self._read()[0].items()))

    @property
    def history(self) -> list[str]:
        """The latest first."""
        return self._read()[1]

    def save(self, name: str, text: str) -> None:
        """Under a name; one of that name is replaced. Raises FieldlineError."""
        saved, history = self._read()
        if not name.strip():
            raise FieldlineError("A saved query needs a name.")
        if len(text) > CHARACTERS_MAX or (len(saved) >= SAVED_MAX and name not in saved):
            raise FieldlineError(f"At most {SAVED_MAX} queries of {CHARACTERS_MAX:,} characters can be saved.")
        self._write(saved | {name.strip(): text}, history)

    def forget(self, name: str) -> None:
        """Remove a saved one. Raises FieldlineError."""
        saved, history = self._read()
        saved.pop(name, None)
        self._write(saved, history)

    def note(self, text: str) -> None:
        """It was run. Raises FieldlineError."""
        saved, history = self._read()
        if len(text) <= CHARACTERS_MAX:
            self._write(saved, [text, *(other for other in history if other != text)][:HISTORY_MAX])
