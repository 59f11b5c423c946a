"""The language of [[derived]]: what it shares with Python it computes as Python does; no text makes it hang."""

import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.expression import DEPTH_MAX, NAMES_MAX, ExpressionError, parse

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
NAMES = ("a", "b.c", "d e", "it's")
IN_PYTHON = dict(zip(NAMES, "wxyz", strict=True))


def spelled(name: str) -> str:
    return name if name.replace(".", "").isidentifier() else f'"{name}"'


def binary(inner: st.SearchStrategy) -> st.SearchStrategy:
    sign = st.sampled_from(["+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or"])
    return st.tuples(inner, sign, inner).map(
        lambda parts: (
            f"({parts[0][0]} {parts[1]} {parts[2][0]})",
            f"({logical(*(p if isinstance(p, str) else p[1] for p in parts))})",
        )
    )


def logical(left: str, sign: str, right: str) -> str:
    if sign in ("and", "or"):
        return f"float(bool({left}) {sign} bool({right}))"
    return f"float({left} {sign} {right})"


def unary(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.sampled_from(["-", "+", "not ", "abs", "sqrt", "floor"]), inner).map(
        lambda parts: (
            (f"({parts[0]}({parts[1][0]}))"),
            f"float({'math.' if parts[0] in ('sqrt', 'floor') else ''}{parts[0]}({parts[1][1]}))",
        )
    )


PAIRS = st.recursive(
    st.one_of(
        NUMBERS.map(lambda value: (repr(value), repr(value))),
        st.sampled_from(NAMES).map(lambda name: (spelled(name), IN_PYTHON[name])),
    ),
    lambda inner: st.one_of(binary(inner), unary(inner)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.lists(NUMBERS, min_size=4, max_size=4))
def test_it_computes_what_python_computes(pair: tuple[str, str], values: list[float]) -> None:
    ours, python = pair
    expression = parse(ours)
    by_name = dict(zip(NAMES, values, strict=True))
    try:
        wanted = eval(python, {"math": math, **{IN_PYTHON[name]: value for name, value in by_name.items()}})
    except (ArithmeticError, ValueError):
        wanted = None
    if wanted is not None and not math.isfinite(wanted):
        wanted = None
    assert expression.evaluate([by_name[name] for name in expression.names]) == wanted


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from([*"()+-*/%<>=,1a\"' ", "if(", "**", "not "])).map("".join))
)
def test_any_text_is_an_expression_or_a_sentence(text: str) -> None:
    with suppress(ExpressionError):
        expression = parse(text)
        value = expression.evaluate([1.5] * len(expression.names))
        assert value is None or math.isfinite(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("1 - 2 - 3", -4),
        ("2 + 3 * 4", 14),
        ("-7 % 3", 2),
        ("not 1 == 2", 1),
        ("1 or 1 / 0", 1),
        ("0 and 1 / 0", 0),
        ("if(a - 2.5 == 0, 7, 1 / (a - 2.5))", 7),
        ("if(a > 1, 10, 20)", 10),
        ("clamp(a, 0, 1)", 1),
        ("max(1, a, 2) + min(a, 7)", 5),
        ("1 / (a - 2.5)", None),
        ("sqrt(-1)", None),
        ("9 ** 9 ** 9", None),
        ("floor(1e200) * ceil(1e200) * round(1e200)", None),
        ("log(exp(1))", 1),
        ("hypot(3, 4)", 5),
        ("'a'", 2.5),
    ],
)
def test_precedence_functions_and_what_has_no_value(text: str, value: float | None) -> None:
    expression = parse(text)
    got = expression.evaluate([2.5] * len(expression.names))
    assert got == value if value is None or got is None else math.isclose(got, value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it ends at column 1, where a number, a metric or ( is expected"),
        ("voltage *", "it ends at column 10, where a number, a metric or ( is expected"),
        ("voltage current", "'current' stands at column 9, where an operator or the end is expected"),
        ("(a + b", "it ends at column 7, where ')' is expected"),
        ("a + $", "'$' at column 5 has no meaning here"),
        ("__import__('os')", "there is no function '__import__' (column 1)"),
        ("a.b.c(1)", "there is no function 'a.b.c'"),
        ("sqrt(1, 2)", "sqrt at column 1 takes 1 arguments, here are 2"),
        ("max(1)", "max at column 1 takes 2 or more arguments, here are 1"),
        ("a < b < c", "'<' stands at column 7"),
        ("1e999", "1e999 at column 1 is larger than a number can be"),
        ("1" * 1001, "it has 1001 characters"),
        ("(" * 60 + "1" + ")" * 60, f"nested more than {DEPTH_MAX} deep"),
        ("-" * 60 + "1", f"nested more than {DEPTH_MAX} deep"),
        ("+".join(f"m{n}" for n in range(NAMES_MAX + 1)), f"it names more than {NAMES_MAX} metrics"),
    ],
)
def test_what_is_wrong_is_said_with_its_column(text: str, sentence: str) -> None:
    with pytest.raises(ExpressionError) as told:
        parse(text)
    assert sentence in str(told.value)


def test_a_long_sum_is_not_deep() -> None:
    assert parse("+".join(["1"] * 500)).evaluate([]) == 500
