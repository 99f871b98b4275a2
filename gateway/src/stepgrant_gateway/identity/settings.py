"""`[identity]` and `[federation."..."]` of gateway.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stepgrant.spiffe.ids import SpiffeId
from stepgrant_gateway.core.settings import (
    Place,
    Section,
    read_path,
    read_path_table,
    read_spiffe_id,
    read_text,
    setting,
)
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.endpoints import Endpoint, Profile
from stepgrant_gateway.identity.oidc_settings import WorkloadIssuer, read_subject_issuers, read_workload_issuers


def read_source(value: object, place: Place) -> str:
    """One of the two kinds of sources."""
    text = read_text(value, place)
    if text not in {"workload_api", "files"}:
        raise place.error('"workload_api" or "files" is wanted')
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings(Section):
    """Where the gateway's own X.509-SVID and the bundles come from."""

    source: str = setting("`workload_api` or `files`.", read_source)
    socket: str | None = setting(
        "Workload API socket, such as `unix:/run/spire/agent.sock`; by default what SPIFFE_ENDPOINT_SOCKET says.",
        read_text,
        None,
    )
    chain: Path | None = setting("With `files`: PEM of the SVID, leaf first.", read_path, None)
    key: Path | None = setting("With `files`: PEM of its private key.", read_path, None)
    bundle: Path | None = setting(
        "With `files`: the authorities of the own trust domain, PEM or a SPIFFE bundle document.", read_path, None
    )
    trust_domain: str | None = setting(
        "With `files`: name of the own trust domain, such as `acme.org`.", read_text, None
    )
    federated: Mapping[str, Path] = setting(
        "With `files`: the same of each further trust domain, by its name.", read_path_table, dict
    )
    subjects: tuple[OidcIssuer, ...] = setting(
        "OIDC issuers whose tokens prove on whose behalf a task runs, a table each. None by default.",
        read_subject_issuers,
        (),
    )
    workloads: tuple[WorkloadIssuer, ...] = setting(
        "OIDC issuers whose tokens stand for workloads at `gateway.listen_bearer`, a table each. None by default.",
        read_workload_issuers,
        (),
    )

    def contradiction(self) -> tuple[str, str] | None:
        """Each source has settings of its own."""
        files = {"chain": self.chain, "key": self.key, "bundle": self.bundle, "trust_domain": self.trust_domain}
        for key, value in files.items():
            if self.source == "files" and value is None:
                return key, 'must be set with source = "files"'
            if self.source != "files" and value is not None:
                return key, 'is for source = "files" only'
        if self.source == "files" and self.socket is not None:
            return "socket", 'is for source = "workload_api" only'
        if self.source != "files" and self.federated:
            return (
                "federated",
                'is for source = "files" only; the Workload API brings its own, and [federation] fetches them',
            )
        if self.trust_domain is not None and self.trust_domain in self.federated:
            return "federated", f"{self.trust_domain} is the own trust domain, whose authorities are in `bundle`"
        return None


def read_profile(value: object, place: Place) -> Profile:
    """One of the two endpoint profiles."""
    text = read_text(value, place)
    if text not in {profile.value for profile in Profile}:
        raise place.error('"https_web" or "https_spiffe" is wanted')
    return Profile(text)


def read_endpoint_url(value: object, place: Place) -> str:
    """The URL of a bundle endpoint (SPIFFE Federation, section 5.2.1.1)."""
    text = read_text(value, place)
    try:
        url = urlsplit(text)
        good = url.scheme == "https" and url.hostname and url.port != 0 and "@" not in url.netloc and not url.fragment
    except ValueError:
        good = False
    if not good or not text.isascii() or not text.isprintable() or " " in text:
        raise place.error("a URL such as https://partner.test/bundle.json is wanted, without user and fragment")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSettings(Section):
    """Where the bundle of one foreign trust domain is fetched from."""

    url: str = setting("URL of its bundle endpoint, `https://...`.", read_endpoint_url)
    profile: Profile = setting("How the endpoint proves who it is: `https_web` or `https_spiffe`.", read_profile)
    endpoint_id: SpiffeId | None = setting(
        "With `https_spiffe`: the SPIFFE ID that the endpoint must show.", read_spiffe_id, None
    )
    bootstrap: Path | None = setting(
        "With `https_spiffe`, where the endpoint is of the very trust domain: its bundle to begin with, as a SPIFFE "
        "bundle document or PEM.",
        read_path,
        None,
    )
    ca: Path | None = setting(
        "With `https_web`: PEM of the authorities for the endpoint's certificate; by default the system's.",
        read_path,
        None,
    )

    def contradiction(self) -> tuple[str, str] | None:
        """Each profile has settings of its own."""
        spiffe = self.profile is Profile.SPIFFE
        if spiffe and self.endpoint_id is None:
            return "endpoint_id", 'must be set with profile = "https_spiffe": it is who the endpoint has to be'
        if spiffe and self.ca is not None:
            return "ca", 'is for profile = "https_web" only: with https_spiffe no authority but the bundle counts'
        for key, value in {"endpoint_id": self.endpoint_id, "bootstrap": self.bootstrap}.items():
            if not spiffe and value is not None:
                return key, 'is for profile = "https_spiffe" only'
        return None

    def endpoint(self, trust_domain: str) -> Endpoint:
        """The endpoint that serves the bundle of that trust domain."""
        return Endpoint(trust_domain, self.url, self.profile, self.endpoint_id, self.ca)
