"""What a section of gateway.toml is made of: settings, how each is read, and how what is wrong names its place.

Sections stand beside the code that they configure (`*/settings.py`); `config` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError

MAX_IDS: Final = 256


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway listens. Port 0 = the system's choice."""

    host: str
    port: int

    def __str__(self) -> str:
        """As gRPC wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if nobody on another machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: for messages, and for paths relative to the file."""

    file: Path
    line: int
    key: str

    def error(self, what: str) -> ConfigError:
        """An error that names file, line and key."""
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ConfigError(f"{where}: {self.key}: {what}")


class Section:
    """The settings of one table of gateway.toml: a frozen dataclass, each field made by `setting`."""

    __slots__ = ()

    def contradiction(self) -> tuple[str, str] | None:
        """The key and what is wrong with it, where settings that are good alone cannot stand together."""
        return None


def setting(doc: str, read: Callable[[object, Place], Any], default: Any = MISSING) -> Any:
    """A field with its description, and its reader of what tomllib gave. Without `default` it must be set."""
    metadata = {"doc": doc, "read": read}
    return (
        field(default_factory=default, metadata=metadata)
        if default is dict
        else field(default=default, metadata=metadata)
    )


def read_text(value: object, place: Place) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise place.error("a non-empty string is wanted")
    return value


def read_path(value: object, place: Place) -> Path:
    """A path, relative to the file that names it."""
    return place.file.parent / read_text(value, place)


def read_paths(value: object, place: Place) -> tuple[Path, ...]:
    """One path or more."""
    if not isinstance(value, list) or not value:
        raise place.error("a list of at least one path is wanted")
    return tuple(read_path(item, place) for item in value)


def read_path_table(value: object, place: Place) -> Mapping[str, Path]:
    """Paths by the trust domain that they belong to."""
    if not isinstance(value, dict):
        raise place.error("a table from trust domain to path is wanted")
    return {name: read_path(item, place) for name, item in value.items()}


def read_flag(value: object, place: Place) -> bool:
    """True or false, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise place.error("true or false is wanted")
    return value


def read_spiffe_id(value: object, place: Place) -> SpiffeId:
    """The ID of a workload."""
    try:
        found = parse_spiffe_id(read_text(value, place), what="it")
    except InvalidIdError as error:
        raise place.error(f"{error}; an ID looks like spiffe://acme.org/stepgrant") from error
    if not found.path:
        raise place.error("it names a trust domain; the ID of a workload has a path")
    return found


def read_spiffe_ids(value: object, place: Place) -> frozenset[SpiffeId]:
    """At most MAX_IDS of them, or none."""
    if not isinstance(value, list) or len(value) > MAX_IDS:
        raise place.error(f"a list of at most {MAX_IDS} SPIFFE IDs is wanted")
    return frozenset(read_spiffe_id(item, place) for item in value)


def read_address(value: object, place: Place) -> Address:
    """Host and port to listen at."""
    host, colon, port = read_text(value, place).rpartition(":")
    if not colon or not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:
        raise place.error("an address such as 127.0.0.1:8443 or [::1]:8443 is wanted")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))
