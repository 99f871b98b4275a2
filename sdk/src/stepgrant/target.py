"""The target of a call: one pure filling of the catalog's template, run by the gateway and by every verifier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import quote

from stepgrant.errors import ArgumentsInvalidError, InvalidInputError
from stepgrant.intent import Json, is_integer

MAX_TEMPLATE_CHARACTERS: Final = 2048
MAX_TARGET_CHARACTERS: Final = 1024
"""Of the filled target: it stands in the grant, which takes 4 KiB at most."""

_TEMPLATE: Final = re.compile(r"(?:[!-)+-z|~]|\{[A-Za-z][A-Za-z0-9_]{0,127}\})+")
"""Printable ASCII without space, `*` and lone braces, and `{argument}` placeholders."""
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]{0,127})\}")
_DOTS: Final = frozenset([".", ".."])


def template_arguments(template: str) -> tuple[str, ...]:
    """Names of the arguments that a target template takes, in order, each once.

    Raises:
        InvalidInputError: not a template, such as `pg://orders/{order_id}`.
    """
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise InvalidInputError(f"a target template takes at most {MAX_TEMPLATE_CHARACTERS} characters")
    if _TEMPLATE.fullmatch(template) is None:
        raise InvalidInputError(
            "a target template is printable ASCII without spaces and `*`, with arguments as {name}: "
            "pg://orders/{order_id}"
        )
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))


def fill_target(template: str, arguments: Mapping[str, Json]) -> str:
    """The target that the call acts on: the template with each `{name}` replaced by that top-level argument.

    Values are strings, integers or booleans; all but unreserved characters (RFC 3986, section 2.3) are percent-encoded,
    so that a value can never add a segment. The template is one that `template_arguments` accepts.

    Raises:
        ArgumentsInvalidError: an argument is absent, of another type, empty, `.` or `..`, or the target gets too long.
    """
    filled = _PLACEHOLDER.sub(lambda match: _encoded(match[1], arguments), template)
    if len(filled) > MAX_TARGET_CHARACTERS:
        raise ArgumentsInvalidError(
            f"the target of the call takes {len(filled)} characters, more than {MAX_TARGET_CHARACTERS}",
            fix="pass shorter values",
        )
    return filled


def _encoded(name: str, arguments: Mapping[str, Json]) -> str:
    value = arguments.get(name)
    if isinstance(value, str):
        # `.` and `..` cannot be percent-encoded away: every URI library removes them again (RFC 3986, section 5.2.4).
        if not value or value in _DOTS:
            raise ArgumentsInvalidError(
                f"`{name}` names the target and is empty, `.` or `..`", argument=name, fix="name one thing"
            )
        return quote(value, safe="", errors="strict")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal) and is_integer(value):
        return str(int(value))
    raise ArgumentsInvalidError(
        f"`{name}` names the target and is absent, or no string, integer or boolean",
        argument=name,
        fix="pass a string, an integer or a boolean",
    )
