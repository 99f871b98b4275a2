"""What `stepgrant doctor --config` looks at of each federated trust domain: its bundle endpoint, asked once from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from stepgrant.errors import StepgrantError
from stepgrant_gateway.cli.checks import Check, bundle_life, doubtful, failed, good
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.core.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from stepgrant.spiffe.bundles import BundleSet, X509Bundle
    from stepgrant_gateway.config import Config
    from stepgrant_gateway.identity.relations import Relation

NAME = "bundle endpoint"


def examine_endpoints(config: Config, environment: Mapping[str, str], now: Callable[[], datetime]) -> Iterator[Check]:
    """A check for each endpoint of gateway.toml, and of what it served. Nothing is kept of it."""
    from stepgrant.spiffe.bundles import BundleSet
    from stepgrant_gateway.identity.relations import begin_relations
    from stepgrant_gateway.storage.opening import bundle_store

    if not config.federation:
        return
    try:
        relations = begin_relations(config.federation, bundle_store(config.ledger))
    except ConfigError as error:
        todo = (
            f"correct bootstrap in {config.file}; the partner hands its bundle out (SPIRE: bundle show -format spiffe)"
        )
        yield failed(NAME, str(error), todo, Exit.REFUSED)
        return
    named = {relation.endpoint.trust_domain for relation in relations}
    held = (relation.held.bundle for relation in relations if relation.held is not None)
    own = (bundle for bundle in _own_bundles(config, environment) if bundle.trust_domain not in named)
    bundles = BundleSet((*own, *held))
    for relation in relations:
        yield from _asked(relation, bundles, now)


def _asked(relation: Relation, bundles: BundleSet, now: Callable[[], datetime]) -> Iterator[Check]:
    from stepgrant.spiffe.bundles import BundleSet, bundle_from_jwks
    from stepgrant_gateway.identity.endpoints import fetch_bundle
    from stepgrant_gateway.identity.refreshing import accept, interval

    endpoint = relation.endpoint
    try:
        document = bundle_from_jwks(endpoint.trust_domain, fetch_bundle(endpoint, bundles, now()))
        accept(relation.held, document)
    except (GatewayError, StepgrantError) as error:
        todo = "ask the partner; until it is good again, the last good bundle counts. docs/operations.md#federation"
        yield doubtful(NAME, str(error), todo)
        return
    sequence = "no sequence" if document.sequence is None else f"sequence {document.sequence}"
    says = f"{endpoint.url} gives the bundle of {endpoint.trust_domain}, {sequence}"
    yield good(NAME, f"{says}; asked again each {interval(document).total_seconds():.0f} s")
    yield from bundle_life(BundleSet((document.bundle,)), now())


def _own_bundles(config: Config, environment: Mapping[str, str]) -> tuple[X509Bundle, ...]:
    """The bundles that come with the gateway's own identity; none where it cannot be had, which is another check's matter."""
    from stepgrant_gateway.system import identity_source

    try:
        with closing(identity_source(config.identity, environment)) as source:
            return tuple(source.current().bundles)
    except (StepgrantError, ConfigError):
        return ()
