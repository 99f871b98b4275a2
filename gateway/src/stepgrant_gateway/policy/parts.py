"""Formats: addresses, hosts, URIs and paths, read in one strict way and taken apart for policy (design 5.2).

ASCII only. What two readers could take for two different things is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from stepgrant.errors import ArgumentsInvalidError
from stepgrant_gateway.policy.shapes import Format

MAX_EMAIL_CHARACTERS: Final = 254
MAX_LOCAL_CHARACTERS: Final = 64
MAX_HOSTNAME_CHARACTERS: Final = 253
MAX_URI_CHARACTERS: Final = 2048
MAX_PATH_CHARACTERS: Final = 1024
NO_PORT: Final = 0
"""The `port` of a URI that names none, of a scheme without a known default: no set of allowed ports contains it."""

COLUMNS: Final[Mapping[Format, Mapping[str, str]]] = {
    Format.EMAIL: {"address": "String", "local": "String", "domain": "String"},
    Format.HOSTNAME: {"name": "String"},
    Format.PATH: {"path": "String", "parent": "String", "name": "String"},
    Format.URI: {"scheme": "String", "host": "String", "port": "Long", "path": "String"},
}
"""Cedar types of the columns of each format."""

_FIXES: Final = {
    Format.EMAIL: "pass one plain address, such as jo@example.org",
    Format.HOSTNAME: "pass one DNS name, such as www.example.org",
    Format.PATH: "pass one POSIX path without `..`, such as reports/may.txt",
    Format.URI: "pass one URI with scheme and host, without user name, `..` or encoded slashes",
}
_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_HOSTNAME: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URI: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@\\]*)((?:/[^?#\\]*)?)((?:\?[^#\\]*)?)((?:#[^#\\]*)?)", re.ASCII
)
_URI_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PRINTABLE: Final = re.compile(r"[!-\[\]-~ ]+")
"""Printable ASCII without the backslash, which some readers take for a slash."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21, "ssh": 22}


@dataclass(frozen=True, slots=True)
class Part:
    """A parsed value: its one normal form, and its columns for `context.parts`."""

    normal: str
    columns: Mapping[str, str | int]


class _DoesNotParseError(Exception):
    pass


def parse_part(form: Format, text: str, path: str = "") -> Part:
    """The value that `text` is in that format.

    Raises:
        ArgumentsInvalidError: it does not parse; `path` names the argument.
    """
    try:
        match form:
            case Format.EMAIL:
                return _email(text)
            case Format.HOSTNAME:
                name = _hostname(text)
                return Part(name, {"name": name})
            case Format.PATH:
                return _path(text)
            case Format.URI:
                return _uri(text)
    except _DoesNotParseError:
        raise ArgumentsInvalidError(f"`{path}` is not a {form.value}", argument=path, fix=_FIXES[form]) from None


def normalised(form: Format, text: str, path: str = "") -> str:
    """The one normal form of `text`; raises as `parse_part`."""
    return parse_part(form, text, path).normal


def _email(text: str) -> Part:
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL_CHARACTERS or len(local) > MAX_LOCAL_CHARACTERS:
        raise _DoesNotParseError
    if _LOCAL.fullmatch(local) is None:
        raise _DoesNotParseError
    # Only the domain is free of case (RFC 5321, section 2.4).
    domain = _hostname(domain)
    address = f"{local}@{domain}"
    return Part(address, {"address": address, "local": local, "domain": domain})


def _hostname(text: str) -> str:
    if len(text) > MAX_HOSTNAME_CHARACTERS or not text.isascii():
        raise _DoesNotParseError
    name = text.lower()
    # A last label of digits makes some readers take the name for an IPv4 address (WHATWG URL, section 3.5).
    if _HOSTNAME.fullmatch(name) is None or _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
        raise _DoesNotParseError
    return name


def _path(text: str) -> Part:
    if len(text) > MAX_PATH_CHARACTERS or _PRINTABLE.fullmatch(text) is None:
        raise _DoesNotParseError
    segments = [segment for segment in text.split("/") if segment not in {"", "."}]
    if ".." in segments:
        raise _DoesNotParseError
    root = "/" if text.startswith("/") else ""
    normal = root + "/".join(segments) or "."
    parent = root + "/".join(segments[:-1]) or "."
    return Part(normal, {"path": normal, "parent": parent, "name": segments[-1] if segments else ""})


def _uri(text: str) -> Part:
    if len(text) > MAX_URI_CHARACTERS or not text.isascii():
        raise _DoesNotParseError
    match = _URI.fullmatch(text)
    if match is None:
        raise _DoesNotParseError
    scheme, authority, path, query, fragment = match.groups()
    scheme = scheme.lower()
    host, port = _authority(authority, scheme)
    path = _uri_path(path)
    if _URI_CHARACTERS.fullmatch(query) is None or _URI_CHARACTERS.fullmatch(fragment[1:]) is None:
        raise _DoesNotParseError
    shown = "" if port == _DEFAULT_PORTS.get(scheme, NO_PORT) else f":{port}"
    normal = f"{scheme}://{host}{shown}{path}{query}{fragment}"
    return Part(normal, {"scheme": scheme, "host": host, "port": port, "path": path})


def _authority(authority: str, scheme: str) -> tuple[str, int]:
    if authority.startswith("["):
        literal, bracket, rest = authority[1:].partition("]")
        try:
            if not bracket or "%" in literal:
                raise _DoesNotParseError
            host = f"[{IPv6Address(literal).compressed}]"
        except AddressValueError:
            raise _DoesNotParseError from None
        colon, number = rest[:1], rest[1:]
        if colon not in {"", ":"}:
            raise _DoesNotParseError
    else:
        name, colon, number = authority.partition(":")
        host = _host(name)
    if not colon:
        return host, _DEFAULT_PORTS.get(scheme, NO_PORT)
    if _PORT.fullmatch(number) is None or int(number) > 65535:
        raise _DoesNotParseError
    return host, int(number)


def _host(name: str) -> str:
    try:
        return str(IPv4Address(name))
    except AddressValueError:
        return _hostname(name)


def _uri_path(path: str) -> str:
    if _URI_CHARACTERS.fullmatch(path) is None:
        raise _DoesNotParseError
    normal = _ESCAPE.sub(_unescape, path) or "/"
    if not {".", ".."}.isdisjoint(normal.split("/")):
        raise _DoesNotParseError
    return normal


def _unescape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    if character in _UNRESERVED:
        return character
    # A slash, backslash or control character that only some readers see.
    if character in "/\\" or ord(character) < 0x20 or ord(character) == 0x7F:
        raise _DoesNotParseError
    return match[0].upper()
