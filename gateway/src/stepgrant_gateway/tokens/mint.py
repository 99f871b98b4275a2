"""Minting: claims in, the signed compact token out (design 4)."""

from __future__ import annotations

from typing import Final

from stepgrant.grant import MAX_GRANT_BYTES, GrantClaims, to_payload
from stepgrant.json_text import json_writer
from stepgrant.jws import sign_under
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.tokens.keys import NoKeyError, SigningKeys

_written: Final = json_writer(sort_keys=True, ensure_ascii=False)


class GrantTooLargeError(GatewayError):
    """A grant beyond 4 KiB, which no resource would take."""

    code = "grant_too_large"


class GrantMinter:
    """`core.ports.Minter` over the active key."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    def mint(self, claims: GrantClaims) -> str:
        """The compact token, at most MAX_GRANT_BYTES.

        Raises:
            NoKeyError: no key is active that lives until the grant's end.
            GrantTooLargeError: names and target are too long together.
        """
        key = self._keys.active()
        if claims.expires_at > key.not_after:
            raise NoKeyError("the active signing key ends before the grant: rotate the keys before granting")
        token = sign_under(key.header, _written(to_payload(claims)).encode("utf-8"), key.private)
        if len(token) > MAX_GRANT_BYTES:
            raise GrantTooLargeError(
                f"the grant takes {len(token)} bytes, more than {MAX_GRANT_BYTES}: shorten SPIFFE IDs, names or the target"
            )
        return token
