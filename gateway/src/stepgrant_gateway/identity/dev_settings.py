"""dev.toml: what the embedded trust domain is called, who is in it, and which others it federates with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.dev import DEV_TRUST_DOMAIN, DevIdentity

MAX_IDENTITIES: Final = 256
MAX_FEDERATED: Final = 16
RESERVED: Final = ".test"
"""No trust domain of production ends so (RFC 6761, section 6.2), and no other can be called by a throw-away authority."""

_KEYS: Final = ("identities", "trust_domain", "federated")
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class DevSettings:
    """What dev.toml says. `federated` names the file of each other trust domain's bundle, relative paths as they stand."""

    identities: tuple[DevIdentity, ...]
    trust_domain: str = DEV_TRUST_DOMAIN
    federated: Mapping[str, Path] = field(default_factory=dict)


def parse_dev_toml(text: str, *, file: Path = Path("dev.toml")) -> DevSettings:
    """What dev.toml says: tables `[identities."agent/support"]`, each with the optional array `dns`; if wanted
    `trust_domain`, and a table `[federated]` from trust domain to the bundle file that its `stepgrant dev` writes.

    Raises:
        ConfigError: it says anything else; the text names file and line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from error
    unknown = sorted(set(document) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{_place(file, text, unknown[0])}: unknown key `{unknown[0]}`; there are {', '.join(_KEYS)}")
    tables = document.get("identities")
    if not isinstance(tables, dict) or not 1 <= len(tables) <= MAX_IDENTITIES:
        raise ConfigError(
            f'{file}: `identities` has 1 to {MAX_IDENTITIES} tables, such as [identities."agent/support"]'
        )
    trust_domain = _trust_domain(_place(file, text, "trust_domain"), document.get("trust_domain", DEV_TRUST_DOMAIN))
    return DevSettings(
        tuple(_identity(file, text, path, table) for path, table in tables.items()),
        trust_domain,
        _federated(file, text, trust_domain, document.get("federated", {})),
    )


def _federated(file: Path, text: str, own: str, table: object) -> Mapping[str, Path]:
    place = _place(file, text, "federated")
    if not isinstance(table, dict) or len(table) > MAX_FEDERATED:
        raise ConfigError(f"{place}: `federated` is a table of at most {MAX_FEDERATED} bundle files by trust domain")
    for name, path in table.items():
        if _trust_domain(_place(file, text, name), name) == own:
            raise ConfigError(f"{_place(file, text, name)}: {name} is the own trust domain")
        if not isinstance(path, str) or not path:
            raise ConfigError(f"{_place(file, text, name)}: the path of a bundle file is wanted for {name}")
    return {name: file.parent / path for name, path in table.items()}


def _trust_domain(place: str, name: object) -> str:
    try:
        if isinstance(name, str) and name.endswith(RESERVED) and not parse_spiffe_id(f"spiffe://{name}").path:
            return name
    except InvalidIdError as error:
        raise ConfigError(f"{place}: {name}: {error}") from error
    raise ConfigError(
        f"{place}: {name!r} is not the name of a trust domain that ends in {RESERVED}, as all of these do"
    )


def _identity(file: Path, text: str, path: str, table: Any) -> DevIdentity:
    place = _place(file, text, path)
    try:
        parse_spiffe_id(f"spiffe://{DEV_TRUST_DOMAIN}/{path}", what=f"identity {path!r}")
    except InvalidIdError as error:
        raise ConfigError(f"{place}: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f'{place}: identity {path!r} is not a table; write [identities."{path}"]')
    unknown = sorted(set(table) - {"dns"})
    if unknown:
        raise ConfigError(
            f"{_place(file, text, unknown[0])}: unknown key `{unknown[0]}` of {path!r}; the only one is `dns`"
        )
    dns = table.get("dns", [])
    if not isinstance(dns, list) or not all(isinstance(name, str) and _DNS_NAME.fullmatch(name) for name in dns):
        raise ConfigError(f'{place}: `dns` of {path!r} is an array of DNS names in lower case, such as ["stepgrant"]')
    return DevIdentity(path, tuple(dns))


def _place(file: Path, text: str, key: str) -> str:
    """File and line where `key` first stands (tomllib gives no positions)."""
    for number, line in enumerate(text.splitlines(), start=1):
        if key in line.partition("#")[0]:
            return f"{file}:{number}"
    return str(file)
