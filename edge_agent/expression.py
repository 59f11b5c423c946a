"""Expressions over metrics: a small language of its own, so that a config can compute and can do nothing else. Pure.

    voltage * current                            "motor 1/speed" / 60
    if(level > 0.9 and not valve, 1, 0)          clamp(round(100 * (raw - 4) / 16), 0, 100)

Numbers are doubles. From the weakest to the strongest: `or`, `and`, `not`, comparison (< <= > >= == !=, of two), + -,
* / %, sign, ** (to the right). Comparisons and logic give 1 or 0; what is not 0 is true; `%` has the sign of its right
side, as in Python. A name of letters, digits, _ and . stands for a metric; any other metric's name stands in quotation
marks, single or double.

There is no value, and nothing is raised, where an operation has none (a division by zero, the root of a negative
number) or the result is not finite: `evaluate` gives None. `if`, `and` and `or` look at no more than they need:
`if(n == 0, 0, sum / n)` always has a value.

Limits: TEXT_CHARS_MAX, DEPTH_MAX levels, NAMES_MAX metrics. Every step is one operation on doubles, so time and memory
are bounded by the text.
"""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TEXT_CHARS_MAX = 1000
DEPTH_MAX = 50
NAMES_MAX = 64

Values = Sequence[float]
Node = Callable[[Values], float]


class ExpressionError(ValueError):
    """Says what is wrong and at which column, from 1."""


@dataclass(frozen=True, slots=True)
class Expression:
    """names: the metrics that `evaluate` takes the values of, in this order."""

    names: tuple[str, ...]
    node: Node

    def evaluate(self, values: Values) -> float | None:
        """The value, or None where there is none."""
        try:
            value = self.node(values)
        except (ArithmeticError, ValueError):
            return None
        return value if math.isfinite(value) else None


def parse(text: str) -> Expression:
    """Raises ExpressionError."""
    if len(text) > TEXT_CHARS_MAX:
        raise ExpressionError(f"it has {len(text)} characters, at most {TEXT_CHARS_MAX} are allowed")
    parser = _Parser(text)
    node = parser.alternative(0)
    parser.expect_end()
    return Expression(tuple(parser.names), node)


