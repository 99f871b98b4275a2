"""What to type where a SPIRE server runs, so that a process gets the SVID that it needs (`spire-server entry`)."""

from __future__ import annotations

from typing import Final

PARENT: Final = "`AGENT` is the ID of the SPIFFE agent of this machine, as `spire-server agent list` says it"
"""What goes in for a word that nobody here can know."""


def create_entry(spiffe_id: str, uid: int, *, dns: str = "") -> str:
    """The command that registers the processes of user `uid` as `spiffe_id`; with `dns` their SVID has that name too."""
    named = f" -dns {dns}" if dns else ""
    return f"spire-server entry create -parentID AGENT -spiffeID {spiffe_id} \\\n    -selector unix:uid:{uid}{named}"


def add_dns_name(spiffe_id: str, dns: str) -> str:
    """The commands that give the SVIDs of `spiffe_id` a DNS name: an update says the whole entry, so it is shown first."""
    return (
        f"spire-server entry show -spiffeID {spiffe_id}\n"
        f"spire-server entry update -entryID ENTRY -parentID AGENT -spiffeID {spiffe_id} \\\n"
        f"    -selector SELECTOR -dns {dns}"
    )
