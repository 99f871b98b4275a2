"""Which workload an OIDC token stands for: conditions on its claims, and a template that they fill, one segment at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stepgrant.errors import InvalidIdError, InvalidInputError
from stepgrant.intent import Json
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError

MAX_CONDITIONS: Final = 32
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
"""A segment of a SPIFFE ID's path (SPIFFE-ID, section 2.2); `.` and `..` are none."""
_TEMPLATE: Final = re.compile(r"([A-Za-z0-9._-]*)(?:\{([A-Za-z0-9_.:/~-]+)\}([A-Za-z0-9._-]*))?")
"""A segment of a template: text, and at most one claim in it, so that no two claims can be parted in another way."""
_ANY: Final = "[A-Za-z0-9._-]*"
"""What `*` of a condition stands for. No `/` and no `:`: issuers put several things into one claim with these between them."""

Condition = str | bool


@dataclass(frozen=True, slots=True)
class Mapped:
    """Whom the tokens of one issuer stand for: `where` they say this, the workload that `template` makes of them.

    A claim is named by itself, or, within others, by a JSON Pointer (RFC 6901) such as `/kubernetes.io/namespace`.
    All that it can make lies below `under`. `where` has a condition at least: an issuer for everybody gives tokens to everybody.
    """

    under: SpiffeId
    template: str
    where: Mapping[str, Condition]

    def __post_init__(self) -> None:
        """Refuse a template that could leave `under`, and a mapping that would take every token; raises ConfigError."""
        below = f"{self.under}/"
        if not self.under.path:
            raise ConfigError(f"`under` is {self.under}, a trust domain: give the mapping a path of its own below it")
        if not self.template.startswith(below):
            raise ConfigError(f"`id` does not begin with {below}, the `under` of the mapping")
        if not all(map(_is_template, _segments(self.template.removeprefix(below)))):
            raise ConfigError(
                "`id` has a segment that is empty, `.` or `..`, or holds other than a-z A-Z 0-9 . _ - and one {claim}"
            )
        if "{" not in self.template:
            raise ConfigError("`id` names no {claim}: every token of the issuer would be one and the same workload")
        if not 0 < len(self.where) <= MAX_CONDITIONS:
            raise ConfigError(
                f"`where` has no condition, or more than {MAX_CONDITIONS}: without one, every token would be taken"
            )

    def workload(self, claims: Mapping[str, Json]) -> SpiffeId:
        """The workload that a verified token with these claims stands for.

        Raises:
            InvalidInputError: a condition does not hold, or a claim is not exactly one segment of a path.
        """
        for name, wanted in self.where.items():
            if not _holds(wanted, _claim(claims, name)):
                raise InvalidInputError(f"its claim `{name}` is not what the mapping asks for")
        below = f"{self.under}/"
        made = "/".join(_filled(segment, claims) for segment in _segments(self.template.removeprefix(below)))
        try:
            return parse_spiffe_id(below + made, what="the ID that the mapping makes of it")
        except InvalidIdError as error:
            raise InvalidInputError(str(error)) from error


def overlap(one: SpiffeId, other: SpiffeId) -> bool:
    """True if one lies at or below the other, by whole segments."""
    first, second = f"{one}/", f"{other}/"
    return first.startswith(second) or second.startswith(first)


def _segments(path: str) -> list[str]:
    """The segments of a template. A `/` within braces belongs to the name of a claim."""
    return re.split(r"/(?![^{]*\})", path)


def _is_template(segment: str) -> bool:
    return bool(segment) and segment not in {".", ".."} and _TEMPLATE.fullmatch(segment) is not None


def _filled(segment: str, claims: Mapping[str, Json]) -> str:
    match = _TEMPLATE.fullmatch(segment)
    if match is None or match[2] is None:
        return segment
    value = _claim(claims, match[2])
    if not isinstance(value, str) or _SEGMENT.fullmatch(value) is None or value in {".", ".."}:
        raise InvalidInputError(
            f"its claim `{match[2]}` is not one segment of a SPIFFE ID: letters, digits, `.`, `_` and `-`, not `.` or `..`"
        )
    return f"{match[1]}{value}{match[3]}"


def _claim(claims: Mapping[str, Json], name: str) -> Json:
    """The claim of that name, or that the pointer leads to; None where there is none. Lists are not gone into."""
    if not name.startswith("/"):
        return claims.get(name)
    value: Json = dict(claims)
    for step in name[1:].split("/"):
        if not isinstance(value, dict):
            return None
        value = value.get(step.replace("~1", "/").replace("~0", "~"))
    return value


def _holds(wanted: Condition, value: Json) -> bool:
    if isinstance(wanted, bool):
        return value is wanted
    if not isinstance(value, str):
        return False
    pattern = _ANY.join(re.escape(piece) for piece in wanted.split("*"))
    return re.fullmatch(pattern, value) is not None
