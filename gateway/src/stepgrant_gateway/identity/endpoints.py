"""Fetches the bundle of a foreign trust domain from its bundle endpoint (SPIFFE Federation, sections 5.1 and 5.2).

The steps of `fetch_bundle` carry their numbers:

1. a TLS connection, version 1.2 or newer, one GET, an answer 200 and a body within bounds of size and time (`https`): a redirect
   is refused, though the specification lets clients follow it
2. `https_web`: the certificate is for the URL's host, by an authority of the system or of the configured file (section 5.2.1.4)
3. `https_spiffe`: it is the X.509-SVID of the configured ID, by the bundle of that ID's own trust domain and nothing of
   the Web PKI (section 5.2.2.4); until then no byte of a request is sent
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from http.client import HTTPException
from pathlib import Path

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.probe import unverified_chain
from stepgrant.spiffe.x509 import verify_x509_svid
from stepgrant_gateway.core.errors import BundleUnavailableError
from stepgrant_gateway.identity.https import ask, blind_context, web_context


class Profile(Enum):
    """How an endpoint proves who it is."""

    WEB = "https_web"
    SPIFFE = "https_spiffe"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the bundle of `trust_domain` is had from. `url` is https, without userinfo and fragment.

    `endpoint_id` is the server's SPIFFE ID, with `https_spiffe` only; `ca` a PEM file in place of the system's authorities,
    with `https_web` only.
    """

    trust_domain: str
    url: str
    profile: Profile
    endpoint_id: SpiffeId | None = None
    ca: Path | None = None


def fetch_bundle(endpoint: Endpoint, bundles: BundleSet, now: datetime) -> bytes:
    """The bundle document that the endpoint serves, as it came. Blocking, within bounds. `bundles` are those held now.

    Raises:
        BundleUnavailableError: there is none to be had, or not from who it must be; the text says why.
    """

    def recognise(tls: ssl.SSLSocket) -> None:
        """Step 3."""
        chain = unverified_chain(tls)
        if not chain:
            raise InvalidSvidError("it shows no certificate")
        svid = verify_x509_svid(chain[0], chain[1:], bundles, now)
        if svid.spiffe_id != endpoint.endpoint_id:
            raise InvalidSvidError(f"it is {svid.spiffe_id}, not {endpoint.endpoint_id}")

    try:
        if endpoint.profile is Profile.WEB:
            return ask(endpoint.url, web_context(endpoint.ca), MAX_BUNDLE_BYTES)
        return ask(endpoint.url, blind_context(), MAX_BUNDLE_BYTES, recognise)
    except (OSError, HTTPException, ValueError, InvalidSvidError) as error:
        raise BundleUnavailableError(
            f"{endpoint.url} gives no bundle of {endpoint.trust_domain}: {str(error) or type(error).__name__}"
        ) from error
