"""A dev trust domain whose SVIDs and authority move when the test says so, as in SPIRE: prepared, activated, removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from stepgrant.spiffe.bundles import X509Bundle
from stepgrant_gateway.identity.dev import DEV_TRUST_DOMAIN, JWT_TTL, DevIdentity, DevTrustDomain
from stepgrant_gateway.identity.dev_workload_api import DevWorkloadApi


class RotatingDomain(DevTrustDomain):
    """`prepare` publishes a second authority, `activate` has it issue, `remove` takes the first one out."""

    def __init__(
        self,
        identities: Iterable[DevIdentity],
        now: Callable[[], datetime],
        *,
        svid_ttl: timedelta,
        jwt_ttl: timedelta = JWT_TTL,
    ) -> None:
        super().__init__(identities, now, svid_ttl=svid_ttl, jwt_ttl=jwt_ttl)
        self._next: DevTrustDomain | None = None

    def prepare(self) -> None:
        self._next = DevTrustDomain((), self._now)
        self.bundle = X509Bundle(DEV_TRUST_DOMAIN, (*self.bundle.authorities, *self._next.bundle.authorities))

    def activate(self) -> None:
        assert self._next is not None
        self._key, self._root = self._next._key, self._next._root

    def remove(self) -> None:
        assert self._next is not None
        self.bundle = self._next.bundle

    def replace_jwt_authority(self) -> None:
        other = DevTrustDomain((), self._now)
        self._jwt_key, self._kid = other._jwt_key, other._kid


class RotatingApi(DevWorkloadApi):
    """A Workload API that issues anew for those whom the test names, and tells everybody."""

    def reissue(self, *paths: str) -> None:
        """New SVIDs for these; without any, only the bundle is sent anew."""
        self._current.update({path: self._domain.issue(path) for path in paths})
        self.tell()
