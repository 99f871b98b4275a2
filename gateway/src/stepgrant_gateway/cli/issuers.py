"""What `stepgrant doctor --config` looks at of each OIDC issuer: its keys, fetched once from here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stepgrant_gateway.cli.checks import Check, doubtful, failed, good
from stepgrant_gateway.cli.exits import Exit

if TYPE_CHECKING:
    from stepgrant_gateway.config import Config
    from stepgrant_gateway.identity.discovery import OidcIssuer

NAME = "OIDC issuer"


def examine_issuers(config: Config) -> Iterator[Check]:
    """A check for each issuer of gateway.toml. Blocking, within bounds. Nothing is kept of it."""
    for of in config.identity.subjects:
        yield _asked(of, "users")
    for one in config.identity.workloads:
        yield _asked(one.of, f"workloads under {one.mapped.under}")


def _asked(of: OidcIssuer, whom: str) -> Check:
    from stepgrant_gateway.core.errors import FetchError
    from stepgrant_gateway.identity.discovery import WELL_KNOWN, fetch_keys

    try:
        keys = fetch_keys(of)
    except FetchError as error:
        if of.jwks is not None:
            return failed(
                NAME, str(error), "put the issuer's JWK Set there: the gateway does not start without", Exit.REFUSED
            )
        todo = "its tokens are refused until its keys are had; see from this machine"
        return doubtful(NAME, str(error), todo, f"curl {of.issuer.rstrip('/')}{WELL_KNOWN}")
    many = "1 key" if len(keys.by_kid) == 1 else f"{len(keys.by_kid)} keys"
    return good(NAME, f"{of.issuer} has {many}; its tokens for {of.audience} stand for {whom}")
