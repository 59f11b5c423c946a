"""What gateways have told of their series: the worker's side of `telemetry.wire.Dictionary`.

A batch defines the series that its dictionary has not defined before; here the definitions are kept for the batches
that follow. They may be lost at any time: by a worker that starts, by a batch that never came, by the limit. A batch
that mentions a series which is not known is not admitted, and its gateway is told which dictionary was forgotten; it
then starts again behind its mark with another one. So nothing that is kept here is needed for custody.

Limit: series_max definitions of all gateways together; beyond it the dictionaries that were not used for the longest
time go.
"""

import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from telemetry.columns import Series
from telemetry.errors import WireError

SERIES_MAX = 500_000

Key = tuple[str, str, str]
"""(gateway, epoch, dictionary id)"""


class UndefinedSeriesError(WireError):
    """A batch mentions series of a dictionary that is not known, or not any more. key: (gateway, epoch)."""

    def __init__(self, key: Key) -> None:
        super().__init__(f"the batch mentions a series that was not defined under dictionary {key[2]}")
        self.key, self.dictionary = key[:2], key[2]


class Dictionaries:
    """The definitions of all gateways."""

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self._series_max = series_max
        self._known: OrderedDict[Key, dict[int, Series]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """The number of definitions."""
        return self._count

    def names(self, key: Key, ids: Sequence[int], defined: Mapping[int, Series]) -> list[Series]:
        """What the ids of a batch stand for, given what it defines itself, which is kept.

        Raises UndefinedSeriesError, and WireError when it contradicts what was defined before.
        """
        known = self._known.get(key, {})
        if any(known.get(id_, series) != series for id_, series in defined.items()):
            raise WireError(f"the batch contradicts what dictionary {key[2]} has said of a series")
        try:
            names = [defined[id_] if id_ in defined else known[id_] for id_ in ids]
        except KeyError:
            raise UndefinedSeriesError(key) from None
        self._keep(key, known, defined)
        return names

    def _keep(self, key: Key, known: dict[int, Series], defined: Mapping[int, Series]) -> None:
        self._count -= len(known)
        known.update((id_, Series(*map(sys.intern, series))) for id_, series in defined.items())
        self._count += len(known)
        if known:
            self._known[key] = known
            self._known.move_to_end(key)
        while self._count > self._series_max:
            self._count -= len(self._known.popitem(last=False)[1])
