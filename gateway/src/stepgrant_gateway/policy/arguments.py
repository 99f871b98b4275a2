"""Strict values against shapes: admitted as they are and turned into what Cedar sees, or refused with what to do."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NoReturn

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import Json, canonical, is_integer
from stepgrant_gateway.policy.parts import normalised, parse_part
from stepgrant_gateway.policy.shapes import Field, Kind, Range, Shape

DECIMAL_PLACES: Final = 4
MAX_DECIMAL: Final = Decimal("922337203685477.5807")
"""Cedar's decimal is a 64-bit count of ten-thousandths."""

_QUANTUM: Final = Decimal(1).scaleb(-DECIMAL_PLACES)
_UNSEEN: Final = object()
_NAMES: Final = {
    Kind.STRING: "a string",
    Kind.INTEGER: "an integer, written without fraction and exponent",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.ARRAY: "an array",
    Kind.OBJECT: "an object",
}


def admit(shape: Shape, value: Json, path: str = "") -> Any:
    """Cedar's JSON form of a value that the shape admits; members that policy does not see are left out.

    Defaults are filled in, for policy only: `value` stays as it is. Call it for shapes that are `seen`, or ignore the
    answer.

    Raises:
        ArgumentsInvalidError: with the path and the fix. No value is named in the texts.
    """
    seen = _admit(shape, value, path)
    return None if seen is _UNSEEN else seen


def cedar_decimal(value: Decimal, path: str = "") -> dict[str, Any]:
    """Cedar's JSON form of a decimal, exact.

    Raises:
        ArgumentsInvalidError: more than four places, or beyond MAX_DECIMAL. Nothing is rounded.
    """
    if abs(value) > MAX_DECIMAL:
        raise ArgumentsInvalidError(
            f"`{path}` is beyond what policy can compare", argument=path, fix=f"stay within {MAX_DECIMAL}"
        )
    quantized = value.quantize(_QUANTUM)
    if quantized != value:
        raise ArgumentsInvalidError(
            f"`{path}` has more than {DECIMAL_PLACES} decimals",
            argument=path,
            fix=f"round `{path}` to {DECIMAL_PLACES} decimals",
        )
    return {"__extn": {"fn": "decimal", "arg": f"{quantized:f}"}}


def _admit(shape: Shape, value: Json, path: str) -> Any:
    if value is None and shape.kind not in {Kind.UNION, Kind.ANY}:
        # What null stands for is decided by the member that holds it; here it only has to be admitted.
        if shape.nullable:
            return _UNSEEN
        raise _wrong(path, "is null", f"pass {_NAMES[shape.kind]}")
    match shape.kind:
        case Kind.STRING:
            seen: Any = _string(shape, value, path)
        case Kind.INTEGER | Kind.NUMBER:
            seen = _numeric(shape, value, path)
        case Kind.BOOLEAN:
            seen = value if isinstance(value, bool) else _mistyped(shape, path)
        case Kind.ARRAY:
            seen = _array(shape, value, path)
        case Kind.OBJECT:
            seen = _object(shape, value, path)
        case Kind.UNION:
            seen = _union(shape, value, path)
        case Kind.ANY:
            seen = _any(shape, value, path)
    if shape.choices is not None and canonical(value) not in shape.choices:
        raise _wrong(path, "is none of the values that the schema lists", "pass one of them")
    return seen if shape.seen else _UNSEEN


def _string(shape: Shape, value: Json, path: str) -> str:
    if not isinstance(value, str):
        _mistyped(shape, path)
    _size(shape, len(value), path, "characters")
    if shape.pattern is not None:
        matched = shape.pattern.fullmatch(value) if shape.whole_pattern else shape.pattern.search(value)
        if not matched:
            raise _wrong(path, "does not match the pattern of its schema", "pass a value of that form")
    if shape.format is not None:
        parse_part(shape.format, value, path)
    return value


def _numeric(shape: Shape, value: Json, path: str) -> Any:
    if not isinstance(value, Decimal):
        _mistyped(shape, path)
    if shape.kind is Kind.INTEGER and not is_integer(value):
        _mistyped(shape, path)
    if shape.range is not None:
        _in_range(shape.range, value, path)
    if shape.hidden:
        return _UNSEEN
    return int(value) if shape.kind is Kind.INTEGER else cedar_decimal(value, path)


