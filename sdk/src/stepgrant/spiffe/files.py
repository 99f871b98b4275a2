"""An identity from files that somebody else keeps fresh, such as spiffe-helper or a secret mount."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from stepgrant.errors import IdentityUnavailableError, MisuseError, StepgrantError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleDocument, BundleSet, parse_bundle
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant.spiffe.subscribers import Subscribers
from stepgrant.spiffe.x509 import MAX_CHAIN_BYTES, chain_from_pem

MAX_KEY_BYTES: Final = 16 * 1024
"""Bytes of a private key in PEM: RSA of 8192 bits takes 7 KiB."""

_Pair = tuple[tuple[bytes, ...], bytes]
_Stamp = tuple[tuple[int, int, int], ...]
_ABSENT: Final = (0, 0, 0)

_log = logging.getLogger(__name__)


class FileSource:
    """An `IdentitySource` over a chain (leaf first) and a key, both PEM, and a bundle: PEM, or a SPIFFE bundle document.

    Only a document brings JWT authorities.

    The files are looked at again at each `current` (by modification time) and at each `reload`. While chain and key do not
    fit together, as in the middle of a rotation, the last pair that did is used, against the bundle as it is now.
    `federated` gives the bundle file of each further trust domain: one that cannot be read any more leaves the last good
    bundle, so that nothing else suffers for it. `now` is the wall clock, aware.

    Raises:
        MisuseError: the own trust domain is among the `federated`.
    """

    def __init__(
        self,
        chain: Path,
        key: Path,
        bundle: Path,
        *,
        trust_domain: str,
        now: Callable[[], datetime],
        federated: Mapping[str, Path] | None = None,
    ) -> None:
        self._chain, self._key = chain, key
        if trust_domain in (federated or {}):
            raise MisuseError(f"{trust_domain} is the own trust domain: its authorities are in one file, not in two")
        self._trust_domain, self._bundle = trust_domain, bundle
        self._federated = dict(federated or {})
        self._foreign: dict[str, BundleDocument] = {}
        self._now = now
        self._lock = threading.Lock()
        self._subscribers = Subscribers()
        self._stamp: _Stamp | None = None
        self._pair: _Pair | None = None
        self._bundle_set = BundleSet()
        self._last: IdentitySnapshot | None = None
        self._closed = False

    def current(self) -> IdentitySnapshot:
        """The newest snapshot whose SVID verifies now.

        Raises:
            IdentityUnavailableError: a file cannot be read or does not hold what it must, or the SVID does not verify.
        """
        return self._look(read=False)

    def reload(self) -> IdentitySnapshot:
        """As `current`, but reads the files whatever their modification times."""
        return self._look(read=True)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` when a look at the files finds a change, in the thread of that look."""
        return self._subscribers.add(callback)

    def close(self) -> None:
        """Ends it; afterwards `current` raises."""
        self._closed = True

    def _look(self, *, read: bool) -> IdentitySnapshot:
        if self._closed:
            raise IdentityUnavailableError("the identity source is closed")
        with self._lock:
            before = self._last
            try:
                after = self._last = self._load(read=read)
            except (StepgrantError, OSError) as error:
                self._last, self._stamp = None, None
                failure = IdentityUnavailableError(f"no identity from {self._chain}: {error}")
                failure.__cause__ = error
                after = None
        if after != before:
            self._subscribers.notify()
        if after is None:
            raise failure
        return after

    def _load(self, *, read: bool) -> IdentitySnapshot:
        now = self._now()
        stamp = self._stamps()
        if read or stamp != self._stamp:
            self._bundle_set = self._read_bundles()
            fresh = (chain_from_pem(_read(self._chain, MAX_CHAIN_BYTES)), _read_key(self._key))
            try:
                snapshot = take_snapshot(*fresh, self._bundle_set, now)
            except StepgrantError:
                if self._pair is None:
                    raise
                # Not remembered as seen: the other half of the rotation may keep its modification time.
                self._stamp = None
                return take_snapshot(*self._pair, self._bundle_set, now)
            self._pair, self._stamp = fresh, stamp
            return snapshot
        if self._pair is None or self._last is None or now > self._last.not_after:
            raise IdentityUnavailableError("the SVID has expired and the files have not changed")
        return self._last

    def _read_bundles(self) -> BundleSet:
        own = parse_bundle(self._trust_domain, _read(self._bundle, MAX_BUNDLE_BYTES))
        for name, path in self._federated.items():
            try:
                self._foreign[name] = parse_bundle(name, _read(path, MAX_BUNDLE_BYTES))
            except (StepgrantError, OSError) as error:
                if name not in self._foreign:
                    raise
                _log.warning(
                    "The bundle of %s cannot be read from %s, so the last good one counts: %s", name, path, error
                )
        documents = (own, *self._foreign.values())
        jwt = (one.jwt_bundle for one in documents)
        return BundleSet(tuple(one.bundle for one in documents), tuple(one for one in jwt if one.authorities))

    def _stamps(self) -> _Stamp:
        own = tuple(_stamped(path) for path in (self._chain, self._key, self._bundle))
        return own + tuple(_stamped_or_absent(path) for path in self._federated.values())


def _stamped(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stamped_or_absent(path: Path) -> tuple[int, int, int]:
    try:
        return _stamped(path)
    except OSError:
        return _ABSENT


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise IdentityUnavailableError(f"{path} is larger than {limit} bytes")
    return content


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        # The open file's own mode: a check of the path could be of another file.
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise IdentityUnavailableError(
                f"the private key {path} is open to others: chmod 600 it, and replace the key"
            )
        content = file.read(MAX_KEY_BYTES + 1)
    if len(content) > MAX_KEY_BYTES:
        raise IdentityUnavailableError(f"{path} is larger than {MAX_KEY_BYTES} bytes, so no private key")
    return content
