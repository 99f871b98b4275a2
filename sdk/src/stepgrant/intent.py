"""Intents: strict JSON, its one canonical form (JCS, RFC 8785), and the digests that bind a grant to a call."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias

import rfc8785

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.json_text import json_writer

Json: TypeAlias = "bool | str | Decimal | list[Json] | dict[str, Json] | None"
"""A strictly parsed JSON value. Numbers are `Decimal` and keep the form they were written in."""

MAX_ARGUMENTS_BYTES: Final = 64 * 1024
MAX_PARAMETERS_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 16
"""Levels of arrays and objects: enough for any tool schema, far from the interpreter's recursion limit."""
MAX_VALUES: Final = 4096
"""Values in one document, containers and members included."""
MAX_PYTHON_DEPTH: Final = 64
MAX_PYTHON_VALUES: Final = 65_536
"""Of plain Python data, such as results and documents; arguments are held to MAX_DEPTH and MAX_VALUES when they are parsed."""
MAX_NUMBER_CHARACTERS: Final = 32
PLAIN_DIGITS: Final = 15
"""Integers of so many digits are below MAX_SAFE_INTEGER, and each is what its double holds."""
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Largest integer that every JSON implementation reads the same (RFC 8259, section 6)."""

_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""Strings, also one that never ends: else each quote inside it would be tried as a beginning, in quadratic time."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WHOLE: Final = Decimal(0)
_ALIKE: Final = (Decimal("0.001"), Decimal(10**15))
"""Between these Python and ECMAScript write a double alike: without an exponent."""


def parse_object(text: str, *, max_bytes: int = MAX_ARGUMENTS_BYTES, what: str = "arguments") -> dict[str, Json]:
    """The JSON object that `text` is, read so that one value has one meaning.

    Refused: more than `max_bytes` of UTF-8, more than MAX_DEPTH levels or MAX_VALUES values, duplicate names, lone
    surrogates, NaN and infinities, numbers beyond 2^53-1, numbers other than the shortest decimal of their double.

    Raises:
        ArgumentsInvalidError: with what is wrong and how to mend it.
    """
    _refuse_large(text, max_bytes, what)
    try:
        value = _decoder(what).decode(text)
    except json.JSONDecodeError as error:
        raise ArgumentsInvalidError(
            f"{what} are not JSON: {error.msg} at character {error.pos}", fix="send one JSON object"
        ) from error
    if not isinstance(value, dict):
        raise ArgumentsInvalidError(f"{what} are not a JSON object", fix="send one JSON object")
    # A value takes a character at least, and a lone surrogate can only be written as an escape.
    if len(text) > MAX_VALUES or "\\u" in text:
        _walk(value, what)
    return value


def parse_value(text: str, *, max_bytes: int = MAX_ARGUMENTS_BYTES, what: str = "value") -> Json:
    """The JSON value that `text` is, under the rules of `parse_object`."""
    values = parse_object('{"v":' + text + "}", max_bytes=max_bytes + 6, what=what)
    if len(values) != 1:
        raise ArgumentsInvalidError(f"{what} is more than one value", fix="send one JSON value")
    return values["v"]


def from_python(value: object, path: str = "") -> Json:
    """The strict JSON value of plain Python data: None, bool, str, int, float, Decimal, list, tuple, mapping.

    A float becomes the shortest decimal of its double; nothing is rounded. Bounded by MAX_PYTHON_DEPTH and
    MAX_PYTHON_VALUES, so that data that holds itself is refused too.

    Raises:
        ArgumentsInvalidError: a value that strict JSON cannot carry, with its path and without the value.
    """
    return _PythonReader().read(value, path, 0)


class _PythonReader:
    """Reads one value and its parts, and counts on the way."""

    def __init__(self) -> None:
        self._seen = 0

    def read(self, value: object, path: str, depth: int) -> Json:
        self._seen += 1
        what = path or "the value"
        if depth > MAX_PYTHON_DEPTH or self._seen > MAX_PYTHON_VALUES:
            raise ArgumentsInvalidError(f"{what[:128]} nests too deeply, or holds too much", fix="send less at once")
        if isinstance(value, str):
            if _SURROGATE.search(value):
                raise ArgumentsInvalidError(f"{what} holds a lone surrogate", argument=path, fix="send UTF-8")
            return value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float | Decimal):
            return _number(_token(value, what), what)
        if isinstance(value, Mapping):
            return {
                _name(key, path): self.read(item, f"{path}.{key}" if path else str(key), depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.read(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        raise ArgumentsInvalidError(
            f"{what} is of type {type(value).__name__}, which JSON cannot carry",
            argument=path,
            fix="pass None, bool, int, float, Decimal, str, a list or a mapping",
        )


def canonical(value: Json) -> bytes:
    """JCS (RFC 8785) of a strict value: equal values, equal bytes."""
    try:
        # The C encoder writes ASCII text and numbers of ordinary size, nearly all there is, just so.
        text = _written(value)
    except (TypeError, ValueError):
        return rfc8785.dumps(_plain(value))
    return text.encode("ascii") if text.isascii() else rfc8785.dumps(_plain(value))


def digest(value: Json) -> bytes:
    """SHA-256 over JCS: 32 bytes."""
    return hashlib.sha256(canonical(value)).digest()


def is_integer(value: Decimal) -> bool:
    """True for a number written without fraction and exponent, which is what an integer of a schema must be."""
    return value.same_quantum(_WHOLE)


@lru_cache(maxsize=16)
def _decoder(what: str) -> json.JSONDecoder:
    """Reads text strictly; `what` is only named in what it raises."""

    def number(token: str) -> Decimal:
        return _number(token, what)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            twice = Counter(name for name, _ in items).most_common(1)[0][0][:128]
            raise ArgumentsInvalidError(f"{what} name {twice!r} twice", argument=twice, fix="name it once")
        return result

    def constant(token: str) -> NoReturn:
        raise ArgumentsInvalidError(f"{what} contain {token}", fix="JSON has no NaN and no infinity (RFC 8259)")

    return json.JSONDecoder(object_pairs_hook=pairs, parse_int=number, parse_float=number, parse_constant=constant)


def _refuse_large(text: str, max_bytes: int, what: str) -> None:
    try:
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ArgumentsInvalidError(f"{what} hold a lone surrogate", fix="send UTF-8") from error
    if size > max_bytes:
        raise ArgumentsInvalidError(f"{what} take {size} bytes, more than {max_bytes}", fix="send less at once")
    if text.count("[") + text.count("{") <= MAX_DEPTH + 1:
        return  # Whatever stands in strings.
    depth = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH + 1:
                raise ArgumentsInvalidError(f"{what} nest deeper than {MAX_DEPTH} levels", fix="flatten them")
        elif character in "]}":
            depth -= 1


def _number(token: str, what: str) -> Decimal:
    if len(token) <= PLAIN_DIGITS and token.isdecimal():
        return Decimal(token)
    if len(token) > MAX_NUMBER_CHARACTERS:
        raise ArgumentsInvalidError(
            f"{what}: a number of {len(token)} characters",
            fix=f"at most {MAX_NUMBER_CHARACTERS}; round it, or send a string",
        )
    try:
        value = Decimal(token)
    except InvalidOperation as error:
        raise ArgumentsInvalidError(f"{what}: not a number", fix="JSON has no NaN (RFC 8259)") from error
    if not value.is_finite():
        raise ArgumentsInvalidError(
            f"{what}: a number that is not finite", fix="JSON has no NaN and no infinity (RFC 8259)"
        )
    if value.copy_abs() > MAX_SAFE_INTEGER:  # `abs` rounds, and overflows at exponents of a million
        raise ArgumentsInvalidError(f"{what}: a number beyond 2^53-1", fix="send it as a string")
    shortest = Decimal(repr(float(value)))
    if value != shortest:
        raise ArgumentsInvalidError(
            f"{what}: a number that is not what a double holds",
            fix="round it to 15 significant digits, or send it as a string",
        )
    return value


def _token(value: float | Decimal, what: str) -> str:
    """The number as JSON writes it. Nothing is written out that is too long to be taken."""
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        raise ArgumentsInvalidError(f"{what}: a number beyond 2^53-1", fix="send it as a string")
    if isinstance(value, float):
        return float.__repr__(value)  # A subclass, such as that of numpy, may say something else.
    if isinstance(value, Decimal):
        short = value.is_finite() and abs(value.adjusted()) <= MAX_NUMBER_CHARACTERS
        return format(value, "f") if short else str(value)
    return int.__repr__(value)


def _walk(value: Any, what: str) -> None:
    pending, seen = [value], 0
    while pending:
        item = pending.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise ArgumentsInvalidError(f"{what} hold more than {MAX_VALUES} values", fix="send less at once")
        if isinstance(item, str):
            if not item.isascii() and _SURROGATE.search(item):
                raise ArgumentsInvalidError(f"{what} hold a lone surrogate", fix="send UTF-8")
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _ordinary(value: object) -> int | float:
    """A number as Python and ECMAScript write it alike; ValueError for any other value."""
    if type(value) is Decimal:
        if value == value.to_integral_value():
            if abs(value) <= MAX_SAFE_INTEGER:
                return int(value)
        elif _ALIKE[0] <= abs(value) < _ALIKE[1]:
            return float(value)
    raise ValueError("no ordinary number")


def _name(key: object, path: str) -> str:
    if not isinstance(key, str) or _SURROGATE.search(key):
        raise ArgumentsInvalidError(
            f"{path or 'the value'} has a name that is not a string of UTF-8", argument=path, fix="name it by a str"
        )
    return key


def _plain(value: Json) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


_written: Final = json_writer(sort_keys=True, ensure_ascii=False, default=_ordinary)
