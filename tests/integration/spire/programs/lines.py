"""What a program tells its test: one JSON object a line."""

from __future__ import annotations

import json
import sys

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.source import IdentitySource


def say(**members: object) -> None:
    """One line."""
    # In one piece: an identity's changes come from a thread of its source.
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


def tell_identities(source: IdentitySource) -> None:
    """Says the SVID that there is and each one that comes, with how many authorities each trust domain has."""

    def tell() -> None:
        try:
            now = source.current()
        except IdentityUnavailableError as error:
            say(no_svid=str(error))
            return
        say(
            svid=now.credential_sha256.hex(),
            authorities={one.trust_domain: len(one.authorities) for one in now.bundles},
        )

    source.subscribe(tell)
    tell()
