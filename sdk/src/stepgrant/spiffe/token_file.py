"""An identity for a program without SPIFFE: an OIDC token in a file, and the authorities that the gateway is known by.

A Kubernetes service account token that is projected into the pod, or what a CI runner's step has written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stepgrant.compact import parse_members, split_jws
from stepgrant.errors import IdentityUnavailableError, InvalidInputError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleSet, bundle_from_pem
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.source import IdentitySnapshot, JwtSvid
from stepgrant.spiffe.subscribers import Subscribers

MAX_TOKEN_BYTES: Final = 8192
_LAST_SECOND: Final = 253402300799
"""9999-12-31T23:59:59Z, the last second that a datetime holds."""


class TokenFileSource:
    """An `IdentitySource` whose snapshots bear the token of a file, and no certificate: for the listener for bearer tokens.

    Which workload the token stands for, the gateway says; here it is the trust domain. The files are read at each `current`.
    `bundle` is PEM of the authorities of the gateway's trust domain; `now` the wall clock, aware.
    """

    def __init__(self, token: Path, bundle: Path, *, trust_domain: str, now: Callable[[], datetime]) -> None:
        self._token = token
        self._bundle = bundle
        self._trust_domain = trust_domain
        self._now = now
        self._lock = threading.Lock()
        self._subscribers = Subscribers()
        self._last: IdentitySnapshot | None = None
        self._closed = False

    def current(self) -> IdentitySnapshot:
        """The snapshot with the token that the file holds now.

        Raises:
            IdentityUnavailableError: a file cannot be read or does not hold what it must, or the token has expired.
        """
        if self._closed:
            raise IdentityUnavailableError("the identity source is closed")
        with self._lock:
            try:
                after = self._read()
            except (InvalidInputError, OSError, UnicodeDecodeError) as error:
                raise IdentityUnavailableError(f"no identity from {self._token} and {self._bundle}: {error}") from error
            before, self._last = self._last, after
        if before is not None and after != before:
            self._subscribers.notify()
        return after

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` when a look at the files finds a change, in the thread of that look."""
        return self._subscribers.add(callback)

    def close(self) -> None:
        """Ends it; afterwards `current` raises."""
        self._closed = True

    def _read(self) -> IdentitySnapshot:
        token = _bounded(self._token, MAX_TOKEN_BYTES).decode("ascii").strip()
        not_after, now = _end_of(token), self._now()
        if now >= not_after:
            raise InvalidInputError(f"the token expired at {not_after:%Y-%m-%dT%H:%M:%S}Z: have a new one put there")
        own = SpiffeId(self._trust_domain, "")
        return IdentitySnapshot(
            spiffe_id=own,
            chain_der=(),
            private_key_pem=b"",
            bundles=BundleSet((bundle_from_pem(self._trust_domain, _bounded(self._bundle, MAX_BUNDLE_BYTES)),)),
            not_before=datetime.fromtimestamp(0, UTC),
            not_after=not_after,
            leaf_sha256=b"",
            jwt_svid=JwtSvid(own, not_after, token),
        )


def _end_of(token: str) -> datetime:
    """What the token says of its own end. Whether it is right, the gateway looks at."""
    ends = parse_members(split_jws(token, MAX_TOKEN_BYTES).payload).get("exp")
    if type(ends) is not int or not 0 < ends <= _LAST_SECOND:
        raise InvalidInputError(f"the token has no `exp` in whole seconds, but {json.dumps(ends)[:64]}")
    return datetime.fromtimestamp(ends, UTC)


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidInputError(f"{path} is larger than {limit} bytes")
    return content
