"""`[identity]` of gateway.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepgrant_gateway.core.settings import Place, Section, read_path, read_path_table, read_text, setting


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
    bundle: Path | None = setting("With `files`: PEM of the authorities of the own trust domain.", read_path, None)
    trust_domain: str | None = setting(
        "With `files`: name of the own trust domain, such as `acme.org`.", read_text, None
    )
    federated: Mapping[str, Path] = setting(
        "With `files`: PEM of the authorities of each further trust domain, by its name.", read_path_table, dict
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
        return None
