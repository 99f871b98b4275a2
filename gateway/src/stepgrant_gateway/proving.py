"""Who a gateway believes: about who calls, and about on whose behalf. Made of its configuration, in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.source import IdentitySource
from stepgrant_gateway.config import Config
from stepgrant_gateway.core.ports import Clock, SubjectProver
from stepgrant_gateway.identity.bearers import BearerKind, Bearers, JwtSvidBearers
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.logout import LogoutTokens
from stepgrant_gateway.identity.oidc_bearers import OidcBearers
from stepgrant_gateway.identity.peers import PeerVerifier
from stepgrant_gateway.identity.subjects import OidcSubjects


@dataclass(frozen=True, slots=True)
class Provers:
    """`peers` judges certificates, `bearers` tokens that workloads show, `subjects` those of users (None: none are taken), `logouts`
    what their issuers say of their sessions.

    `users` and `workloads` are the issuers of the two: with other keys, what was proven may be proven no more.
    """

    peers: PeerVerifier
    bearers: Bearers
    subjects: SubjectProver | None
    logouts: LogoutTokens
    users: Issuers
    workloads: Issuers


@asynccontextmanager
async def proving(config: Config, identity: IdentitySource, clock: Clock) -> AsyncIterator[Provers]:
    """Those of the configuration, the keys of all OIDC issuers fetched, for as long as it is entered.

    Raises:
        ConfigError: a file of keys cannot be used.
    """

    def bundles() -> BundleSet:
        return identity.current().bundles

    users = Issuers(config.identity.subjects, clock)
    workloads = Issuers([one.of for one in config.identity.workloads], clock)
    try:
        await users.begin()
        await workloads.begin()
        kinds: list[BearerKind] = [JwtSvidBearers(str(config.gateway.issuer), bundles, clock.now)]
        if config.identity.workloads:
            kinds.append(OidcBearers(config.identity.workloads, workloads, clock))
        subjects = OidcSubjects(users, clock.now) if config.identity.subjects else None
        logouts = LogoutTokens(users, clock.now)
        yield Provers(PeerVerifier(bundles, clock.now), Bearers(kinds), subjects, logouts, users, workloads)
    finally:
        users.stop()
        workloads.stop()
