"""Bundles from real TLS servers: only from who it must be, in one answer, within bounds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.core.errors import BundleUnavailableError
from stepgrant_gateway.identity.endpoints import Endpoint, Profile, fetch_bundle
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.clock import START
from tests.kit.endpoints import Served, bundle_document, endpoint

PARTNER, OTHER, WEB = (
    TestAuthority("partner.test", intermediate=True),
    TestAuthority("other.test"),
    TestAuthority("web"),
)
SERVER = "spiffe://partner.test/spire/server"
HELD = BundleSet((PARTNER.bundle(), OTHER.bundle()))
DOCUMENT = bundle_document(PARTNER.bundle())


def spiffe(url: str, endpoint_id: str = SERVER) -> Endpoint:
    return Endpoint("partner.test", url, Profile.SPIFFE, parse_spiffe_id(endpoint_id))


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "web.pem"
    path.write_bytes(WEB.root.public_bytes(Encoding.PEM))
    return path


def web(url: str, ca: Path | None) -> Endpoint:
    return Endpoint("partner.test", url, Profile.WEB, ca=ca)


def refused(where: Endpoint, held: BundleSet = HELD) -> str:
    with pytest.raises(BundleUnavailableError) as error:
        fetch_bundle(where, held, START)
    return str(error.value)


def test_https_web_fetches_from_the_host_that_its_authority_vouches_for(ca: Path) -> None:
    with endpoint(WEB.issue("x", dns=["localhost"]), Served(DOCUMENT)) as served:
        assert fetch_bundle(web(f"{served.url}?of=partner", ca), BundleSet(), START) == DOCUMENT
        assert served.asked == ["/bundle.json?of=partner"]


def test_https_web_takes_no_other_host_and_no_other_authority(ca: Path) -> None:
    """RFC 6125, and the configured file in place of the system's authorities."""
    with endpoint(WEB.issue("x", dns=["elsewhere.test"]), Served(DOCUMENT)) as served:
        assert "Hostname mismatch" in refused(web(served.url, ca))
    with endpoint(OTHER.issue("x", dns=["localhost"]), Served(DOCUMENT)) as served:
        assert "certificate verify failed" in refused(web(served.url, ca))
    with endpoint(WEB.issue("x", dns=["localhost"]), Served(DOCUMENT)) as served:
        assert "certificate verify failed" in refused(web(served.url, None))
    assert served.asked == []


def test_https_spiffe_knows_the_server_by_its_id_whatever_its_names() -> None:
    with endpoint(PARTNER.issue("spire/server"), Served(DOCUMENT)) as served:
        assert fetch_bundle(spiffe(served.url), HELD, START) == DOCUMENT
    with endpoint(OTHER.issue("bundles"), Served(DOCUMENT)) as served:
        assert fetch_bundle(spiffe(served.url, "spiffe://other.test/bundles"), HELD, START) == DOCUMENT


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        pytest.param(PARTNER.issue("agent/support", dns=["localhost"]), "it is spiffe://partner.test/agent", id="id"),
        pytest.param(OTHER.issue(SERVER, dns=["localhost"]), "no path leads", id="another domain's authority"),
        pytest.param(TestAuthority("partner.test").issue(SERVER), "no path leads", id="a namesake's authority"),
        pytest.param(PARTNER.issue("x", uris=[], dns=["localhost"]), "0 URI SANs", id="a name and no ID"),
        pytest.param(PARTNER.issue("spire/server", not_after=START - timedelta(seconds=1)), "expired", id="expired"),
    ],
)
def test_https_spiffe_says_nothing_to_anybody_else(shown: IssuedSvid, why: str) -> None:
    """INV-11: nothing of the Web PKI counts, and no request is sent before the server is known."""
    with endpoint(shown, Served(DOCUMENT)) as served:
        assert why in refused(spiffe(served.url))
    assert served.asked == []


def test_https_spiffe_without_a_bundle_of_the_servers_trust_domain_is_refused() -> None:
    with endpoint(PARTNER.issue("spire/server"), Served(DOCUMENT)) as served:
        assert "there is no bundle for it" in refused(spiffe(served.url), BundleSet((OTHER.bundle(),)))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, ca: Path) -> None:
    with endpoint(PARTNER.issue("spire/server"), Served(DOCUMENT)) as target:
        moved = Served(status=status, headers={"location": target.url})
        with endpoint(PARTNER.issue("spire/server"), moved) as served:
            assert f"it answers {status}, a redirect" in refused(spiffe(served.url))
        with endpoint(WEB.issue("x", dns=["localhost"]), moved) as served:
            assert f"it answers {status}, a redirect" in refused(web(served.url, ca))
    assert target.asked == []


def test_an_answer_that_is_not_200_or_too_large_is_refused() -> None:
    with endpoint(PARTNER.issue("spire/server"), Served(DOCUMENT, status=404)) as served:
        assert "it answers 404" in refused(spiffe(served.url))
    with endpoint(PARTNER.issue("spire/server"), Served(b" " * (MAX_BUNDLE_BYTES + 1))) as served:
        assert f"more than {MAX_BUNDLE_BYTES} bytes" in refused(spiffe(served.url))


def test_nobody_there_is_a_failure_that_names_the_endpoint() -> None:
    assert "https://localhost:1/x gives no bundle of partner.test" in refused(spiffe("https://localhost:1/x"))
