"""Compact JWS by keys of others: {RS,ES,PS}{256,384,512}, the algorithm pinned by the key (RFC 7515, 7517, 7518; RFC 8725).

For JWT-SVIDs and for tokens of OIDC issuers; what we sign ourselves is ES256 only (`jws`). Four calls, in this order:
`parse_key` for each JWK of the issuer, `parse_foreign_jws` for the token, the caller's choice of the one key (by the `kid` of
the header and by whose keys they are, never by trying them all), `verify_foreign_jws` for the payload. Claims before that are
nobody's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from stepgrant.compact import JwsHeaderError, JwsSignatureError, UnverifiedJws, from_base64url, split_jws
from stepgrant.errors import InvalidInputError

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_RSA_EXPONENT: Final = 2**32
"""Above it a verification would cost what the issuer's key says; 65537 is what everybody uses."""
MAX_KID_CHARACTERS: Final = 256
MAX_NUMBER_CHARACTERS: Final = 1366
"""Base64url of a modulus of `MAX_RSA_BITS`."""

ForeignKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_RSA_HASHES: Final[Mapping[str, HashAlgorithm]] = {
    f"{family}{bits}": digest
    for family in ("RS", "PS")
    for bits, digest in ((256, SHA256()), (384, SHA384()), (512, SHA512()))
}
_EC_HASHES: Final[Mapping[str, HashAlgorithm]] = {"ES256": SHA256(), "ES384": SHA384(), "ES512": SHA512()}
_CURVES: Final[Mapping[str, tuple[str, ec.EllipticCurve]]] = {
    "P-256": ("ES256", ec.SECP256R1()),
    "P-384": ("ES384", ec.SECP384R1()),
    "P-521": ("ES512", ec.SECP521R1()),
}
"""The one algorithm of each curve (RFC 7518, section 3.4)."""
ALGORITHMS: Final = frozenset(_RSA_HASHES) | frozenset(_EC_HASHES)
"""All that are taken: those of JWT-SVID, section 2.1. No `none`, no HMAC, no EdDSA."""

_SMALL_PRIMES: Final = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
                        107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)  # fmt: skip
