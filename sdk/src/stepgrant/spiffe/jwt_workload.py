"""JWT-SVIDs and JWT authorities from the Workload API, as bytes: what they are worth is verified elsewhere.

The stub is that of py-spiffe; its parsers are not used, since they leave out what a key is for and let the last of two keys
with one id win.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from stepgrant.errors import IdentityUnavailableError, InvalidBundleError, InvalidIdError
from stepgrant.spiffe.bundles import MAX_TRUST_DOMAINS, jwt_bundle_from_jwks
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant.spiffe.workload_call import HEADER, said, workload_stub

FIRST_BACKOFF: Final = timedelta(milliseconds=100)
MAX_BACKOFF: Final = timedelta(seconds=5)
FETCH_WITHIN: Final = timedelta(seconds=5)

_log = logging.getLogger(__name__)


def fetch_jwt_svid(socket: str, spiffe_id: SpiffeId, audience: str) -> str:
    """A JWT-SVID of this workload for one audience, unverified, from the Workload API at `socket`. Blocking.

    Raises:
        IdentityUnavailableError: there is none; the text says what the Workload API said.
    """
    import grpc
    from spiffe._proto import workload_pb2

    request = workload_pb2.JWTSVIDRequest(audience=[audience], spiffe_id=str(spiffe_id))
    try:
        with workload_stub(socket) as stub:
            answer = stub.FetchJWTSVID(request, metadata=HEADER, timeout=FETCH_WITHIN.total_seconds())
    except grpc.RpcError as error:
        raise IdentityUnavailableError(f"no JWT-SVID of {spiffe_id} from {socket}: {said(error)}") from error
    if not answer.svids:
        raise IdentityUnavailableError(f"no JWT-SVID of {spiffe_id} from {socket}: it sent none")
    return str(answer.svids[0].svid)


class JwtAuthorities:
    """The JWT authorities of all trust domains that the Workload API at `socket` knows of, kept fresh.

    One thread of its own keeps one stream open and opens it again whenever it ends. Each message is the whole state
    (Workload API, section 6.2.2). A lost connection changes nothing, nor does `PermissionDenied`: when the identity goes, all
    bundles go with it. One that cannot be used is left out, so that its trust domain is not trusted and no other suffers for
    it. `changed` is called in that thread after each change.
    """

    def __init__(self, socket: str, changed: Callable[[], None], *, first_backoff: timedelta = FIRST_BACKOFF) -> None:
        self._socket = socket
        self._changed = changed
        self._first_backoff = first_backoff
        self._bundles: tuple[JwtBundle, ...] = ()
        self._answered = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._call: Any = None
        self._thread = threading.Thread(target=self._keep, name="stepgrant-jwt-authorities", daemon=True)

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def current(self) -> tuple[JwtBundle, ...]:
        """The authorities as they were sent last."""
        return self._bundles

    def wait(self, patience: timedelta) -> None:
        """Returns once the Workload API has answered for the first time, in whatever way, at most after `patience`."""
        self._answered.wait(patience.total_seconds())

    def close(self) -> None:
        """Ends the stream and the thread."""
        self._closed.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()
        self._thread.join(timeout=5)
        self._answered.set()

    def _keep(self) -> None:
        backoff = self._first_backoff
        while not self._closed.is_set():
            if self._stream():
                backoff = self._first_backoff
            self._closed.wait(backoff.total_seconds())
            backoff = min(backoff * 2, MAX_BACKOFF)

    def _stream(self) -> bool:
        """One stream, from its opening to its end; whether it brought anything."""
        import grpc
        from spiffe._proto import workload_pb2

        brought = False
        try:
            with workload_stub(self._socket) as stub:
                call = stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=HEADER)
                with self._lock:
                    self._call = call
                    if self._closed.is_set():
                        call.cancel()
                for answer in call:
                    brought = True
                    self._update(read_jwt_bundles(answer.bundles))
        except grpc.RpcError as error:
            if not self._closed.is_set():
                _log.warning("The JWT authorities at %s are not told: %s", self._socket, said(error))
        except Exception:  # noqa: BLE001 - if the thread ended, an authority that leaves would be trusted for ever
            _log.exception("The JWT authorities that %s sent could not be taken.", self._socket)
        finally:
            self._answered.set()
        return brought

    def _update(self, bundles: tuple[JwtBundle, ...]) -> None:
        changed, self._bundles = bundles != self._bundles, bundles
        self._answered.set()
        if changed:
            self._changed()


def read_jwt_bundles(documents: Any) -> tuple[JwtBundle, ...]:
    """The bundles that can be used, of JWKS documents by the SPIFFE ID of their trust domain; the others are logged."""
    bundles: list[JwtBundle] = []
    for name in sorted(documents)[:MAX_TRUST_DOMAINS]:
        try:
            spiffe_id = parse_spiffe_id(name, what="the bundle's ID")
            if spiffe_id.path:
                raise InvalidBundleError(f"a bundle is for a trust domain, not for {spiffe_id}")
            bundles.append(jwt_bundle_from_jwks(spiffe_id.trust_domain, documents[name]))
        except (InvalidIdError, InvalidBundleError) as error:
            _log.warning("JWT authorities that cannot be used, so no JWT-SVID of theirs is trusted: %s", error)
    return tuple(bundles)
