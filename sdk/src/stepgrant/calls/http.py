"""HTTP requests as calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from stepgrant.calls.call import Call, malformed, registered_tool, unregistered
from stepgrant.errors import ArgumentsInvalidError, MisuseError
from stepgrant.ids import parse_name
from stepgrant.intent import MAX_ARGUMENTS_BYTES, Json, parse_object, parse_value

MAX_PATH_CHARACTERS: Final = 4096
MAX_QUERY_CHARACTERS: Final = 4096
MAX_QUERY_PARAMETERS: Final = 64

_VERB: Final = re.compile(r"[A-Z]{1,16}")
_LITERAL: Final = re.compile(r"[A-Za-z0-9._~-]+")
_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")
_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$'()*+,;:@/?-]|%[0-9A-Fa-f]{2})*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,15})")
_JSON_TYPE: Final = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?', re.IGNORECASE)
_BODILESS: Final = frozenset({"GET", "HEAD"})
_TYPES: Final[tuple[type, ...]] = (str, int, float, Decimal, bool)


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One protected route: verb, path template with whole-segment `{parameters}`, and the query parameters it takes.

    `query` and `path_types` give the type of a parameter: str, int, Decimal (or float) or bool. Path parameters are str
    unless `path_types` says otherwise; query parameters may be absent. Arguments are the JSON body's members with path and
    query parameters merged in; a name that comes from two places is refused.
    """

    tool: str
    verb: str
    path: str
    query: Mapping[str, type] = field(default_factory=dict)
    path_types: Mapping[str, type] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be matched in one way only."""
        registered_tool(self.tool, self.path)
        if _VERB.fullmatch(self.verb) is None:
            raise MisuseError(f"the verb of {self.path} must be upper case, such as POST")
        if not self.path.startswith("/"):
            raise MisuseError(f"the path {self.path!r} must begin with /")
        names = [name for name in map(_parameter, self.segments) if name is not None]
        for name in (*names, *self.query):
            parse_name(name, f"a parameter of {self.path}")
        if len({*names, *self.query}) != len(names) + len(self.query):
            raise MisuseError(f"{self.path} names a parameter twice, in path and query together")
        if not set(self.path_types) <= set(names):
            raise MisuseError(f"`path_types` of {self.path} names a parameter that the path does not have")
        if not all(kind in _TYPES for kind in (*self.query.values(), *self.path_types.values())):
            raise MisuseError(f"parameters of {self.path} must be of type str, int, Decimal, float or bool")
        for segment in self.segments:
            if _parameter(segment) is None and segment != "" and _LITERAL.fullmatch(segment) is None:
                raise MisuseError(
                    f"{self.path}: the segment {segment!r} is neither plain letters nor one {{parameter}}"
                )
            if segment in {".", ".."}:
                raise MisuseError(f"{self.path} has a segment . or ..")

    @property
    def segments(self) -> list[str]:
        """The template's segments, from the first slash on."""
        return self.path.split("/")[1:]


class HttpCalls:
    """The mapping of HTTP requests. No two routes may match the same request."""

    def __init__(self, routes: Sequence[HttpRoute]) -> None:
        self._routes = tuple(routes)
        for index, route in enumerate(self._routes):
            for other in self._routes[:index]:
                if route.verb == other.verb and _overlap(route.segments, other.segments):
                    raise MisuseError(f"{route.verb} {route.path} and {other.path} match the same requests; rename one")

    def read(self, verb: str, path: str, query_string: str, body: bytes, content_type: str | None) -> Call:
        """The call that a request is. `path` and `query_string` are as they stand in the request, still encoded.

        Raises:
            GrantRefusedError: `unregistered_call`, or `call_malformed` with what is wrong.
        """
        if len(path) > MAX_PATH_CHARACTERS:
            raise malformed(f"the path takes more than {MAX_PATH_CHARACTERS} characters")
        segments = _segments(path)
        route = self._route(verb, segments)
        if route is None:
            raise unregistered("this method and path")
        try:
            arguments = _body(verb, body, content_type)
            _merge(arguments, _path_arguments(route, segments))
            _merge(arguments, _query_arguments(route, query_string))
        except ArgumentsInvalidError as error:
            raise malformed(error.reason) from error
        return Call(route.tool, arguments)

    def registers(self, verb: str, path: str) -> bool:
        """True if a request with this verb and encoded path is a protected call, readable or not."""
        return self._route(verb, _segments(path)) is not None

    def _route(self, verb: str, segments: Sequence[str]) -> HttpRoute | None:
        matching = (route for route in self._routes if route.verb == verb and _matches(route.segments, segments))
        return next(matching, None)


