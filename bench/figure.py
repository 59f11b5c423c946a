"""One measured figure, with the budget it is held against, if any."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`at_least` or `at_most`: the design's budget for `value`; both None: for information."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def shown(self) -> str:
        digits = 0 if abs(self.value) >= 1000 else 2
        return f"{self.value:,.{digits}f} {self.unit}".strip()

    @property
    def budget(self) -> str:
        if self.at_least is not None:
            return f"at least {self.at_least:g} {self.unit}".strip()
        return "" if self.at_most is None else f"at most {self.at_most:g} {self.unit}".strip()

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def verdict(self) -> str:
        return "" if self.met is None else ("met" if self.met else "MISSED")

    def as_dict(self) -> dict[str, object]:
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "budget": self.budget,
            "met": self.met,
        }
