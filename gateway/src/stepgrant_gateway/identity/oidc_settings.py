"""`[[identity.subjects]]` and `[[identity.workloads]]` of gateway.toml: OIDC issuers, and what their tokens are good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.subject import parse_issuer
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Place, read_path, read_text
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.mapping import Condition, Mapped, overlap

MAX_ISSUERS: Final = 16
MAX_PARTIES: Final = 64
_ISSUER: Final = ("issuer", "audience", "parties", "jwks", "ca", "jwks_host")
_MAPPING: Final = ("under", "id", "where")


@dataclass(frozen=True, slots=True)
class WorkloadIssuer:
    """An issuer whose tokens stand for workloads, and for which."""

    of: OidcIssuer
    mapped: Mapped


def read_subject_issuers(value: object, place: Place) -> tuple[OidcIssuer, ...]:
    """The issuers whose tokens prove on whose behalf a task runs."""
    return tuple(_issuer(table, where) for table, where in _tables(value, place, _ISSUER))


def read_workload_issuers(value: object, place: Place) -> tuple[WorkloadIssuer, ...]:
    """The issuers whose tokens stand for workloads; each has a part of the IDs for itself."""
    found: list[WorkloadIssuer] = []
    for table, where in _tables(value, place, (*_ISSUER, *_MAPPING)):
        mapping = WorkloadIssuer(_issuer(table, where), _mapped(table, where))
        for other in found:
            if overlap(mapping.mapped.under, other.mapped.under):
                raise where.error(
                    f"`under` overlaps with that of {other.of.issuer}: two issuers could then stand for one workload"
                )
        found.append(mapping)
    return tuple(found)


def _tables(value: object, place: Place, known: tuple[str, ...]) -> list[tuple[Mapping[str, Any], Place]]:
    if not isinstance(value, list) or len(value) > MAX_ISSUERS or not all(isinstance(table, dict) for table in value):
        raise place.error(f"at most {MAX_ISSUERS} tables are wanted: [[{place.key}]]")
    tables = [(table, Place(place.file, place.line, f"{place.key}[{number}]")) for number, table in enumerate(value)]
    issuers = set()
    for table, where in tables:
        for key in table:
            if key not in known:
                raise where.error(f"{key} is not a setting; known are {', '.join(known)}")
        if table.get("issuer") in issuers:
            raise where.error(f"{table['issuer']} stands there twice")
        issuers.add(table.get("issuer"))
    return tables


def _issuer(table: Mapping[str, Any], where: Place) -> OidcIssuer:
    def part(key: str) -> Place:
        return Place(where.file, where.line, f"{where.key}.{key}")

    for key in ("issuer", "audience"):
        if key not in table:
            raise part(key).error(
                "is not set, and has no default: without it, tokens that are for others would be taken"
            )
    try:
        issuer = parse_issuer(read_text(table["issuer"], part("issuer")))
    except InvalidIdError as error:
        raise part("issuer").error(f"{error}") from error
    jwks = read_path(table["jwks"], part("jwks")) if "jwks" in table else None
    for key in ("ca", "jwks_host"):
        if jwks is not None and key in table:
            raise part(key).error("is for discovery; with `jwks` nothing is fetched")
    parties = table.get("parties", [])
    if not isinstance(parties, list) or len(parties) > MAX_PARTIES:
        raise part("parties").error(f"a list of at most {MAX_PARTIES} texts is wanted")
    return OidcIssuer(
        issuer,
        read_text(table["audience"], part("audience")),
        frozenset(read_text(party, part("parties")) for party in parties),
        jwks,
        read_path(table["ca"], part("ca")) if "ca" in table else None,
        read_text(table["jwks_host"], part("jwks_host")) if "jwks_host" in table else None,
    )


def _mapped(table: Mapping[str, Any], where: Place) -> Mapped:
    for key in _MAPPING:
        if key not in table:
            raise where.error(f"`{key}` is not set, and has no default")
    conditions = table["where"]
    if not isinstance(conditions, dict):
        raise where.error("`where` is a table from claim to the value that it must have")
    try:
        under = parse_spiffe_id(read_text(table["under"], where), what="`under`")
        return Mapped(
            under, read_text(table["id"], where), {name: _condition(name, it, where) for name, it in conditions.items()}
        )
    except (InvalidIdError, ConfigError) as error:
        raise where.error(str(error).removeprefix(f"{where.file}:{where.line}: {where.key}: ")) from error


def _condition(name: str, value: object, where: Place) -> Condition:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value or set(value) == {"*"}:
        raise where.error(f"`where.{name}` is neither true or false nor a text; a `*` alone would be no condition")
    return value
