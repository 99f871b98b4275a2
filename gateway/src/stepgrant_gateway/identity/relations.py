"""What a gateway begins with for each foreign trust domain: the bundle that it fetched last, or the operator's bootstrap.

A fetched bundle outlives the process, so that a restart neither trusts again what the partner took out since the
bootstrap, nor accepts a `spiffe_sequence` that went back. It counts only while the settings and the bootstrap file are those
that it began with: a new bootstrap begins anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from stepgrant.errors import InvalidBundleError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleDocument, bundle_from_jwks, parse_bundle
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.ports import SnapshotStore, Timer
from stepgrant_gateway.identity.endpoints import Endpoint
from stepgrant_gateway.identity.settings import FederationSettings

VERSION: Final = 1

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Relation:
    """What this gateway knows of one foreign trust domain. `origin` names what it began with: settings and bootstrap.

    `document` is the bundle as it was fetched, empty while it was not. `good_at` is when its endpoint gave a good answer
    last, or when all this began; `why` what is wrong now, empty if nothing.
    """

    endpoint: Endpoint
    origin: str
    held: BundleDocument | None = None
    document: bytes = b""
    good_at: timedelta = timedelta(0)
    failures: int = 0
    why: str = ""
    timer: Timer | None = None


def begin_relations(settings: Mapping[str, FederationSettings], kept: SnapshotStore) -> tuple[Relation, ...]:
    """A relation for each trust domain, with the bundle that it begins with. Blocking.

    Raises:
        ConfigError: a bootstrap file or one of authorities cannot be read, or holds something else.
    """
    if not settings:
        return ()
    documents = next(filter(None, map(_decode, kept.kept())), {})
    relations: list[Relation] = []
    for name, one in settings.items():
        endpoint = one.endpoint(name)
        data, bootstrap = (b"", None) if one.bootstrap is None else _read_bootstrap(name, one.bootstrap)
        if one.ca is not None:
            _read_bundle(name, one.ca, "the authorities for the endpoint")
        relation = Relation(endpoint, _origin(endpoint, data), bootstrap)
        began, document = documents.get(name, ("", b""))
        if began == relation.origin:
            try:
                relation.held, relation.document = bundle_from_jwks(name, document), document
            except InvalidBundleError as error:
                _log.warning("A kept bundle cannot be used: %s.", error)
        relations.append(relation)
    return tuple(relations)


def encode_relations(relations: Iterable[Relation]) -> bytes:
    """What outlives the process: each bundle that was fetched, and what its relation began with."""
    rows = {one.endpoint.trust_domain: [one.origin, one.document.decode("utf-8")] for one in relations if one.document}
    return json.dumps({"version": VERSION, "bundles": rows}).encode()


def _decode(data: bytes) -> Mapping[str, tuple[str, bytes]]:
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise ValueError(f"it is of version {document['version']!r}")
        return {str(name): (str(began), text.encode()) for name, (began, text) in document["bundles"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("Kept bundles cannot be read: %s.", error)
        return {}


def _origin(endpoint: Endpoint, bootstrap: bytes) -> str:
    begins = [endpoint.trust_domain, endpoint.url, endpoint.profile.value, str(endpoint.endpoint_id)]
    return hashlib.sha256(json.dumps(begins).encode() + bootstrap).hexdigest()


def _read_bootstrap(trust_domain: str, path: Path) -> tuple[bytes, BundleDocument]:
    """The bytes of the file, and the bundle that they are: a SPIFFE bundle document, or PEM."""
    return _read_bundle(trust_domain, path, "the bootstrap bundle")


def _read_bundle(trust_domain: str, path: Path, what: str) -> tuple[bytes, BundleDocument]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
        return data, parse_bundle(trust_domain, data)
    except OSError as error:
        raise ConfigError(f"{what} of {trust_domain}, {path}, cannot be read: {error.strerror}") from error
    except InvalidBundleError as error:
        raise ConfigError(f"{what} of {trust_domain}, {path}: {error}") from error