class _Token(NamedTuple):
    kind: str  # number, name, quoted, sign, end
    text: str
    column: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d][\w.]*)
      | (?P<quoted>"[^"]+"|'[^']+')
      | (?P<sign>\*\*|<=|>=|==|!=|[-+*/%<>(),])
    )""",
    re.VERBOSE,
)
_WORDS = {"and", "or", "not"}


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(f"{text[at]!r} at column {at + 1} has no meaning here")
        kind = str(match.lastgroup)
        word = match[kind]
        found.append(_Token("sign" if word in _WORDS else kind, word, match.start(kind) + 1))
        at = match.end()
    return [*found, _Token("end", "", end + 1)]


class _Parser:
    """Recursive descent, a method for each level of precedence; `depth` bounds the recursion."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self.names: dict[str, int] = {}

    def alternative(self, depth: int) -> Node:
        """A whole expression."""
        if depth > DEPTH_MAX:
            raise ExpressionError(f"it is nested more than {DEPTH_MAX} deep, at column {self._next.column}")
        nodes = self._logic(depth, self._conjunction, "or")
        return nodes[0] if len(nodes) == 1 else lambda values: float(any(node(values) for node in nodes))

    def expect_end(self) -> None:
        """Nothing may follow."""
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")

    def _conjunction(self, depth: int) -> Node:
        nodes = self._logic(depth, self._negation, "and")
        return nodes[0] if len(nodes) == 1 else lambda values: float(all(node(values) for node in nodes))

    def _logic(self, depth: int, inner: Callable[[int], Node], word: str) -> list[Node]:
        nodes = [inner(depth)]
        while self._take(word):
            nodes.append(inner(depth))
        return nodes

    def _negation(self, depth: int) -> Node:
        if not self._take("not"):
            return self._comparison(depth)
        self._deeper(depth)
        inner = self._negation(depth + 1)
        return lambda values: float(not inner(values))

    def _comparison(self, depth: int) -> Node:
        left = self._sum(depth)
        if self._next.kind == "sign" and self._next.text in _COMPARISONS:
            compare = _COMPARISONS[self._advance().text]
            right = self._sum(depth)
            return lambda values: float(compare(left(values), right(values)))
        return left

    def _sum(self, depth: int) -> Node:
        return self._chain(depth, self._product, {"+": operator.add, "-": operator.sub})

    def _product(self, depth: int) -> Node:
        return self._chain(depth, self._signed, {"*": operator.mul, "/": operator.truediv, "%": operator.mod})

    def _signed(self, depth: int) -> Node:
        if self._take("-"):
            self._deeper(depth)
            inner = self._signed(depth + 1)
            return lambda values: -inner(values)
        if self._take("+"):
            self._deeper(depth)
            return self._signed(depth + 1)
        return self._power(depth)

    def _power(self, depth: int) -> Node:
        base = self._atom(depth)
        if not self._take("**"):
            return base
        self._deeper(depth)
        exponent = self._signed(depth + 1)
        return lambda values: math.pow(base(values), exponent(values))

    def _atom(self, depth: int) -> Node:
        token = self._next
        if token.kind == "number":
            number = float(self._advance().text)
            if math.isinf(number):
                raise ExpressionError(f"{token.text} at column {token.column} is larger than a number can be")
            return lambda _values: number
        if token.kind == "name":
            self._advance()
            return self._call(token, depth) if self._take("(") else self._metric(token.text)
        if token.kind == "quoted":
            return self._metric(self._advance().text[1:-1])
        if self._take("("):
            inner = self.alternative(depth + 1)
            self._expect(")")
            return inner
        raise self._unexpected("a number, a metric or (")

    def _metric(self, name: str) -> Node:
        place = self.names.setdefault(name, len(self.names))
        if place >= NAMES_MAX:
            raise ExpressionError(f"it names more than {NAMES_MAX} metrics")
        return operator.itemgetter(place)

    def _call(self, token: _Token, depth: int) -> Node:
        if token.text not in _FUNCTIONS:
            there = ", ".join(sorted(_FUNCTIONS))
            raise ExpressionError(f"there is no function {token.text!r} (column {token.column}); there are {there}")
        function, least, most = _FUNCTIONS[token.text]
        arguments = [self.alternative(depth + 1)]
        while self._take(","):
            arguments.append(self.alternative(depth + 1))
        self._expect(")")
        if not least <= len(arguments) <= most:
            wanted = f"{least}" if least == most else f"{least} or more"
            raise ExpressionError(
                f"{token.text} at column {token.column} takes {wanted} arguments, here are {len(arguments)}"
            )
        if function is _if:
            condition, then, otherwise = arguments
            return lambda values: (then if condition(values) else otherwise)(values)
        return lambda values: function(*[argument(values) for argument in arguments])

    def _chain(
        self, depth: int, inner: Callable[[int], Node], operators: dict[str, Callable[[float, float], float]]
    ) -> Node:
        """Operators of one precedence, from the left. A list, not nested functions, so that a long sum is not deep."""
        first, rest = inner(depth), []
        while self._next.kind == "sign" and self._next.text in operators:
            rest.append((operators[self._advance().text], inner(depth)))
        if not rest:
            return first

        def chained(values: Values) -> float:
            value = first(values)
            for combine, node in rest:
                value = combine(value, node(values))
            return value

        return chained

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _advance(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _take(self, sign: str) -> bool:
        if self._next.kind == "sign" and self._next.text == sign:
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._unexpected(repr(sign))

    def _deeper(self, depth: int) -> None:
        if depth >= DEPTH_MAX:
            raise ExpressionError(f"it is nested more than {DEPTH_MAX} deep, at column {self._next.column}")

    def _unexpected(self, wanted: str) -> ExpressionError:
        token = self._next
        found = "it ends" if token.kind == "end" else f"{token.text!r} stands"
        return ExpressionError(f"{found} at column {token.column}, where {wanted} is expected")


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _if(*_: float) -> float:
    raise AssertionError("made into a node of its own")


_FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "abs": (abs, 1, 1),
    "atan2": (math.atan2, 2, 2),
    "ceil": (lambda value: float(math.ceil(value)), 1, 1),
    "clamp": (_clamp, 3, 3),
    "cos": (math.cos, 1, 1),
    "exp": (math.exp, 1, 1),
    "floor": (lambda value: float(math.floor(value)), 1, 1),
    "hypot": (math.hypot, 2, NAMES_MAX),
    "if": (_if, 3, 3),
    "log": (math.log, 1, 1),
    "log10": (math.log10, 1, 1),
    "max": (max, 2, NAMES_MAX),
    "min": (min, 2, NAMES_MAX),
    "round": (lambda value: float(round(value)), 1, 1),
    "sin": (math.sin, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "tan": (math.tan, 1, 1),
}
"""name: what it does, the least and the largest number of its arguments. `log` is the natural logarithm.

All give doubles: the integers of Python's ceil, floor and round would grow without an end.
"""
