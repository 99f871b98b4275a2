"""The identity of this gateway, and with it the bundles of foreign trust domains as their endpoints serve them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeVar

from stepgrant.errors import IdentityUnavailableError, InvalidBundleError
from stepgrant.spiffe.bundles import BundleDocument, BundleSet, bundle_from_jwks
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource, with_federated
from stepgrant.spiffe.subscribers import Subscribers
from stepgrant_gateway.core.errors import BundleRefusedError, BundleUnavailableError
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Entropy, Observer, SnapshotStore
from stepgrant_gateway.identity.endpoints import Endpoint, fetch_bundle
from stepgrant_gateway.identity.refreshing import STALE_AFTER, accept, interval, pause
from stepgrant_gateway.identity.relations import Relation, encode_relations

_CHANCES: Final = 2**32

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Fetch = Callable[[Endpoint, BundleSet, datetime], bytes]
"""Brings a bundle document from an endpoint; blocking. Raises BundleUnavailableError."""


class FederatedIdentity:
    """An `IdentitySource` with the bundles of `relations` beside those of `own`, fetched anew for as long as it runs.

    A bundle from an endpoint takes the place of one that `own` brings for the same trust domain; the own trust domain's is
    never touched. What an endpoint does not give, or may not give, leaves the last good bundle where it is. For one event
    loop; `current` from any thread. `kept`: where last good bundles outlive the process.
    """

    def __init__(
        self,
        own: IdentitySource,
        relations: Iterable[Relation],
        clock: Clock,
        entropy: Entropy,
        *,
        kept: SnapshotStore | None = None,
        observer: Observer = UNOBSERVED,
        fetch: Fetch = fetch_bundle,
    ) -> None:
        self._own = own
        self._relations = tuple(relations)
        self._clock = clock
        self._entropy = entropy
        self._kept = kept
        self._observer = observer
        self._fetch = fetch
        self._subscribers = Subscribers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe = own.subscribe(self._subscribers.notify)
        self._documents = self._held()
        self._combined: tuple[IdentitySnapshot, tuple[BundleDocument, ...], IdentitySnapshot] | None = None

    def current(self) -> IdentitySnapshot:
        """The own snapshot with all bundles that are held now; see `IdentitySource`.

        Raises:
            IdentityUnavailableError: there is no own identity.
        """
        own, documents, last = self._own.current(), self._documents, self._combined
        if last is not None and last[0] is own and last[1] is documents:
            return last[2]
        try:
            combined = with_federated(own, documents)
        except InvalidBundleError as error:
            raise IdentityUnavailableError(f"the federated bundles cannot be used: {error}") from error
        self._combined = (own, documents, combined)
        return combined

    def sequence(self, trust_domain: str) -> int | None:
        """The `spiffe_sequence` of the bundle that an endpoint gave for it last; None where none did, or it has none."""
        held = (one.held for one in self._relations if one.endpoint.trust_domain == trust_domain)
        return next((document.sequence for document in held if document is not None), None)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each change of the own identity or of a bundle; see `IdentitySource`."""
        return self._subscribers.add(callback)

    def start(self) -> None:
        """Asks every endpoint now, and again when its time has come; needs a running loop."""
        for relation in self._relations:
            relation.good_at = self._clock.monotonic()
            self._begin(relation)

    def close(self) -> None:
        """Asks no more, and ends the own source as well."""
        self._unsubscribe()
        for relation in self._relations:
            if relation.timer is not None:
                relation.timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._own.close()

    def stale(self) -> Mapping[str, str]:
        """By trust domain: why its bundle is not known to be the newest, where that has lasted too long."""
        now = self._clock.monotonic()
        return {
            relation.endpoint.trust_domain: relation.why or "its endpoint has not answered"
            for relation in self._relations
            if now - relation.good_at > STALE_AFTER * interval(relation.held)
        }

    def _begin(self, relation: Relation) -> None:
        task = asyncio.get_running_loop().create_task(self._refresh(relation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, relation: Relation) -> None:
        """Asks one endpoint once, and says when to ask next."""
        try:
            await self._ask(relation)
        except BundleRefusedError as error:
            self._observer.count(Count.BUNDLE_REFUSED)
            _log.error("Refused: %s. The one that is held stays.", error, extra={"event": "bundle_refused"})
            self._failed(relation, str(error))
        except (BundleUnavailableError, InvalidBundleError) as error:
            self._failed(relation, str(error))
        except Exception as error:  # noqa: BLE001 - else nobody would ask this endpoint again
            _log.exception("A bundle could not be fetched.")
            self._failed(relation, f"{relation.endpoint.url} could not be asked: {type(error).__name__}")
        chance = int.from_bytes(self._entropy(4), "big") / _CHANCES
        due = self._clock.monotonic() + pause(relation.held, relation.failures, chance)
        relation.timer = self._clock.call_at(due, lambda: self._begin(relation))

    async def _ask(self, relation: Relation) -> None:
        body, fresh = await _on_thread(lambda: self._asked(relation.endpoint))
        held = accept(relation.held, fresh)
        self._answered(relation)
        if held is not relation.held:
            relation.held, relation.document = held, body
            await self._changed(held)

    def _asked(self, endpoint: Endpoint) -> tuple[bytes, BundleDocument]:
        body = self._fetch(endpoint, self._bundles(), self._clock.now())
        return body, bundle_from_jwks(endpoint.trust_domain, body)

    def _bundles(self) -> BundleSet:
        """All bundles that are held now, also while there is no own identity."""
        try:
            return self.current().bundles
        except IdentityUnavailableError:
            return BundleSet(tuple(document.bundle for document in self._documents))

    def _held(self) -> tuple[BundleDocument, ...]:
        return tuple(relation.held for relation in self._relations if relation.held is not None)

    def _answered(self, relation: Relation) -> None:
        if relation.why:
            _log.warning(
                "%s gives the bundle of %s again.", relation.endpoint.url, relation.endpoint.trust_domain,
                extra={"event": "bundle_endpoint_recovered"},
            )  # fmt: skip
        relation.failures, relation.why, relation.good_at = 0, "", self._clock.monotonic()

    def _failed(self, relation: Relation, why: str) -> None:
        if relation.why != why:
            _log.warning("%s", why, extra={"event": "bundle_endpoint_failing"})
        relation.failures += 1
        relation.why = why

    async def _changed(self, held: BundleDocument) -> None:
        """A bundle is another one: whoever was verified by the old one is judged anew."""
        self._documents = self._held()
        bundle = held.bundle
        _log.info(
            "The bundle of %s has %d authorities now, revision %s.",
            bundle.trust_domain, len(bundle.authorities), bundle.revision, extra={"event": "bundle_updated"},
        )  # fmt: skip
        self._subscribers.notify()
        if self._kept is None:
            return
        try:
            await asyncio.to_thread(self._kept.keep, encode_relations(self._relations))
        except OSError as error:
            _log.warning(
                "Fetched bundles cannot be kept, so a restart begins with the bootstrap files: %s.", error,
                extra={"event": "bundles_not_kept"},
            )  # fmt: skip


async def _on_thread(work: Callable[[], _T]) -> _T:
    """What `work` returns, from a thread that nobody waits for at the end: a name that does not resolve takes its time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where `work` returns it

    def run() -> None:
        try:
            outcome: tuple[_T | None, BaseException | None] = (work(), None)
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop has closed: nobody waits
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="stepgrant-bundle", daemon=True).start()
    return await done
