"""Where the keys of an OIDC issuer come from: its discovery document (OpenID Connect Discovery 1.0, section 4), or a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stepgrant.compact import parse_members
from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.errors import FetchError
from stepgrant_gateway.identity.https import get
from stepgrant_gateway.identity.jwks import MAX_SET_BYTES, KeySet, parse_key_set

WELL_KNOWN: Final = "/.well-known/openid-configuration"
MAX_DOCUMENT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class OidcIssuer:
    """An issuer whose tokens are taken, as it is configured.

    `parties`: values of `azp` besides the audience. `jwks` is a file of its keys, in place of discovery. `ca`: the authorities of
    its HTTPS server, in place of the system's. `jwks_host`: where its keys may be besides its own host, as `host[:port]`.
    """

    issuer: str
    audience: str
    parties: frozenset[str] = field(default=frozenset())
    jwks: Path | None = None
    ca: Path | None = None
    jwks_host: str | None = None


def fetch_keys(of: OidcIssuer) -> KeySet:
    """The keys that the issuer has now. Blocking, within bounds.

    1. The document lies below the issuer (section 4). 2. Its `issuer` is the very issuer (section 4.3). 3. Its `jwks_uri` is
    https, at the issuer's host or at the one that is configured. 4. What lies there is a JWK Set.

    Raises:
        FetchError: there are none to be had; the text says why.
    """
    try:
        if of.jwks is not None:
            with of.jwks.open("rb") as stream:
                return parse_key_set(stream.read(MAX_SET_BYTES + 1))
        # 1.
        document = parse_members(get(of.issuer.rstrip("/") + WELL_KNOWN, ca=of.ca, most=MAX_DOCUMENT_BYTES))
        # 2.
        if document.get("issuer") != of.issuer:
            raise InvalidInputError("its discovery document is of another issuer")
        # 3.
        uri = document.get("jwks_uri")
        if not isinstance(uri, str) or not uri.startswith("https://"):
            raise InvalidInputError("its discovery document has no `jwks_uri` that is https")
        if _place(uri) not in {_place(of.issuer), of.jwks_host}:
            raise InvalidInputError(
                f"its keys lie at another host, {_place(uri)[:256]}: set jwks_host to that, if it is right"
            )
        # 4.
        return parse_key_set(get(uri, ca=of.ca, most=MAX_SET_BYTES))
    except (InvalidInputError, ValueError) as error:
        raise FetchError(f"the keys of {of.issuer} cannot be used: {error}") from error
    except OSError as error:
        raise FetchError(f"the keys of {of.issuer} cannot be read: {error.strerror}: {error.filename}") from error


def _place(url: str) -> str:
    return urlsplit(url).netloc
