"""What the drill's mixed devices write down, a line of JSON each: what they said, and what they were promised for it.

once    it was acknowledged: in the table exactly once, but for what a rule leaves out
kept    a notification that was acknowledged: in the table, and perhaps again after a restart
said    nothing was promised; if it is in the table, then with this value
"""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Promise = Literal["once", "kept", "said"]


class Journal:
    """Written by several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def write(self, via: str, device: str, at_ms: int, values: Mapping[str, float], promise: Promise = "once") -> None:
        """One message."""
        line = json.dumps({"via": via, "device": device, "ts": at_ms, "values": dict(values), "promise": promise})
        with self._lock:
            self._file.write(line + "\n")
            self.counts[via] += 1

    def close(self) -> None:
        """Everything is in the file then."""
        self._file.close()