def _segments(path: str) -> list[str]:
    return path.split("/")[1:] if path.startswith("/") else []


def _body(verb: str, body: bytes, content_type: str | None) -> dict[str, Json]:
    if not body:
        return {}
    if verb in _BODILESS:
        raise malformed(f"a {verb} request carries a body")
    if content_type is None or _JSON_TYPE.fullmatch(content_type.strip()) is None:
        raise malformed("the body is not application/json")
    if len(body) > MAX_ARGUMENTS_BYTES:
        raise malformed(f"the body takes more than {MAX_ARGUMENTS_BYTES} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed("the body is not UTF-8") from error
    return parse_object(text, what="the body's arguments")


def _path_arguments(route: HttpRoute, segments: Sequence[str]) -> dict[str, Json]:
    arguments: dict[str, Json] = {}
    for template, segment in zip(route.segments, segments, strict=True):
        name = _parameter(template)
        if name is not None:
            text = _decoded(segment, f"the path parameter `{name}`", _ENCODED)
            if text in {"", ".", ".."} or "/" in text or "\\" in text or not text.isprintable():
                raise malformed(
                    f"the path parameter `{name}` is empty, a dot segment, or holds a slash or control code"
                )
            arguments[name] = _typed(text, route.path_types.get(name, str), name)
    return arguments


def _query_arguments(route: HttpRoute, query_string: str) -> dict[str, Json]:
    if not query_string:
        return {}
    if len(query_string) > MAX_QUERY_CHARACTERS:
        raise malformed(f"the query takes more than {MAX_QUERY_CHARACTERS} characters")
    parts = query_string.split("&")
    if len(parts) > MAX_QUERY_PARAMETERS:
        raise malformed(f"the query has more than {MAX_QUERY_PARAMETERS} parameters")
    arguments: dict[str, Json] = {}
    for part in parts:
        raw, equals, value = part.partition("=")
        name = _decoded(raw, "a query parameter's name", _QUERY)
        if name not in route.query or not equals:
            raise malformed("the query holds a parameter that is not registered for this route, or one without a value")
        text = _decoded(value.replace("+", "%20"), f"the query parameter `{name}`", _QUERY)
        _merge(arguments, {name: _typed(text, route.query[name], name)})
    return arguments


def _merge(into: dict[str, Json], more: Mapping[str, Json]) -> None:
    for name, value in more.items():
        if name in into:
            raise malformed(f"`{name}` is given twice")
        into[name] = value


def _typed(text: str, kind: type, name: str) -> Json:
    if kind is bool:
        if text not in {"true", "false"}:
            raise malformed(f"`{name}` is neither true nor false")
        return text == "true"
    if kind is int:
        if _INTEGER.fullmatch(text) is None:
            raise malformed(f"`{name}` is not an integer")
        return parse_value(text, what=f"`{name}`")
    if kind is str:
        return text
    number = parse_value(text, what=f"`{name}`")
    if not isinstance(number, Decimal):
        raise malformed(f"`{name}` is not a number")
    return number


def _decoded(text: str, what: str, allowed: re.Pattern[str]) -> str:
    if allowed.fullmatch(text) is None:
        raise malformed(f"{what} is not percent-encoded as it must be (RFC 3986)")
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"{what} is not UTF-8") from error


def _parameter(segment: str) -> str | None:
    match = _PARAMETER.fullmatch(segment)
    return match[1] if match else None


def _matches(template: Sequence[str], segments: Sequence[str]) -> bool:
    return len(template) == len(segments) and all(
        _parameter(wanted) is not None or wanted == found for wanted, found in zip(template, segments, strict=True)
    )


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(one) == len(other) and all(
        left == right or _parameter(left) is not None or _parameter(right) is not None
        for left, right in zip(one, other, strict=True)
    )
