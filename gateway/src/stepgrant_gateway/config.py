"""gateway.toml: what the operator decides about one gateway. What is not known is an error, what secures is not guessed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from stepgrant.spiffe.ids import SpiffeId
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import (
    Address,
    Place,
    Section,
    read_address,
    read_path,
    read_spiffe_id,
    read_spiffe_ids,
    setting,
)
from stepgrant_gateway.identity.settings import IdentitySettings
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.rpc.settings import LimitSettings
from stepgrant_gateway.storage.settings import InputSettings, LedgerSettings
from stepgrant_gateway.tracing import TracingSettings
from stepgrant_gateway.web.settings import MetricsSettings

MAX_CONFIG_BYTES: Final = 256 * 1024
_PREFIX: Final = "insecure_"
_Settings = TypeVar("_Settings", bound=Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(Section):
    """Who this gateway is, where it listens, and who operates it."""

    issuer: SpiffeId = setting(
        "SPIFFE ID that all gateways of the installation share: `iss` of every grant, and the ID of this gateway's SVID.",
        read_spiffe_id,
    )
    listen: Address = setting(
        "Address of the mTLS listener, such as `0.0.0.0:8443`; port 0 = any free one.", read_address
    )
    listen_bearer: Address | None = setting(
        "Address of a second listener, for agents that show a bearer token (a JWT-SVID) and no client certificate; off by "
        "default.",
        read_address,
        None,
    )
    policy: Path = setting("Policy directory, relative to this file.", read_path)
    operators: frozenset[SpiffeId] = setting(
        "SPIFFE IDs that may call the Operator service. None by default.", read_spiffe_ids, frozenset()
    )


@dataclass(frozen=True, slots=True)
class Config:
    """One gateway.toml. `insecure` names the insecure choices in it, which the ledger records."""

    file: Path
    gateway: GatewaySettings
    identity: IdentitySettings
    ledger: LedgerSettings
    inputs: InputSettings
    limits: LimitSettings
    metrics: MetricsSettings
    tracing: TracingSettings
    insecure: tuple[str, ...]


SECTIONS: Final[Mapping[str, type[Section]]] = {
    "gateway": GatewaySettings,
    "identity": IdentitySettings,
    "ledger": LedgerSettings,
    "inputs": InputSettings,
    "limits": LimitSettings,
    "metrics": MetricsSettings,
    "tracing": TracingSettings,
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
    sections: dict[str, Any] = {name: _section(kind, name, document, file, lines) for name, kind in SECTIONS.items()}
    config = Config(
        file=file,
        **sections,
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

    for section in SECTIONS:
        found: tuple[str, str] | None = getattr(config, section).contradiction()
        if found is not None:
            key, wrong = found
            raise place(f"{section}.{key}").error(wrong)
    for key in ("listen", "listen_bearer"):
        address: Address | None = getattr(config.gateway, key)
        if config.insecure and address is not None and not address.is_loopback:
            raise place(config.insecure[0]).error(
                f"is insecure, so the gateway listens on loopback only; gateway.{key} is {address}"
            )
