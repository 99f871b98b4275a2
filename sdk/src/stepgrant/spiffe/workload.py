"""An identity from the SPIFFE Workload API: its bytes are read and verified here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from stepgrant.errors import IdentityUnavailableError, InvalidBundleError, InvalidIdError, InvalidSvidError
from stepgrant.spiffe.bundles import MAX_TRUST_DOMAINS, BundleSet, X509Bundle, bundle_from_der
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.jwt_workload import JwtAuthorities
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant.spiffe.subscribers import Subscribers
from stepgrant.spiffe.workload_call import HEADER, said, workload_stub
from stepgrant.spiffe.x509 import chain_from_der, claimed_id

FIRST_BACKOFF: Final = timedelta(milliseconds=100)
MAX_BACKOFF: Final = timedelta(seconds=5)
PATIENCE: Final = timedelta(seconds=5)
"""How long the first `current` waits for the first answer."""
DENIED_FOR: Final = timedelta(seconds=5)
"""How long PermissionDenied has to last before it is believed. SPIRE's agent says so for a moment to everybody while it has all
SVIDs signed anew, after an authority was tainted; the SVID at hand is as good meanwhile as in any other hands."""

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class WorkloadApiSource:
    """An `IdentitySource` over the Workload API at `socket` (`unix:/path`, as in `SPIFFE_ENDPOINT_SOCKET`).

    One thread of its own keeps one stream open and opens it again whenever it ends, with a back-off from `FIRST_BACKOFF`
    to `MAX_BACKOFF`. Each update is the whole state (Workload API, section 5.2.1): one that does not verify takes the identity
    away, and so does `PermissionDenied` when it stays so for `DENIED_FOR`; a lost connection does not. The first SVID of an
    update is ours.
    `jwt_authorities` has the bundles hold JWT authorities as well, for whoever verifies JWT-SVIDs.
    """

    def __init__(
        self,
        socket: str,
        *,
        now: Callable[[], datetime] = _utc_now,
        patience: timedelta = PATIENCE,
        first_backoff: timedelta = FIRST_BACKOFF,
        jwt_authorities: bool = False,
    ) -> None:
        self._socket = socket
        self._now = now
        self._patience = patience
        self._first_backoff = first_backoff
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._closed = threading.Event()
        self._subscribers = Subscribers()
        self._snapshot: IdentitySnapshot | None = None
        self._why = "the Workload API has not answered yet"
        self._denied_at: datetime | None = None
        self._call: Any = None
        self._thread = threading.Thread(target=self._supervise, name="stepgrant-workload-api", daemon=True)
        self._jwt = JwtAuthorities(socket, self._rebundled, first_backoff=first_backoff) if jwt_authorities else None
        self._thread.start()
        if self._jwt is not None:
            self._jwt.start()

    def current(self) -> IdentitySnapshot:
        """The newest snapshot whose SVID is valid now. Blocks, at most for `patience`, only before the first answer.

        Raises:
            IdentityUnavailableError: there is none; the text says what the Workload API at which socket said.
        """
        self._answered.wait(self._patience.total_seconds())
        if self._jwt is not None:
            self._jwt.wait(self._patience)
        with self._lock:
            snapshot, why = self._snapshot, self._why
        if snapshot is None:
            raise IdentityUnavailableError(
                f"no identity from {self._socket}: {why}; check that the Workload API serves there "
                "(SPIFFE_ENDPOINT_SOCKET) and has an entry for this workload"
            )
        if self._now() > snapshot.not_after:
            raise IdentityUnavailableError(
                f"the SVID of {snapshot.spiffe_id} from {self._socket} expired at {snapshot.not_after:%FT%TZ}: {why}"
            )
        return snapshot

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each change, in a thread of this source; see `IdentitySource`."""
        return self._subscribers.add(callback)

    def close(self) -> None:
        """Ends the stream and the thread; afterwards `current` raises."""
        self._closed.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()
        if self._jwt is not None:
            self._jwt.close()
        self._thread.join(timeout=5)
        with self._lock:
            self._snapshot, self._why = None, "the identity source is closed"
        self._answered.set()

    def _supervise(self) -> None:
        backoff = self._first_backoff
        while not self._closed.is_set():
            started_with = self._snapshot
            self._stream()
            if self._snapshot is not None and self._snapshot is not started_with:
                backoff = self._first_backoff
            self._closed.wait(backoff.total_seconds())
            backoff = min(backoff * 2, MAX_BACKOFF)

    def _stream(self) -> None:
        """One stream, from its opening to its end, whatever ends it."""
        import grpc
        from spiffe._proto import workload_pb2

        try:
            with workload_stub(self._socket) as stub:
                call = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
                with self._lock:
                    self._call = call
                    if self._closed.is_set():
                        call.cancel()
                for answer in call:
                    self._update(answer)
            self._lost("it ended the stream")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                self._denied()
            else:
                self._lost(said(error))

    def _update(self, answer: Any) -> None:
        if self._closed.is_set():
            return
        try:
            snapshot = take_snapshot(*read_x509_svid(answer), self._now())
        except Exception as error:  # noqa: BLE001 - an update that cannot be used, for whatever reason, is the state now
            self._gone(f"its update cannot be used: {error}")
            return
        with self._lock:
            snapshot = self._with_jwt_bundles(snapshot)
            changed = self._snapshot != snapshot
            self._snapshot, self._why, self._denied_at = snapshot, "connected", None
        self._answered.set()
        if changed:
            _log.info("SVID of %s, valid until %s", snapshot.spiffe_id, snapshot.not_after)
            self._subscribers.notify()

    def _with_jwt_bundles(self, snapshot: IdentitySnapshot) -> IdentitySnapshot:
        if self._jwt is None:
            return snapshot
        return replace(snapshot, bundles=BundleSet(snapshot.bundles.bundles, self._jwt.current()))

    def _rebundled(self) -> None:
        """Other JWT authorities; called in their thread."""
        with self._lock:
            if self._snapshot is None:
                return
            self._snapshot = self._with_jwt_bundles(self._snapshot)
        self._subscribers.notify()

    def _lost(self, why: str) -> None:
        if self._closed.is_set():
            return
        with self._lock:
            self._why = why
        _log.warning("the Workload API at %s is lost: %s", self._socket, why)
        if self._snapshot is not None:
            self._answered.set()

    def _denied(self) -> None:
        if self._closed.is_set():
            return
        now, why = self._now(), "PermissionDenied: no identity is registered for this workload"
        if self._denied_at is None:
            self._denied_at = now
        if self._snapshot is None or now - self._denied_at >= DENIED_FOR:
            self._gone(why)
        else:
            with self._lock:
                self._why = why

    def _gone(self, why: str) -> None:
        with self._lock:
            had = self._snapshot is not None
            self._snapshot, self._why = None, why
        self._answered.set()
        _log.warning("no identity from the Workload API at %s: %s", self._socket, why)
        if had:
            self._subscribers.notify()


