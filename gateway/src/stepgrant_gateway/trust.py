"""What follows when the own identity, a bundle or the keys of an issuer are others than before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256

from stepgrant.errors import IdentityUnavailableError, StepgrantError
from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant.spiffe.source import IdentitySource
from stepgrant_gateway.app.disowning import Disowning
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.trusted import TrustedKeys
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ports import Clock, Journal
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.jwks import key_sha256
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.tokens.keys import SigningKeys

_log = logging.getLogger(__name__)


@contextmanager
def following(
    identity: IdentitySource, users: Issuers, workloads: Issuers, *, live: LiveCalls, disowning: Disowning,
    keys: SigningKeys, feed: Feed,
) -> Iterator[None]:  # fmt: skip
    """The time in which each such change takes its effect at once. To be entered on the event loop.

    Streams whose caller does not verify any more end, and so do the tasks of users who were proven by a key that has gone.
    """
    loop = asyncio.get_running_loop()

    def changed() -> None:
        """Keys are vouched for by the SVID of now, and who no longer verifies is gone."""
        try:
            for key in keys.announcements():
                feed.publish(key)
        except StepgrantError:
            _log.exception(
                "Signing keys could not be announced under the new SVID.", extra={"event": "keys_not_announced"}
            )
        live.verify_again()

    def hear() -> None:
        loop.call_soon_threadsafe(changed)

    with ExitStack() as stack:
        stack.callback(identity.subscribe(hear))
        stack.callback(workloads.subscribe(live.verify_again))
        stack.callback(users.subscribe(disowning.look))
        yield


@contextmanager
def on_record(
    identity: FederatedIdentity, users: Issuers, workloads: Issuers, clock: Clock, journal: Journal
) -> Iterator[None]:
    """The time in which all keys that vouch for others are on record, as they are and as they change. As `following`."""
    loop = asyncio.get_running_loop()
    trusted = TrustedKeys(clock=clock, journal=journal)
    revisions: dict[str, tuple[str, str]] = {}

    def look() -> None:
        with suppress(IdentityUnavailableError):
            bundles = identity.current().bundles
            named = {one.trust_domain for one in bundles.bundles} | {one.trust_domain for one in bundles.jwt_bundles}
            for name in sorted(named | set(revisions)):
                x509, jwt = bundles.get(name) or X509Bundle(name, ()), bundles.jwt(name) or JwtBundle(name, ())
                # Digests of keys are made only where something is new: a set may have 256 bundles.
                if revisions.get(name) != (x509.revision, jwt.revision):
                    revisions[name] = (x509.revision, jwt.revision)
                    owner = (EventType.BUNDLE_CHANGED, (("trust_domain", name),))
                    trusted.note(owner, _authorities(x509, jwt), {"sequence": identity.sequence(name)})

    def look_at(issuers: Issuers, of: str) -> None:
        for issuer, keys in issuers.held().items():
            owner = (EventType.ISSUER_KEYS_CHANGED, (("issuer", issuer), ("of", of)))
            trusted.note(owner, frozenset(key.hex() for key in keys.sha256.values()))

    def hear() -> None:
        loop.call_soon_threadsafe(look)

    with ExitStack() as stack:
        stack.callback(trusted.close)
        stack.callback(identity.subscribe(hear))
        for issuers, of in ((users, "subjects"), (workloads, "workloads")):
            stack.callback(issuers.subscribe(partial(look_at, issuers, of)))
            look_at(issuers, of)
        look()
        yield


def _authorities(x509: X509Bundle, jwt: JwtBundle) -> frozenset[str]:
    """Each by its `use` in a bundle document and its SHA-256: of the certificate, or of the public key, in DER."""
    certificates = (f"x509-svid:{sha256(der).hexdigest()}" for der in x509.authorities)
    return frozenset([*certificates, *(f"jwt-svid:{key_sha256(key).hex()}" for key in jwt.authorities)])