_POWERS: Final = tuple(
    (prime, frozenset(pow(65537, power, prime) for power in range(prime))) for prime in _SMALL_PRIMES
)
"""The powers of 65537 modulo small primes, which the moduli of ROCA are (CVE-2017-15361); by chance, one in 2^154."""

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key of somebody else and what it may verify. `algorithms` has one member, but for RSA keys without `alg`."""

    kid: str | None
    use: str | None
    algorithms: frozenset[str]
    key: ForeignKey = field(repr=False, compare=False)


def parse_key(jwk: object, *, uses: frozenset[str | None]) -> VerificationKey:
    """The key that a JWK is: public, RSA of 2048 to 8192 bits or EC of P-256, P-384 or P-521, for verifying signatures.

    `uses` are the values of `use` that the caller takes, None among them if it may be absent. `key_ops`, if there, must be
    `["verify"]`; `alg`, if there, one of `ALGORITHMS` that the key can do, and then the only one. Other members are passed
    over (RFC 7517, section 4), but not those of a private key.

    Raises:
        InvalidInputError: it is not; the text says what is wrong.
    """
    if not isinstance(jwk, dict):
        raise InvalidInputError("a JWK is a JSON object")
    if _PRIVATE & set(jwk):
        raise InvalidInputError("the JWK holds a secret: it is a private or a symmetric key")
    use, kid, algorithm = jwk.get("use"), jwk.get("kid"), jwk.get("alg")
    if not isinstance(use, str | None) or use not in uses:
        raise InvalidInputError("the JWK is for another `use`")
    if "key_ops" in jwk and jwk["key_ops"] != ["verify"]:
        raise InvalidInputError('the JWK has other `key_ops` than ["verify"]')
    if "kid" in jwk and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID_CHARACTERS):
        raise InvalidInputError(f"the `kid` of the JWK is not a string of 1 to {MAX_KID_CHARACTERS} characters")
    key: ForeignKey
    match jwk.get("kty"):
        case "RSA":
            key, algorithms = _rsa(jwk), frozenset(_RSA_HASHES)
        case "EC":
            key, algorithms = _ec(jwk)
        case _:
            raise InvalidInputError("the JWK is neither of kty RSA nor of kty EC")
    if "alg" in jwk:
        if not isinstance(algorithm, str) or algorithm not in algorithms:
            raise InvalidInputError("the `alg` of the JWK is not one that its key is for")
        algorithms = frozenset({algorithm})
    return VerificationKey(kid, use, algorithms, key)


def parse_foreign_jws(
    token: str, *, members: frozenset[str], types: frozenset[str | None], max_bytes: int
) -> UnverifiedJws:
    """The parts of a compact JWS with an `alg` of `ALGORITHMS` and a `typ` of `types` (None: absent), by exact comparison.

    `members` are those that the header may have besides `alg`; it never names `crit` or `b64`, which nobody here
    understands, and `jku`, `jwk`, `x5u` and `x5c` are never where a key comes from (RFC 8725, sections 3.1, 3.9 to 3.11).
    The signature is not checked yet.

    Raises:
        JwsMalformedError: size, segments, base64url or JSON.
        JwsHeaderError: members, algorithm, type or `kid`.
    """
    jws = split_jws(token, max_bytes)
    algorithm, typ, kid = jws.header.get("alg"), jws.header.get("typ"), jws.header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JwsHeaderError(f"its `alg` is not one of {', '.join(sorted(ALGORITHMS))}")
    unknown = sorted(set(jws.header) - members - {"alg"})
    if unknown:
        raise JwsHeaderError(f"its header has the member {unknown[0][:64]!r}, which this kind of token does not have")
    if not isinstance(typ, str | None) or typ not in types or (typ is None and "typ" in jws.header):
        raise JwsHeaderError("its `typ` is that of another kind of token")
    if "kid" in jws.header and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID_CHARACTERS):
        raise JwsHeaderError(f"its `kid` is not a string of 1 to {MAX_KID_CHARACTERS} characters")
    return jws


def verify_foreign_jws(jws: UnverifiedJws, key: VerificationKey) -> bytes:
    """The payload, if the signature is `key`'s, made with an algorithm that the key is for.

    Raises:
        JwsHeaderError: the header names another algorithm.
        JwsSignatureError: the signature is not the key's.
    """
    algorithm = jws.header["alg"]
    if algorithm not in key.algorithms:
        raise JwsHeaderError(f"its `alg` is {algorithm}; its key is for {', '.join(sorted(key.algorithms))}")
    if isinstance(key.key, ec.EllipticCurvePublicKey):
        verify_ecdsa(jws.signature, jws.signing_input, key.key, _EC_HASHES[algorithm])
    else:
        _verify_rsa(jws.signature, jws.signing_input, key.key, algorithm)
    return jws.payload


def verify_ecdsa(signature: bytes, message: bytes, key: ec.EllipticCurvePublicKey, digest: HashAlgorithm) -> None:
    """Returns if `signature`, r and s of the curve's width each, is the key's over `message` (RFC 7518, section 3.4).

    Raises:
        JwsSignatureError: it is not.
    """
    width, order = (key.curve.key_size + 7) // 8, key.curve.group_order
    if len(signature) != 2 * width:
        raise JwsSignatureError(f"the signature is not {2 * width} bytes")
    r, s = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
    if not (0 < r < order and 0 < s < order):
        raise JwsSignatureError("the signature's r or s is out of range")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))
    except InvalidSignature as error:
        raise JwsSignatureError("the signature does not verify") from error


def _verify_rsa(signature: bytes, message: bytes, key: rsa.RSAPublicKey, algorithm: str) -> None:
    digest = _RSA_HASHES[algorithm]
    if len(signature) != (key.key_size + 7) // 8:
        raise JwsSignatureError("the signature is not as long as the modulus of its key")
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm.startswith("PS"):
        # RFC 7518, section 3.5: MGF1 with the same hash, and a salt as long as that.
        scheme = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
    try:
        key.verify(signature, message, scheme, digest)
    except InvalidSignature as error:
        raise JwsSignatureError("the signature does not verify") from error


def _rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = _number(jwk, "n"), _number(jwk, "e")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise InvalidInputError(
            f"the RSA key of the JWK has {modulus.bit_length()} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}"
        )
    if exponent > MAX_RSA_EXPONENT:
        raise InvalidInputError("the RSA key of the JWK has an exponent above 2^32")
    if all(modulus % prime in powers for prime, powers in _POWERS):
        raise InvalidInputError("the RSA key of the JWK is one of CVE-2017-15361 (ROCA), whose primes can be found")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise InvalidInputError("the JWK's n and e are no RSA key") from error


def _ec(jwk: Mapping[str, Any]) -> tuple[ec.EllipticCurvePublicKey, frozenset[str]]:
    name = jwk.get("crv")
    found = _CURVES.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidInputError("the `crv` of the JWK is not P-256, P-384 or P-521")
    algorithm, curve = found
    width = (curve.key_size + 7) // 8
    x, y = _octets(jwk, "x"), _octets(jwk, "y")
    if len(x) != width or len(y) != width:
        raise InvalidInputError(f"the JWK's x and y are not {width} bytes each")
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
    try:
        return numbers.public_key(), frozenset({algorithm})
    except ValueError as error:
        raise InvalidInputError(f"the JWK's x and y are not a point of {name}") from error


def _number(jwk: Mapping[str, Any], name: str) -> int:
    octets = _octets(jwk, name)
    if not octets or octets[0] == 0:
        raise InvalidInputError(f"the JWK's {name} is not a number in as few bytes as can be")
    return int.from_bytes(octets, "big")


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    try:
        return from_base64url(value) if isinstance(value, str) and len(value) <= MAX_NUMBER_CHARACTERS else b""
    except ValueError as error:
        raise InvalidInputError(f"the JWK's {name} is not canonical base64url") from error
