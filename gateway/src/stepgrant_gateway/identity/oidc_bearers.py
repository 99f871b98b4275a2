"""Workloads without SPIFFE, proven by tokens of the OIDC issuers that are configured for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.core.principal import METHOD_OIDC, Peer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.oidc import UnknownKeyError, VerifiedOidcToken, verify_oidc_token
from stepgrant_gateway.identity.oidc_settings import WorkloadIssuer
from stepgrant_gateway.identity.successes import MAX_CACHED, Successes


class OidcBearers:
    """`BearerKind` of tokens of `settings`' issuers. Successes are remembered by the token, the keys and its times; failures never.

    `issuers` are those very ones. For one event loop.
    """

    def __init__(
        self, settings: Sequence[WorkloadIssuer], issuers: Issuers, clock: Clock, *, max_cached: int = MAX_CACHED
    ) -> None:
        self._mapped = {one.of.issuer: one.mapped for one in settings}
        self._issuers = issuers
        self._now: Callable[[], datetime] = clock.now
        self._successes: Successes[VerifiedOidcToken] = Successes(max_cached)

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """An `iss` that is configured, byte for byte."""
        issuer = claims.get("iss")
        return isinstance(issuer, str) and issuer in self._mapped

    def verify(self, token: str) -> Peer:
        """The workload that the token stands for.

        Raises:
            InvalidInputError: it proves nobody, or the mapping makes nobody of it.
        """
        now = self._now()
        verified = self._successes.get(token.encode("ascii"), lambda known: self._still_good(known, now))
        if verified is None:
            try:
                verified = verify_oidc_token(token, self._issuers.trust_in, now)
            except UnknownKeyError as error:
                # Looked for beside; who comes again finds it. Nobody waits for an issuer here.
                self._issuers.missing_key(error.issuer)
                raise
            self._successes.put(token.encode("ascii"), verified)
        workload = self._mapped[verified.subject.issuer].workload(verified.claims)
        return Peer(workload, METHOD_OIDC, verified.expires_at, hashlib.sha256(token.encode("ascii")).digest())

    def _still_good(self, known: VerifiedOidcToken, now: datetime) -> bool:
        try:
            unchanged = self._issuers.trust_in(known.subject.issuer).keys is known.keys
        except InvalidInputError:
            return False
        begun = known.not_before is None or known.not_before <= now
        return unchanged and begun and now < known.expires_at
