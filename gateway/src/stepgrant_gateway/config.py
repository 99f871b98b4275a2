"""gateway.toml: what the operator decides about one gateway. What is not known is an error, what secures is not guessed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
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
from stepgrant_gateway.identity.endpoints import Profile
from stepgrant_gateway.identity.mapping import overlap
from stepgrant_gateway.identity.settings import FederationSettings, IdentitySettings
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.rpc.settings import LimitSettings
from stepgrant_gateway.storage.settings import InputSettings, LedgerSettings
from stepgrant_gateway.tracing import TracingSettings
from stepgrant_gateway.web.settings import LogoutSettings, MetricsSettings

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
    """One gateway.toml. `federation` is by trust domain; `insecure` names the insecure choices, which the ledger records."""

    file: Path
    gateway: GatewaySettings
    identity: IdentitySettings
    ledger: LedgerSettings
    inputs: InputSettings
    limits: LimitSettings
    metrics: MetricsSettings
    tracing: TracingSettings
    logout: LogoutSettings
    federation: Mapping[str, FederationSettings]
    insecure: tuple[str, ...]


SECTIONS: Final[Mapping[str, type[Section]]] = {
    "gateway": GatewaySettings,
    "identity": IdentitySettings,
    "ledger": LedgerSettings,
    "inputs": InputSettings,
    "limits": LimitSettings,
    "metrics": MetricsSettings,
    "tracing": TracingSettings,
    "logout": LogoutSettings,
}
FEDERATION: Final = "federation"
"""The one section of tables, each named by a trust domain: `[federation."partner.test"]`."""
MAX_FEDERATED: Final = 64


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
    _refuse_unknown(document, {**SECTIONS, FEDERATION: None}, "", file, lines)
    sections: dict[str, Any] = {
        name: _section(kind, name, document.get(name, {}), file, lines) for name, kind in SECTIONS.items()
    }
    config = Config(
        file=file,
        **sections,
        federation=_federation(document.get(FEDERATION, {}), file, lines),
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


def _section(kind: type[_Settings], name: str, table: object, file: Path, lines: Mapping[str, int]) -> _Settings:
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


def _federation(tables: object, file: Path, lines: Mapping[str, int]) -> Mapping[str, FederationSettings]:
    if not isinstance(tables, dict) or len(tables) > MAX_FEDERATED:
        wrong = f'tables are wanted, one for each of at most {MAX_FEDERATED} trust domains: [federation."partner.test"]'
        raise Place(file, lines.get(FEDERATION, 0), FEDERATION).error(wrong)
    for name in tables:
        place = Place(file, lines.get(f"{FEDERATION}.{name}", 0), f"{FEDERATION}.{name}")
        try:
            if parse_spiffe_id(f"spiffe://{name}", what="it").path:
                raise place.error("the name of a trust domain is wanted, without a path")
        except InvalidIdError as error:
            raise place.error(f"{error}; a table is named by a trust domain, such as partner.test") from error
    return {
        name: _section(FederationSettings, f"{FEDERATION}.{name}", table, file, lines) for name, table in tables.items()
    }


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

    federated = {f"{FEDERATION}.{name}": settings for name, settings in config.federation.items()}
    for section, settings in ({name: getattr(config, name) for name in SECTIONS} | federated).items():
        found: tuple[str, str] | None = settings.contradiction()
        if found is not None:
            key, wrong = found
            raise place(f"{section}.{key}").error(wrong)
    if config.logout.address is not None and not config.identity.subjects:
        raise place("logout.address").error("is for the issuers of users: set [[identity.subjects]]")
    wrong = _mapping_trouble(config)
    if wrong:
        raise place("identity.workloads").error(wrong)
    for name, settings in config.federation.items():
        wrong = _relation_trouble(name, settings, config)
        if wrong:
            raise place(f"{FEDERATION}.{name}").error(wrong)
    for key in ("listen", "listen_bearer"):
        address: Address | None = getattr(config.gateway, key)
        if config.insecure and address is not None and not address.is_loopback:
            raise place(config.insecure[0]).error(
                f"is insecure, so the gateway listens on loopback only; gateway.{key} is {address}"
            )


def _mapping_trouble(config: Config) -> str:
    """What is wrong with OIDC workloads beside the rest, or nothing: no issuer speaks for who is somebody already."""
    if config.identity.workloads and config.gateway.listen_bearer is None:
        return "is for the listener of bearer tokens: set gateway.listen_bearer"
    for mapped in (one.mapped for one in config.identity.workloads):
        if mapped.under.trust_domain != config.gateway.issuer.trust_domain:
            return f"mints IDs under {mapped.under}: they are of another trust domain than gateway.issuer"
        for taken in (config.gateway.issuer, *sorted(config.gateway.operators, key=str)):
            if overlap(mapped.under, taken):
                return f"mints IDs under {mapped.under}, where {taken} lies: give them a path of their own"
    return ""


def _relation_trouble(name: str, settings: FederationSettings, config: Config) -> str:
    """What is wrong with one federated trust domain beside the others, or nothing."""
    if name == config.gateway.issuer.trust_domain:
        return "is the own trust domain, whose bundle comes with the own SVID"
    if name in config.identity.federated:
        return "is in identity.federated as well; a trust domain has one bundle, from one source"
    if settings.profile is Profile.SPIFFE and settings.endpoint_id is not None:
        self_serving = settings.endpoint_id.trust_domain == name
        if self_serving and settings.bootstrap is None:
            return (
                "its endpoint is of the same trust domain, so bootstrap must be set: the bundle to know it by at first"
            )
        if not self_serving and settings.bootstrap is not None:
            other = settings.endpoint_id.trust_domain
            return f"its endpoint is known by the bundle of {other}, so bootstrap says nothing: take it out"
    return ""
