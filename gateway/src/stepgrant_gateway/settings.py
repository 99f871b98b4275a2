"""The sections of gateway.toml: what can be set, how each value is read, and what it is when nobody sets it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.rpc.limits import DECLARE_RATE, MAX_TASKS_PER_IDENTITY, OPEN_RATE

MAX_OPERATORS: Final = 256
MAX_KEPT_DAYS: Final = 3650
MAX_LIMIT: Final = 100_000


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


def _text(value: object, place: Place) -> str:
    if not isinstance(value, str) or not value:
        raise place.error("a non-empty string is wanted")
    return value


def _path(value: object, place: Place) -> Path:
    return place.file.parent / _text(value, place)


def _paths(value: object, place: Place) -> tuple[Path, ...]:
    if not isinstance(value, list) or not value:
        raise place.error("a list of at least one path is wanted")
    return tuple(_path(item, place) for item in value)


def _path_table(value: object, place: Place) -> Mapping[str, Path]:
    if not isinstance(value, dict):
        raise place.error("a table from trust domain to path is wanted")
    return {name: _path(item, place) for name, item in value.items()}


def _flag(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.error("true or false is wanted")
    return value


def _spiffe_id(value: object, place: Place) -> SpiffeId:
    try:
        found = parse_spiffe_id(_text(value, place), what="it")
    except InvalidIdError as error:
        raise place.error(f"{error}; an ID looks like spiffe://acme.org/stepgrant") from error
    if not found.path:
        raise place.error("it names a trust domain; the ID of a workload has a path")
    return found


def _spiffe_ids(value: object, place: Place) -> frozenset[SpiffeId]:
    if not isinstance(value, list) or len(value) > MAX_OPERATORS:
        raise place.error(f"a list of at most {MAX_OPERATORS} SPIFFE IDs is wanted")
    return frozenset(_spiffe_id(item, place) for item in value)


def _address(value: object, place: Place) -> Address:
    text = _text(value, place)
    host, colon, port = text.rpartition(":")
    if not colon or not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:
        raise place.error("an address such as 127.0.0.1:8443 or [::1]:8443 is wanted")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def _identity_source(value: object, place: Place) -> str:
    text = _text(value, place)
    if text not in {"workload_api", "files"}:
        raise place.error('"workload_api" or "files" is wanted')
    return text


def _days(value: object, place: Place) -> timedelta:
    if type(value) is not int or not 1 <= value <= MAX_KEPT_DAYS:
        raise place.error(f"a whole number of days from 1 to {MAX_KEPT_DAYS} is wanted")
    return timedelta(days=value)


def _limit(value: object, place: Place) -> int:
    if type(value) is not int or not 1 <= value <= MAX_LIMIT:
        raise place.error(f"a whole number from 1 to {MAX_LIMIT} is wanted")
    return value


def setting(doc: str, read: Callable[[object, Place], Any], default: Any = MISSING) -> Any:
    """A field of a section: what it is for, how its value is read, and its default; without one it must be set."""
    metadata = {"doc": doc, "read": read}
    return (
        field(default_factory=default, metadata=metadata)
        if default is dict
        else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Who this gateway is, where it listens, and who operates it."""

    issuer: SpiffeId = setting(
        "SPIFFE ID that all gateways of the installation share: `iss` of every grant, and the ID of this gateway's SVID.",
        _spiffe_id,
    )
    listen: Address = setting("Address of the mTLS listener, such as `0.0.0.0:8443`; port 0 = any free one.", _address)
    policy: Path = setting("Policy directory, relative to this file.", _path)
    operators: frozenset[SpiffeId] = setting(
        "SPIFFE IDs that may call the Operator service. None by default.", _spiffe_ids, frozenset()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Where the gateway's own X.509-SVID and the bundles come from."""

    source: str = setting("`workload_api` or `files`.", _identity_source)
    socket: str | None = setting(
        "Workload API socket, such as `unix:/run/spire/agent.sock`; by default what SPIFFE_ENDPOINT_SOCKET says.",
        _text,
        None,
    )
    chain: Path | None = setting("With `files`: PEM of the SVID, leaf first.", _path, None)
    key: Path | None = setting("With `files`: PEM of its private key.", _path, None)
    bundle: Path | None = setting("With `files`: PEM of the authorities of the own trust domain.", _path, None)
    trust_domain: str | None = setting("With `files`: name of the own trust domain, such as `acme.org`.", _text, None)
    federated: Mapping[str, Path] = setting(
        "With `files`: PEM of the authorities of each further trust domain, by its name.", _path_table, dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Where decisions are recorded. Exactly one of the two is set."""

    path: Path | None = setting("SQLite file of the ledger, relative to this file.", _path, None)
    insecure_memory: bool = setting(
        "True: keep the ledger in memory, gone with the process. Loopback only.", _flag, False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSettings:
    """What becomes of the inputs of decisions (arguments, parameters). Exactly one of recipients and discard is set."""

    recipients: tuple[Path, ...] = setting(
        "PEM files of X25519 public keys that inputs are sealed to; only the holders of the private keys read them.",
        _paths,
        (),
    )
    discard: bool = setting("True: keep no inputs; decisions can then not be replayed.", _flag, False)
    keep_days: timedelta = setting(
        "Days until the data key of a day is destroyed, and its inputs with it.", _days, timedelta(days=90)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What one SPIFFE ID may ask of this gateway; a rate is multiplied for what may come at once after a pause."""

    declares_per_second: int = setting(
        "Declares and renewals; five times as many at once.", _limit, DECLARE_RATE.per_second
    )
    opens_per_second: int = setting("Openings of tasks; ten times as many at once.", _limit, OPEN_RATE.per_second)
    open_tasks: int = setting("Task streams open at once.", _limit, MAX_TASKS_PER_IDENTITY)
