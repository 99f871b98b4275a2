"""What a branch of a task may do, as a program writes it: in the form that `calls:` has in the catalog (design 5.4).

Per tool and argument `"any"`, or one of `{"exact": value}`, `{"one_of": [...]}`, `{"at_most": number}`, `{"prefix": text}`,
`{"subset_of": [...]}`. What is not named is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Final, NoReturn, TypeAlias

from stepgrant.errors import ArgumentsInvalidError, InvalidIdError, MisuseError
from stepgrant.ids import parse_name, parse_tool
from stepgrant.intent import Json, canonical, from_python

MAX_TOOLS: Final = 32
MAX_ARGUMENTS: Final = 64
"""Constraints of one tool."""
MAX_VALUE_BYTES: Final = 8 * 1024
"""Of the JSON of one constraint."""
MAX_DECIMAL: Final = 32
"""Characters of a bound."""
MAX_PREFIX: Final = 2048

Bounds: TypeAlias = Mapping[str, Mapping[str, object]]
"""An envelope as a program writes it: by tool and argument."""


class Form(Enum):
    """The kinds of constraints, by the names that they have in the catalog."""

    EXACT = "exact"
    ONE_OF = "one_of"
    AT_MOST = "at_most"
    PREFIX = "prefix"
    SUBSET_OF = "subset_of"
    ANY = "any"


_VALUES: Final = {
    Form.ONE_OF: "a list of values",
    Form.SUBSET_OF: "a list of values",
    Form.AT_MOST: "a number",
    Form.PREFIX: "a text that is not empty",
    Form.ANY: 'the text "any" itself',
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """The values that one argument may have. `text`: canonical JSON, or the bound, or the prefix; empty for `any`."""

    argument: str
    form: Form
    text: str = field(default="", repr=False)


Envelope: TypeAlias = Mapping[str, tuple[Constraint, ...]]
"""By tool. What is not named is refused."""


def read_envelope(bounds: object) -> Envelope:
    """The envelope that a program means.

    Raises:
        MisuseError: it is none, naming tool and argument; never with a value.
    """
    if not isinstance(bounds, Mapping) or not bounds:
        raise MisuseError(
            'a step is handed on within an envelope: name what its branch may do, such as {"orders.get": {"order_id": "any"}}'
        )
    if len(bounds) > MAX_TOOLS:
        raise MisuseError(f"an envelope names at most {MAX_TOOLS} tools, this one {len(bounds)}")
    return {_tool(tool): _constraints(tool, arguments) for tool, arguments in bounds.items()}


def _tool(tool: object) -> str:
    try:
        return parse_tool(str(tool), "a tool of the envelope")
    except InvalidIdError as error:
        raise MisuseError(str(error)) from error


def _constraints(tool: str, arguments: object) -> tuple[Constraint, ...]:
    if not isinstance(arguments, Mapping):
        _refuse(f"{tool} in an envelope", 'a mapping of its arguments, such as {"order_id": "any"}')
    if len(arguments) > MAX_ARGUMENTS:
        raise MisuseError(
            f"an envelope constrains at most {MAX_ARGUMENTS} arguments of {tool}, this one {len(arguments)}"
        )
    return tuple(_constraint(f"{argument} of {tool}", argument, meant) for argument, meant in arguments.items())


def _constraint(what: str, argument: object, meant: object) -> Constraint:
    try:
        name = parse_name(str(argument), "an argument in an envelope")
    except InvalidIdError as error:
        raise MisuseError(str(error)) from error
    if meant == Form.ANY.value:
        return Constraint(name, Form.ANY)
    if not isinstance(meant, Mapping) or len(meant) != 1:
        _refuse(what, '"any", or one of {"exact": value} and the other forms')
    said, value = next(iter(meant.items()))
    try:
        form, json = Form(said), from_python(value)
    except ValueError:
        _refuse(what, "one of " + ", ".join(form.value for form in Form))
    except ArgumentsInvalidError as error:
        raise MisuseError(f"{what} in an envelope: {error}") from error
    return Constraint(name, form, _text(what, form, json))


def _text(what: str, form: Form, value: Json) -> str:
    match form, value:
        case Form.AT_MOST, Decimal():
            text, most = format(value, "f"), MAX_DECIMAL  # Not by `str`, which writes an exponent where it is shorter.
        case Form.PREFIX, str() if value:
            text, most = value, MAX_PREFIX
        case (Form.EXACT, _) | ((Form.ONE_OF | Form.SUBSET_OF), list()):
            text, most = canonical(value).decode("utf-8"), MAX_VALUE_BYTES
        case _:
            _refuse(what, _VALUES[form])
    if len(text.encode("utf-8")) > most:
        _refuse(what, f"{most} bytes at most")
    return text


def _refuse(what: str, wanted: str) -> NoReturn:
    raise MisuseError(f"{what} is to be {wanted}")
