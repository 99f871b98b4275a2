"""Why there is no identity: what the source of it said, as what went wrong and what to type."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from stepgrant_gateway.cli.checks import Check, failed, good
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.registration import PARENT, add_dns_name, create_entry

NTP: Final = "chronyc tracking"
"""Says how far the clock is from the servers that it is set by."""

_REASONS: Final = {
    "unregistered": re.compile("PermissionDenied"),
    "too early": re.compile(r"the SVID of \S+ is not valid before \S+Z"),
    "expired": re.compile(r"the SVID of \S+ (?:from \S+ )?expired at \S+Z"),
    "bad bundle": re.compile(r"the bundle of \S+ is not DER certificates"),
    "no bundle": re.compile(r"nothing of trust domain \S+ is trusted here"),
    "other authority": re.compile(r"no path leads from the leaf of \S+ to an authority of [^\s:]+"),
    "open key": re.compile(r"the private key \S+ is open to others"),
    "no file": re.compile(r"(?<=No such file or directory: )'[^']*'"),
}
"""How the SDK's sources say what is the matter."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an identity comes from: a Workload API socket, or files; and the SPIFFE ID that is wanted of it, as far as known.

    `dns`: the name that its SVID should have too, for a server; empty for a client.
    """

    wanted: str
    socket: Path | None = None
    chain: Path | None = None
    key: Path | None = None
    bundle: Path | None = None
    dns: str = ""

    @property
    def look(self) -> str:
        """The command that shows what this source gives now; none of a Workload API that is reached by TCP."""
        if self.socket is not None:
            return f"spire-agent api fetch x509 -socketPath {self.socket}"
        if self.chain is None:
            return ""
        return f"openssl x509 -in {self.chain} -noout -dates -ext subjectAltName"


def without_identity(name: str, error: Exception, source: Source, now: datetime) -> Check:
    """The check that has failed, for the reason that `error` gives; with its own words where it is none of the known ones."""
    text = str(error)
    for reason, pattern in _REASONS.items():
        found = pattern.search(text)
        if found:
            return failed(name, *_advice(reason, found[0], source, now))
    return failed(name, text, "see what the source of the identity has", Exit.UNAVAILABLE, source.look)


def dns_name(name: str, spiffe_id: str, names: tuple[str, ...], dns: str) -> Check:
    """Whether a server's SVID has a DNS name (`names`), without which gRPC does not connect; which one decides nothing."""
    if names:
        return good(name, f"{spiffe_id} has the DNS name {names[0]}, which gRPC asks for")
    says = f"the SVID of {spiffe_id} has no DNS name, and gRPC connects to no server without one"
    todo = f"give its registration entry one, any will do: clients go by the SPIFFE ID. {PARENT}"
    return failed(name, says, todo, Exit.UNAVAILABLE, add_dns_name(spiffe_id, dns))


def _advice(reason: str, said: str, source: Source, now: datetime) -> tuple[str, str, Exit, str]:
    """What is the matter, what to do, and what to type. `said` is the part of the error's text that gives the reason."""
    clock = f"by the clock of this machine it is {now:%FT%TZ}"
    match reason:
        case "unregistered":
            says = f"the SPIFFE agent has no entry for this process (PermissionDenied; it is of user {os.geteuid()})"
            todo = f"register it where the SPIRE server runs; its SVID comes within seconds. {PARENT}"
            command = create_entry(source.wanted, os.geteuid(), dns=source.dns)
        case "too early":
            says, todo, command = f"{said}, and {clock}: that is behind", "set the clock by NTP, and look at it", NTP
        case "expired":
            says = f"{said}, {clock}, and nothing has replaced it"
            todo = "see whether the SPIFFE agent reaches its server, or for files, what replaces them; then the clock"
            command = f"{source.look}\n{NTP}"
        case "bad bundle":
            says = f"{said}, though the SPIFFE agent sent it with the SVID"
            todo = "see what the server has, and what the agent hands out"
            command = f"spire-server bundle show\n{source.look}"
        case "no bundle":
            says = f"{said}, so the own SVID is not either: the bundle is empty, or that of another trust domain"
            todo = "see what the bundle holds"
            command = "spire-server bundle show"
            if source.bundle is not None:
                todo += "; identity.trust_domain says whose it is"
                command = f"openssl x509 -in {source.bundle} -noout -subject -ext subjectAltName"
        case "other authority":
            says = f"{said}: the bundle is older or newer than the SVID, or another authority made that"
            todo = "compare the bundle of the server with what the agent hands out"
            command = f"spire-server bundle show\n{source.look}"
            if source.bundle is not None:
                todo = "replace chain, key and bundle by ones of the same day"
                command = f"openssl verify -CAfile {source.bundle} -untrusted {source.chain} {source.chain}"
        case "open key":
            todo = (
                "whoever has read it can be this workload: have the SVID made anew with another key, and close the file"
            )
            says, command = said, f"chmod 600 {source.key}"
        case _:
            files = [str(path) for path in (source.chain, source.key, source.bundle) if path is not None]
            says, todo = f"a file of [identity] is not there: {said}", "put it there, or correct [identity]"
            command = f"ls -l {' '.join(files)}"
    return says, todo, Exit.UNAVAILABLE, command.strip()
