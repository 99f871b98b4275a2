"""Plain Python data becomes strict JSON or is refused, in words that hold no value of it."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import MAX_PYTHON_VALUES, from_python, parse_value


class Level(enum.IntEnum):
    HIGH = 3


class OtherFloat(float):
    """As numpy's, which subclasses `float` and prints itself in another way."""

    def __repr__(self) -> str:
        return f"other({float(self)})"


def _holding_itself() -> list[object]:
    inner: list[object] = []
    inner.extend([inner] * 10)
    return inner


SECRETS = [
    Decimal("98765.00000000000000001"),
    987654321987654321,
    10**5000,
    9.87e300,
    Decimal("9.87E+999999999"),
    Decimal("9.87E-999999999"),
    Decimal("sNaN987"),
    float("nan"),
    datetime(1987, 1, 1, tzinfo=UTC),
    b"987",
    {987},
    {987: 1},
    "987\ud800",
    {"987\ud800": 1},
    _holding_itself(),
    [987] * (MAX_PYTHON_VALUES + 1),
]


@pytest.mark.parametrize("value", SECRETS, ids=[str(number) for number in range(len(SECRETS))])
def test_what_strict_json_cannot_carry_is_refused_with_what_to_do_and_without_its_value(value):
    with pytest.raises(ArgumentsInvalidError) as refused:
        from_python({"amount": value})
    text = str(refused.value)
    assert "amount" in text
    assert refused.value.fix in text
    assert refused.value.fix
    assert "987" not in text


def test_numbers_of_other_classes_are_numbers():
    assert from_python([Level.HIGH, OtherFloat(0.1), Decimal("98.70"), 2.0]) == [
        Decimal(3),
        Decimal("0.1"),
        Decimal("98.70"),
        Decimal("2.0"),
    ]


@pytest.mark.parametrize("token", ["9e999999", "9e1000000", "-9E+999999999", "9e-999999999", "9e999999999999999999"])
def test_exponents_of_any_size_are_refused_and_break_nothing(token):
    with pytest.raises(ArgumentsInvalidError):
        parse_value(token)


@pytest.mark.parametrize("text", ['1,"w":2', '1,"v":2', "", "1}"])
def test_a_value_is_one_value(text):
    with pytest.raises(ArgumentsInvalidError):
        parse_value(text)
