"""RFC 5280, section 6: the paths that lead nowhere, each minted with one thing wrong in it.

The cases are those of C2SP's x509-limbo as far as they can concern an SVID; the suite itself is not to be had as a package.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.x509 import MAX_CHAIN, verify_x509_svid
from tests.kit.clock import START
from tests.kit.paths import Issued, issue, signed_with_sha1

ID = "spiffe://acme.org/agent/support"
ROOT = issue("root")
INTERMEDIATE = ROOT.issue("intermediate")
LEAF = INTERMEDIATE.issue("leaf", ca=False, uri=ID)
WEAK = rsa.generate_private_key(65537, 1024)
STRONG = rsa.generate_private_key(65537, 2048)
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
PAST, FUTURE = START - timedelta(seconds=1), START + timedelta(seconds=1)
Path = tuple[bytes, list[bytes], bytes]
"""Leaf, intermediates, authority."""


def verify(leaf: bytes, intermediates: list[bytes], *roots: bytes) -> str:
    """The ID that the path proves."""
    bundles = BundleSet((X509Bundle("acme.org", roots),))
    return str(verify_x509_svid(leaf, intermediates, bundles, START).spiffe_id)


def path(root: Issued, **quirks: object) -> Path:
    """A path by way of an intermediate that has these quirks; names of the leaf's begin with `leaf_`."""
    of_leaf = {name.removeprefix("leaf_"): value for name, value in quirks.items() if name.startswith("leaf_")}
    above = root.issue("intermediate", **{name: value for name, value in quirks.items() if name[:5] != "leaf_"})
    return above.issue("leaf", ca=False, uri=ID, **of_leaf).der, [above.der], root.der


def constrained(*, permitted: x509.GeneralName | None = None, excluded: x509.GeneralName | None = None) -> Path:
    """A path by way of an intermediate with name constraints; the leaf has the DNS name of a gateway."""
    constraints = x509.NameConstraints([permitted] if permitted else None, [excluded] if excluded else None)
    return path(ROOT, constraints=constraints, leaf_dns="gateway.acme.org")


def leaf_as_ca() -> Path:
    issuer = INTERMEDIATE.issue("agent", ca=False, uri="spiffe://acme.org/agent/mallory")
    return issuer.issue("leaf", ca=False, uri=ID).der, [issuer.der, INTERMEDIATE.der], ROOT.der


def leaf_as_ca_that_says_so() -> Path:
    """Signed by an SVID whose holder also made itself an intermediate of the same name and key, by its own hand."""
    agent = INTERMEDIATE.issue("agent", ca=False, uri="spiffe://acme.org/agent/mallory")
    upstart = agent.issue("agent", key=agent.key)
    return upstart.issue("leaf", ca=False, uri=ID).der, [upstart.der, agent.der, INTERMEDIATE.der], ROOT.der


def two_below_zero() -> Path:
    first = ROOT.issue("first", path_length=0)
    second = first.issue("second")
    return second.issue("leaf", ca=False, uri=ID).der, [second.der, first.der], ROOT.der


def root_of_length_zero() -> Path:
    root = issue("root", path_length=0)
    return path(root)


def another_key_of_the_same_name() -> Path:
    impostor = issue("intermediate", issuer_name="root")
    return impostor.issue("leaf", ca=False, uri=ID).der, [INTERMEDIATE.der], ROOT.der


def another_name_of_the_same_key() -> Path:
    leaf = issue("leaf", ca=False, uri=ID, issuer_name="somebody else", signer=INTERMEDIATE.key)
    return leaf.der, [INTERMEDIATE.der], ROOT.der


def in_a_circle() -> Path:
    """Two intermediates that vouch for each other, and nobody for them."""
    one, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    first = issue("one", key=one, issuer_name="other", signer=other)
    second = issue("other", key=other, issuer_name="one", signer=one)
    return first.issue("leaf", ca=False, uri=ID).der, [first.der, second.der], ROOT.der


