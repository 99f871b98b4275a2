"""Shapes: what values an argument or a parameter may have, and whether policy sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Protocol

from stepgrant.intent import Json


class Kind(Enum):
    """What a value is. `UNION` (one of several) and `ANY` are never shown to policy."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ARRAY = "array"
    OBJECT = "object"
    UNION = "union"
    ANY = "any"


class Format(Enum):
    """A format that is parsed and normalised; its columns are in `parts.COLUMNS`."""

    URI = "uri"
    EMAIL = "email"
    HOSTNAME = "hostname"
    PATH = "path"


class Pattern(Protocol):
    """A compiled RE2 expression: matching takes time linear in the text, whatever the expression."""

    def search(self, text: str, /) -> object | None:
        """Something if the expression occurs in the text."""

    def fullmatch(self, text: str, /) -> object | None:
        """Something if the whole text matches."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number; None = none. `multiple_of` is above 0."""

    minimum: Decimal | None = None
    maximum: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    multiple_of: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The values that are admitted in one place.

    `choices`: JCS of each admitted value, None = no enumeration. `least` and `most` count characters of a string,
    elements of an array, properties of an object. `whole_pattern`: the pattern must match all of the text. `hidden`:
    policy does not see it. `free_form`: objects may have properties that nothing names; those are never seen.
    """

    kind: Kind
    nullable: bool = False
    choices: frozenset[bytes] | None = None
    least: int = 0
    most: int | None = None
    pattern: Pattern | None = None
    whole_pattern: bool = False
    format: Format | None = None
    range: Range | None = None
    items: Shape | None = None
    unique: bool = False
    fields: Mapping[str, Field] = field(default_factory=dict)
    alternatives: tuple[Shape, ...] = ()
    exactly_one: bool = False
    hidden: bool = False
    free_form: bool = False
    seen: bool = field(init=False, compare=False)
    """True if policy sees values of this shape."""

    def __post_init__(self) -> None:
        """Works out what is asked of every value."""
        seen = not self.hidden and self.kind is not Kind.UNION and self.kind is not Kind.ANY
        if self.kind is Kind.ARRAY:
            # A Set has elements of one type, none of them absent.
            seen = seen and self.items is not None and self.items.seen and not self.items.nullable
        object.__setattr__(self, "seen", seen)


@dataclass(frozen=True, slots=True)
class Field:
    """A named member of an object. `default` None = no default, or the default null."""

    shape: Shape
    required: bool = False
    default: Json = None
    null_by_default: bool = False

    @property
    def optional(self) -> bool:
        """True if policy may find it absent."""
        return self.shape.nullable or (not self.required and self.default is None)


def kind_only(shape: Shape) -> Shape:
    """The same kinds at every depth, with no bound on the values: what Cedar's own types say of them."""
    return replace(
        shape,
        choices=None,
        least=0,
        most=None,
        pattern=None,
        format=None,
        range=None,
        unique=False,
        items=None if shape.items is None else kind_only(shape.items),
        fields={name: replace(inner, shape=kind_only(inner.shape)) for name, inner in shape.fields.items()},
    )


def opened(shape: Shape) -> Shape:
    """The same shape, admitting properties that nothing names, at every depth."""
    return replace(
        shape,
        free_form=True,
        items=None if shape.items is None else opened(shape.items),
        fields={name: replace(item, shape=opened(item.shape)) for name, item in shape.fields.items()},
        alternatives=tuple(opened(item) for item in shape.alternatives),
    )
