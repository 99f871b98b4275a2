"""The gateway's word, signed with its SVID."""

from __future__ import annotations

import pytest

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.signatures import verify_svid_signature
from stepgrant.spiffe.x509 import verify_x509_svid
from stepgrant_gateway.identity.svid_signer import SourceSvidSigner
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START


def test_the_signature_verifies_with_the_chain_that_comes_with_it() -> None:
    authority = TestAuthority(intermediate=True)
    source = FixedSource(authority.snapshot("gateway"))
    signature, chain = SourceSvidSigner(source).sign(b"message")
    svid = verify_x509_svid(chain[0], chain[1:], BundleSet((authority.bundle(),)), START)
    verify_svid_signature(svid, b"message", signature)


def test_without_an_identity_nothing_is_signed() -> None:
    """INV-11."""
    with pytest.raises(IdentityUnavailableError):
        SourceSvidSigner(FixedSource(None)).sign(b"message")