def all_alike() -> Path:
    """As many intermediates as a chain has, each of which could have issued each: the work is bounded all the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    alike = [issue("alike", key=key) for _ in range(MAX_CHAIN - 1)]
    return alike[0].issue("leaf", ca=False, uri=ID).der, [one.der for one in alike], ROOT.der


def sha1(*, of_leaf: bool) -> Path:
    root = issue("root", key=STRONG)
    intermediate = root.issue("intermediate", key=STRONG)
    leaf = intermediate.issue("leaf", ca=False, uri=ID)
    if of_leaf:
        return signed_with_sha1(leaf, STRONG), [intermediate.der], root.der
    return leaf.der, [signed_with_sha1(intermediate, STRONG)], root.der


def weak_root() -> Path:
    root = issue("root", key=WEAK)
    return root.issue("leaf", ca=False, uri=ID).der, [], root.der


EKU = ExtendedKeyUsageOID
NOWHERE: dict[str, tuple[Callable[[], Path], str]] = {
    "an SVID that issues another": (leaf_as_ca, "is no CA certificate"),
    "an SVID whose holder made itself a CA": (leaf_as_ca_that_says_so, "is no CA certificate"),
    "a CA certificate as leaf": (
        lambda: (INTERMEDIATE.issue("ca", uri=ID).der, [INTERMEDIATE.der], ROOT.der),
        "cA is true",
    ),
    "an authority as leaf": (lambda: ((root := issue("root", uri=ID)).der, [], root.der), "cA is true"),
    "a leaf signed by itself": (lambda: (issue("leaf", ca=False, uri=ID).der, [], ROOT.der), "candidates exhausted"),
    "an intermediate below one of path length 0": (two_below_zero, "path length"),
    "an intermediate below a root of path length 0": (root_of_length_zero, "path length"),
    "an intermediate without basic constraints": (
        lambda: path(ROOT, ca=None, key_cert_sign=True),
        "is no CA certificate",
    ),
    "an intermediate that is no CA": (lambda: path(ROOT, ca=False, key_cert_sign=True), "is no CA certificate"),
    "an intermediate without key usage": (lambda: path(ROOT, usage=False), "may not sign certificates"),
    "an intermediate without keyCertSign": (lambda: path(ROOT, key_cert_sign=False), "may not sign certificates"),
    "a root without keyCertSign": (lambda: path(issue("root", key_cert_sign=False)), "keyCertSign"),
    "a root that is no CA": (lambda: path(issue("root", ca=False, key_cert_sign=True)), "basicConstraints"),
    "an intermediate for code only": (lambda: path(ROOT, extended=[EKU.CODE_SIGNING]), "EKU"),
    "an intermediate for servers only": (lambda: path(ROOT, extended=[EKU.SERVER_AUTH]), "EKU"),
    "a root for mail only": (lambda: path(issue("root", extended=[EKU.EMAIL_PROTECTION])), "EKU"),
    "a leaf for code only": (lambda: path(ROOT, leaf_extended=[EKU.CODE_SIGNING]), "extended key usage"),
    "a DNS name that is not permitted": (
        lambda: constrained(permitted=x509.DNSName("evil.org")),
        "no permitted name constraints",
    ),
    "a DNS name that is excluded": (lambda: constrained(excluded=x509.DNSName("acme.org")), "excluded name constraint"),
    "an ID that is not permitted": (
        lambda: constrained(permitted=x509.UniformResourceIdentifier("evil.org")),
        "unsupported name constraint",
    ),
    "an ID that is excluded": (
        lambda: constrained(excluded=x509.UniformResourceIdentifier("acme.org")),
        "unsupported name constraint",
    ),
    "an intermediate that has expired": (lambda: path(ROOT, not_after=PAST), "not valid at"),
    "an intermediate of tomorrow": (lambda: path(ROOT, not_before=FUTURE), "not valid at"),
    "a root that has expired": (lambda: path(issue("root", not_after=PAST)), "not valid at"),
    "an intermediate with a critical extension nobody knows": (
        lambda: path(ROOT, extra=[(UNKNOWN, True)]),
        "critical extension",
    ),
    "an intermediate with RSA-1024": (lambda: path(ROOT, key=WEAK), "RSA key is too weak"),
    "a leaf with RSA-1024": (lambda: path(ROOT, leaf_key=WEAK), "2048 bits"),
    "a root with RSA-1024": (weak_root, "RSA key is too weak"),
    "a leaf signed with SHA-1": (lambda: sha1(of_leaf=True), "signature algorithm"),
    "an intermediate signed with SHA-1": (lambda: sha1(of_leaf=False), "signature algorithm"),
    "the right name and another key": (another_key_of_the_same_name, "signature does not match"),
    "the right key and another name": (another_name_of_the_same_key, "candidates exhausted"),
    "two that vouch for each other": (in_a_circle, "max depth"),
    "many of one name and one key": (all_alike, "signature check limit"),
    "an intermediate in place of the root": (lambda: (LEAF.der, [], ROOT.der), "candidates exhausted"),
}


@pytest.mark.parametrize("what", NOWHERE)
def test_id_10_a_path_with_one_thing_wrong_leads_nowhere_for_that_reason(what: str) -> None:
    """INV-11."""
    mint, reason = NOWHERE[what]
    with pytest.raises(InvalidSvidError, match=reason):
        verify(*mint())


SOMEWHERE: dict[str, Callable[[], Path]] = {
    "by way of an intermediate": lambda: (LEAF.der, [INTERMEDIATE.der], ROOT.der),
    "straight from the root": lambda: (ROOT.issue("leaf", ca=False, uri=ID).der, [], ROOT.der),
    "with an intermediate as authority": lambda: (LEAF.der, [], INTERMEDIATE.der),
    "below an intermediate of path length 0": lambda: path(ROOT, path_length=0),
    "with an intermediate for both sides": lambda: path(ROOT, extended=[EKU.SERVER_AUTH, EKU.CLIENT_AUTH]),
    "with a DNS name that is permitted": lambda: constrained(permitted=x509.DNSName("acme.org")),
    "with an extension nobody need know": lambda: path(ROOT, extra=[(UNKNOWN, False)]),
    "with RSA-2048 all the way": lambda: path(issue("root", key=STRONG), key=STRONG, leaf_key=STRONG),
    "beside an intermediate that it does not need": lambda: (
        LEAF.der,
        [INTERMEDIATE.der, ROOT.issue("other").der],
        ROOT.der,
    ),
}


@pytest.mark.parametrize("what", SOMEWHERE)
def test_a_path_without_anything_wrong_leads_to_the_authority(what: str) -> None:
    assert verify(*SOMEWHERE[what]()) == ID


def test_id_10_the_depth_of_a_chain_is_bounded() -> None:
    """As deep as `MAX_CHAIN`, the leaf included, and no deeper."""
    above, chain = ROOT, []
    for depth in range(MAX_CHAIN - 1):
        above = above.issue(f"intermediate {depth}")
        chain.insert(0, above.der)
    assert verify(above.issue("leaf", ca=False, uri=ID).der, chain, ROOT.der) == ID
    deeper = above.issue("one more")
    with pytest.raises(InvalidSvidError, match="9 certificates, more than 8"):
        verify(deeper.issue("leaf", ca=False, uri=ID).der, [deeper.der, *chain], ROOT.der)
