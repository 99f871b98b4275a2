"""Keys of others, their JWKs, and compact JWS by them: right ones, and whatever else a test wants to sign."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from stepgrant.compact import base64url

HASHES = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """One of a few RSA keys: made once a run, since that takes long."""
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class ForeignSigner:
    """Signs with `key` by `algorithm`; `kid` names it. `members` stand in its JWK besides the key itself."""

    algorithm: str
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    kid: str = "one"

    @classmethod
    def of(cls, algorithm: str, kid: str = "one") -> ForeignSigner:
        """A signer with a key for that algorithm."""
        curve = CURVES.get(algorithm)
        return cls(algorithm, rsa_key() if curve is None else ec.generate_private_key(curve), kid)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public JWK with `kid`, and what else is named; a member that is None is left out."""
        public = self.key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            key = {"kty": "RSA", "n": integer(numbers.n), "e": integer(numbers.e)}
        else:
            point, width = public.public_numbers(), (public.curve.key_size + 7) // 8
            name = {256: "P-256", 384: "P-384", 521: "P-521"}[public.curve.key_size]
            key = {"kty": "EC", "crv": name, "x": integer(point.x, width), "y": integer(point.y, width)}
        return {name: value for name, value in {**key, "kid": self.kid, **members}.items() if value is not None}

    def sign(self, claims: Any, /, **header: Any) -> str:
        """The token over `claims` (JSON, or bytes as they are); a member of the header that is None is left out."""
        members = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT", **header}
        members = {name: value for name, value in members.items() if value is not None}
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        signing_input = f"{base64url(json.dumps(members).encode())}.{base64url(payload)}"
        return f"{signing_input}.{base64url(self.signature(signing_input.encode()))}"

    def signature(self, message: bytes) -> bytes:
        """The signature over `message` as JWS writes it."""
        digest = HASHES[self.algorithm[2:]]
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            width = (self.key.curve.key_size + 7) // 8
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(digest)))
            return r.to_bytes(width, "big") + s.to_bytes(width, "big")
        if self.algorithm.startswith("PS"):
            return self.key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return self.key.sign(message, padding.PKCS1v15(), digest)


def integer(value: int, width: int | None = None) -> str:
    """Base64url of an unsigned number, in `width` bytes or as few as can be."""
    return base64url(value.to_bytes(width or (value.bit_length() + 7) // 8, "big"))
