"""What names a caller: the certificate on the one listener, one bearer token on the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.rpc.presented import by_bearer, by_certificate

CONNECTION = SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [b"leaf"]})


def test_a_certificate_is_what_tls_knows_and_nothing_may_stand_beside_it() -> None:
    assert by_certificate(CONNECTION, ()) == {"x509_pem_cert": [b"leaf"]}
    for authorization in [("Bearer a.b.c",), ("",), (b"",), ("Basic YTpi",)]:
        with pytest.raises(InvalidInputError, match="not taken here"):
            by_certificate(CONNECTION, authorization)


def test_a_token_is_the_one_value_whatever_certificate_tls_knows() -> None:
    assert by_bearer(CONNECTION, ("Bearer a.b_-1.c",)) == "a.b_-1.c"
    assert by_bearer(CONNECTION, ("bearer a.b.c",)) == "a.b.c"


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("Bearer a.b.c", "Bearer a.b.c"),
        ("",),
        ("a.b.c",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer  a.b.c",),
        (" Bearer a.b.c",),
        ("Bearer a.b.c ",),
        ("Bearer a.b.c\n",),
        ("Bearer a.b.c, Bearer d.e.f",),
        ("Bearer a.b.c,d",),
        ("Basic a.b.c",),
        ("DPoP a.b.c",),
        (b"Bearer a.b.c",),
    ],
)
def test_anything_but_one_bearer_token_is_refused(authorization: tuple[str | bytes, ...]) -> None:
    """ID-11: no second value names anybody, and none is picked from several."""
    with pytest.raises(InvalidInputError, match="authorization"):
        by_bearer(CONNECTION, authorization)
