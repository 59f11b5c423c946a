"""Delays between attempts: exponential with full jitter, so that a fleet does not retry as one.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Draws each delay uniformly from [delay_s_min, min(delay_s_max, delay_s_min * 2^attempt)]."""

    delay_s_min: float
    delay_s_max: float
    chance: random.Random = field(default_factory=random.Random)
    attempt: int = 0

    def next_s(self) -> float:
        """The delay before the next attempt, in seconds."""
        self.attempt += 1
        ceiling = min(self.delay_s_max, self.delay_s_min * 2 ** min(self.attempt, 30))
        return self.chance.uniform(self.delay_s_min, ceiling)

    def reset(self) -> None:
        """To be called after a success."""
        self.attempt = 0
