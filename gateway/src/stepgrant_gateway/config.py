"""gateway.toml: what the operator decides about one gateway. What is not known is an error, what secures is not guessed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.rpc.limits import DECLARE_RATE, MAX_TASKS_PER_IDENTITY, OPEN_RATE

MAX_CONFIG_BYTES: Final = 256 * 1024
MAX_OPERATORS: Final = 256
MAX_KEPT_DAYS: Final = 3650
MAX_LIMIT: Final = 100_000
_PREFIX: Final = "insecure_"
_Settings = TypeVar("_Settings")


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


def _setting(doc: str, read: Callable[[object, Place], Any], default: Any = MISSING) -> Any:
    metadata = {"doc": doc, "read": read}
    return (
        field(default_factory=default, metadata=metadata)
        if default is dict
        else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Who this gateway is, where it listens, and who operates it."""

    issuer: SpiffeId = _setting(
        "SPIFFE ID that all gateways of the installation share: `iss` of every grant, and the ID of this gateway's SVID.",
        _spiffe_id,
    )
    listen: Address = _setting("Address of the mTLS listener, such as `0.0.0.0:8443`; port 0 = any free one.", _address)
    policy: Path = _setting("Policy directory, relative to this file.", _path)
    operators: frozenset[SpiffeId] = _setting(
        "SPIFFE IDs that may call the Operator service. None by default.", _spiffe_ids, frozenset()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Where the gateway's own X.509-SVID and the bundles come from."""

    source: str = _setting("`workload_api` or `files`.", _identity_source)
    socket: str | None = _setting(
        "Workload API socket, such as `unix:/run/spire/agent.sock`; by default what SPIFFE_ENDPOINT_SOCKET says.",
        _text,
        None,
    )
    chain: Path | None = _setting("With `files`: PEM of the SVID, leaf first.", _path, None)
    key: Path | None = _setting("With `files`: PEM of its private key.", _path, None)
    bundle: Path | None = _setting("With `files`: PEM of the authorities of the own trust domain.", _path, None)
    trust_domain: str | None = _setting("With `files`: name of the own trust domain, such as `acme.org`.", _text, None)
    federated: Mapping[str, Path] = _setting(
        "With `files`: PEM of the authorities of each further trust domain, by its name.", _path_table, dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Where decisions are recorded. Exactly one of the two is set."""

    path: Path | None = _setting("SQLite file of the ledger, relative to this file.", _path, None)
    insecure_memory: bool = _setting(
        "True: keep the ledger in memory, gone with the process. Loopback only.", _flag, False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSettings:
    """What becomes of the inputs of decisions (arguments, parameters). Exactly one of recipients and discard is set."""

    recipients: tuple[Path, ...] = _setting(
        "PEM files of X25519 public keys that inputs are sealed to; only the holders of the private keys read them.",
        _paths,
        (),
    )
    discard: bool = _setting("True: keep no inputs; decisions can then not be replayed.", _flag, False)
    keep_days: timedelta = _setting(
        "Days until the data key of a day is destroyed, and its inputs with it.", _days, timedelta(days=90)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What one SPIFFE ID may ask of this gateway; a rate is multiplied for what may come at once after a pause."""

    declares_per_second: int = _setting(
        "Declares and renewals; five times as many at once.", _limit, DECLARE_RATE.per_second
    )
    opens_per_second: int = _setting("Openings of tasks; ten times as many at once.", _limit, OPEN_RATE.per_second)
    open_tasks: int = _setting("Task streams open at once.", _limit, MAX_TASKS_PER_IDENTITY)


@dataclass(frozen=True, slots=True)
class Config:
    """One gateway.toml. `insecure` names the insecure choices in it, which the ledger records."""

    file: Path
    gateway: GatewaySettings
    identity: IdentitySettings
    ledger: LedgerSettings
    inputs: InputSettings
    limits: LimitSettings
    insecure: tuple[str, ...]


SECTIONS: Final[Mapping[str, type[Any]]] = {
    "gateway": GatewaySettings,
    "identity": IdentitySettings,
    "ledger": LedgerSettings,
    "inputs": InputSettings,
    "limits": LimitSettings,
}


def load_config(file: Path) -> Config:
    """The configuration that a file holds.

    Raises:
        ConfigError: it cannot be read, names something unknown, or leaves out what secures (INV-13); with file and line.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; name the file with --config") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: takes more than {MAX_CONFIG_BYTES} bytes")
    return parse_config(data, file)


def parse_config(data: bytes, file: Path) -> Config:
    """The configuration that bytes hold; `file` is for messages and for relative paths. Raises ConfigError."""
    try:
        text = data.decode("utf-8")
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    lines = key_lines(text)
    _refuse_unknown(document, SECTIONS, "", file, lines)
    config = Config(
        file=file,
        gateway=_section(GatewaySettings, "gateway", document, file, lines),
        identity=_section(IdentitySettings, "identity", document, file, lines),
        ledger=_section(LedgerSettings, "ledger", document, file, lines),
        inputs=_section(InputSettings, "inputs", document, file, lines),
        limits=_section(LimitSettings, "limits", document, file, lines),
        insecure=tuple(
            f"{section}.{key}"
            for section, table in document.items()
            for key, value in table.items()
            if key.startswith(_PREFIX) and value is True
        ),
    )
    _check(config, lines)
    return config


def key_lines(text: str) -> Mapping[str, int]:
    """The line from 1 on which each dotted key of a TOML text is set first; tomllib keeps no positions."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.fullmatch(r"\s*\[\[?\s*([^\[\]]+?)\s*\]?\]\s*(?:#.*)?", line)
        assignment = re.match(r"\s*([A-Za-z0-9_\"'. -]+?)\s*=", line)
        if header is not None:
            table = header[1].replace('"', "") + "."
            lines.setdefault(table[:-1], number)
        elif assignment is not None:
            lines.setdefault(table + assignment[1].replace('"', ""), number)
    return lines


def _section(
    kind: type[_Settings], name: str, document: Mapping[str, Any], file: Path, lines: Mapping[str, int]
) -> _Settings:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise Place(file, lines.get(name, 0), name).error(f"a table is wanted: [{name}]")
    known: Mapping[str, Field[Any]] = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # each is a dataclass
    _refuse_unknown(table, known, f"{name}.", file, lines)
    values: dict[str, Any] = {}
    for key, item in known.items():
        place = Place(file, lines.get(f"{name}.{key}", lines.get(name, 0)), f"{name}.{key}")
        if key in table:
            values[key] = item.metadata["read"](table[key], place)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise place.error(f"is not set, and has no default. {item.metadata['doc']}")
    return kind(**values)


def _refuse_unknown(
    table: Mapping[str, Any], known: Mapping[str, Any], prefix: str, file: Path, lines: Mapping[str, int]
) -> None:
    for key in table:
        if key not in known:
            close = nearest(key, known)
            hint = f"; did you mean {close}?" if close else f"; known are {', '.join(sorted(known))}"
            raise Place(file, lines.get(prefix + key, 0), prefix + key).error(f"is not a setting{hint}")


def _check(config: Config, lines: Mapping[str, int]) -> None:
    """What no single setting can say: nothing that secures is left open, and nothing insecure is reachable (INV-13)."""

    def place(key: str) -> Place:
        return Place(config.file, lines.get(key, lines.get(key.partition(".")[0], 0)), key)

    identity, ledger, inputs = config.identity, config.ledger, config.inputs
    files = {name: getattr(identity, name) for name in ("chain", "key", "bundle", "trust_domain")}
    for key, value in files.items():
        if identity.source == "files" and value is None:
            raise place(f"identity.{key}").error('must be set with source = "files"')
        if identity.source != "files" and value is not None:
            raise place(f"identity.{key}").error('is for source = "files" only')
    if identity.source == "files" and identity.socket is not None:
        raise place("identity.socket").error('is for source = "workload_api" only')
    if (ledger.path is None) != ledger.insecure_memory:
        raise place("ledger.path").error(
            "say where decisions are recorded: set path, or insecure_memory = true to lose the record at each stop; not both"
        )
    if bool(inputs.recipients) == inputs.discard:
        raise place("inputs.recipients").error(
            "say what becomes of decision inputs: set recipients to seal them to, or discard = true to keep none; not both"
        )
    if config.insecure and not config.gateway.listen.is_loopback:
        raise place(config.insecure[0]).error(
            f"is insecure, so the gateway listens on loopback only; gateway.listen is {config.gateway.listen}"
        )
