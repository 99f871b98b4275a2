"""Looking into tokens, unverified: only for tests that look at what was minted."""

from stepgrant.compact import from_base64url


def payload_of(token: str) -> bytes:
    """The payload of a compact JWT."""
    return from_base64url(token.split(".")[1])