def _in_range(bounds: Range, value: Decimal, path: str) -> None:
    if bounds.minimum is not None and value < bounds.minimum:
        raise _wrong(path, f"is below {bounds.minimum}", f"pass at least {bounds.minimum}")
    if bounds.maximum is not None and value > bounds.maximum:
        raise _wrong(path, f"is above {bounds.maximum}", f"pass at most {bounds.maximum}")
    if bounds.above is not None and value <= bounds.above:
        raise _wrong(path, f"is not above {bounds.above}", f"pass more than {bounds.above}")
    if bounds.below is not None and value >= bounds.below:
        raise _wrong(path, f"is not below {bounds.below}", f"pass less than {bounds.below}")
    if bounds.multiple_of is not None and not _divides(bounds.multiple_of, value):
        raise _wrong(path, f"is no multiple of {bounds.multiple_of}", f"pass a multiple of {bounds.multiple_of}")


def _divides(divisor: Decimal, value: Decimal) -> bool:
    # Exact in integers: Decimal's own remainder gives up beyond 28 digits.
    places = max(0, -_exponent(divisor), -_exponent(value))
    return int(value.scaleb(places)) % int(divisor.scaleb(places)) == 0


def _exponent(value: Decimal) -> int:
    return int(value.as_tuple().exponent)


def _array(shape: Shape, value: Json, path: str) -> Any:
    if not isinstance(value, list):
        _mistyped(shape, path)
    _size(shape, len(value), path, "elements")
    items = shape.items
    if items is None:
        for index, item in enumerate(value):
            _any(shape, item, f"{path}[{index}]")
        seen: Any = _UNSEEN
    else:
        seen = [_admit(items, item, f"{path}[{index}]") for index, item in enumerate(value)]
    if shape.unique:
        _distinct(shape, value, path)
    return seen


def _distinct(shape: Shape, value: list[Json], path: str) -> None:
    form = None if shape.items is None else shape.items.format
    if form is not None:
        keys: set[Any] = {normalised(form, item, path) for item in value if isinstance(item, str)}
    else:
        keys = {canonical(item) for item in value}
    if len(keys) != len(value):
        raise _wrong(path, "holds an element twice", "pass each once")


def _object(shape: Shape, value: Json, path: str) -> Any:
    if not isinstance(value, dict):
        _mistyped(shape, path)
    _size(shape, len(value), path, "properties")
    if not shape.free_form:
        for name in value:
            if name not in shape.fields:
                raise _unnamed(path, name)
    seen: dict[str, Any] = {}
    for name, member in shape.fields.items():
        item = _member(member, value, name, f"{path}.{name}" if path else name)
        if item is not _UNSEEN:
            seen[name] = item
    return seen


def _member(member: Field, value: dict[str, Json], name: str, path: str) -> Any:
    shape = member.shape
    if name not in value:
        if member.required:
            raise _wrong(path, "is missing", "pass it")
        if member.default is None or not shape.seen:
            return _UNSEEN
        return _admit(shape, member.default, path)
    given = value[name]
    if given is None and shape.nullable and shape.seen and not member.null_by_default:
        # To policy null would read as absent, and to the tool it may mean something else.
        raise _wrong(path, "is null, which is not its default", "leave it out, or pass a value")
    return _admit(shape, given, path)


def _union(shape: Shape, value: Json, path: str) -> object:
    if value is None and shape.nullable:
        return _UNSEEN
    fitting = 0
    for alternative in shape.alternatives:
        try:
            _admit(alternative, value, path)
        except ArgumentsInvalidError:
            continue
        fitting += 1
        if not shape.exactly_one:
            return _UNSEEN
    if fitting != 1:
        raise _wrong(path, "is none of the alternatives of its schema", "pass one of them")
    return _UNSEEN


def _any(shape: Shape, value: Json, path: str) -> object:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _any(shape, item, f"{path}[{index}]")
    elif isinstance(value, dict) and not shape.free_form:
        for name in value:
            raise _unnamed(path, name)
    return _UNSEEN


def _size(shape: Shape, size: int, path: str, unit: str) -> None:
    if size < shape.least:
        raise _wrong(path, f"has fewer than {shape.least} {unit}", f"pass at least {shape.least}")
    if shape.most is not None and size > shape.most:
        raise _wrong(path, f"has more than {shape.most} {unit}", f"pass at most {shape.most}")


def _mistyped(shape: Shape, path: str) -> NoReturn:
    raise _wrong(path, f"is not {_NAMES[shape.kind]}", f"pass {_NAMES[shape.kind]}")


def _unnamed(path: str, name: str) -> ArgumentsInvalidError:
    full = f"{path}.{name[:64]}" if path else name[:64]
    return ArgumentsInvalidError(f"`{full}` is not named by the schema", argument=full, fix=f"leave `{full}` out")


def _wrong(path: str, what: str, fix: str) -> ArgumentsInvalidError:
    subject = f"`{path}`" if path else "the value"
    return ArgumentsInvalidError(f"{subject} {what}", argument=path, fix=fix)
