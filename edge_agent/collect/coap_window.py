"""Which numbers of an OSCORE device are new (the replay window, RFC 8613 3.2.2 and 7.4). Pure.

A new window knows nothing. It begins with the number of a request that is proved to be fresh (B.1.2): all up to that
count as used, whether or not they were. Later, numbers may come in any order within NUMBERS of the highest.
"""

NUMBERS = 32
_ALL = (1 << NUMBERS) - 1


class Window:
    """The highest number, and which of the NUMBERS up to it were here, the highest in the lowest bit."""

    __slots__ = ("_highest", "_used")

    def __init__(self) -> None:
        self._highest = -1
        self._used = 0

    def takes(self, number: int, *, is_fresh: bool) -> bool:
        """Whether a number is new; it is used from now on. is_fresh: whether its request is proved to be."""
        if self._highest < 0:
            if is_fresh:
                self._highest, self._used = number, _ALL
            return is_fresh
        ahead = number - self._highest
        if ahead > 0:
            self._used = (self._used << ahead & _ALL if ahead < NUMBERS else 0) | 1
            self._highest = number
            return True
        if -ahead >= NUMBERS or self._used >> -ahead & 1:
            return False
        self._used |= 1 << -ahead
        return True
