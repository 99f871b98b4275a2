"""`[metrics]` and `[logout]` of gateway.toml."""

from __future__ import annotations

from dataclasses import dataclass

from stepgrant_gateway.core.settings import Address, Section, read_address, read_flag, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings(Section):
    """Where metrics and health are served by plain HTTP, to whoever can connect."""

    address: Address | None = setting(
        "Address of the HTTP listener for `/metrics`, `/healthz` and `/readyz`, such as `127.0.0.1:9464`; none by default.",
        read_address,
        None,
    )
    insecure_anywhere: bool = setting(
        "True: `metrics.address` may be one that other machines reach, in clear and without asking who they are.",
        read_flag,
        False,
    )

    def contradiction(self) -> tuple[str, str] | None:
        """Plain HTTP leaves this machine only if that is said."""
        if self.address is not None and not self.address.is_loopback and not self.insecure_anywhere:
            how = "let a collector on this machine scrape 127.0.0.1, or say insecure_anywhere = true"
            return "address", f"{self.address} is reached by other machines, in clear: {how}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutSettings(Section):
    """Where the issuers of `[[identity.subjects]]` log users out, by plain HTTP behind a proxy that they reach by HTTPS."""

    address: Address | None = setting(
        "Address of the HTTP listener for `POST /backchannel-logout`, such as `127.0.0.1:9465`; none by default.",
        read_address,
        None,
    )
    insecure_anywhere: bool = setting(
        "True: `logout.address` may be one that other machines reach, in clear.", read_flag, False
    )

    def contradiction(self) -> tuple[str, str] | None:
        """Plain HTTP leaves this machine only if that is said."""
        if self.address is not None and not self.address.is_loopback and not self.insecure_anywhere:
            how = "let a proxy on this machine take HTTPS and pass it on, or say insecure_anywhere = true"
            return "address", f"{self.address} is reached by other machines, in clear: {how}"
        return None