def read_x509_svid(answer: Any) -> tuple[tuple[bytes, ...], bytes, BundleSet]:
    """Chain (leaf first, DER), private key (PEM) and bundles of an `X509SVIDResponse`, unverified.

    The own trust domain's bundle comes with the SVID, whatever the federated ones say. A federated one that cannot be used
    is left out, so that its trust domain is not trusted and nothing else suffers for it.

    Raises:
        InvalidSvidError, InvalidBundleError: there is no SVID, or what belongs to it cannot be read.
    """
    if not answer.svids:
        raise InvalidSvidError("it has no SVID")
    entry = answer.svids[0]
    chain = chain_from_der(entry.x509_svid)
    own = claimed_id(chain[0]).trust_domain
    try:
        key = load_der_private_key(entry.x509_svid_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidSvidError(
            "its private key is not PKCS#8 without password, of a kind that is known here"
        ) from error
    bundles = [_in_order(bundle_from_der(own, entry.bundle))]
    for name in sorted(answer.federated_bundles)[:MAX_TRUST_DOMAINS]:
        try:
            spiffe_id = parse_spiffe_id(name, what="its ID")
            if spiffe_id.path:
                raise InvalidBundleError(f"a bundle is for a trust domain, not for {spiffe_id}")
            bundle = bundle_from_der(spiffe_id.trust_domain, answer.federated_bundles[name])
        except (InvalidIdError, InvalidBundleError) as error:
            _log.warning("A federated bundle cannot be used, so nobody of its trust domain is trusted: %s", error)
            continue
        if bundle.trust_domain != own:
            bundles.append(_in_order(bundle))
    return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), BundleSet(tuple(bundles))


def _in_order(bundle: X509Bundle) -> X509Bundle:
    """The same bundle whatever order it was sent in."""
    return X509Bundle(bundle.trust_domain, tuple(sorted(bundle.authorities)))
