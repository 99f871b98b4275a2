"""Keys of an issuer, from a real HTTPS server or a file: only its own, in one answer, within bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import FetchError
from stepgrant_gateway.identity import https
from stepgrant_gateway.identity.discovery import MAX_DOCUMENT_BYTES, WELL_KNOWN, OidcIssuer, fetch_keys
from tests.kit.oidc import AUDIENCE, Issuer, authority_file, serving


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return authority_file(tmp_path)


def refused(of: OidcIssuer) -> str:
    with pytest.raises(FetchError) as error:
        fetch_keys(of)
    return str(error.value)


def test_keys_lie_where_the_very_issuer_says_and_at_a_host_that_is_expected(ca: Path) -> None:
    with serving(Issuer()) as issuer, serving(Issuer()) as other:
        of = OidcIssuer(issuer.url, AUDIENCE, ca=ca)
        assert set(fetch_keys(of).by_kid) == {issuer.signer.kid}
        for said, says in (
            ({"issuer": other.url}, "of another issuer"),
            ({"issuer": f"{issuer.url}/"}, "of another issuer"),
            ({"issuer": None}, "of another issuer"),
            ({"jwks_uri": issuer.url.replace("https", "http") + "/jwks"}, "no `jwks_uri` that is https"),
            ({"jwks_uri": None}, "no `jwks_uri`"),
            ({"jwks_uri": f"{other.url}/jwks"}, "at another host"),
            ({"jwks_uri": f"https://me@{other.url.removeprefix('https://')}/jwks"}, "at another host"),
        ):
            issuer.publish(document=said)
            assert says in refused(of)
        issuer.publish(document={"jwks_uri": f"{other.url}/jwks"})
        host = other.url.removeprefix("https://")
        assert fetch_keys(replace(of, jwks_host=host)).by_kid
        assert other.asked == ["/jwks"]


def test_who_is_there_is_known_by_the_configured_authority_and_nobody_else_is_asked(ca: Path) -> None:
    with serving(Issuer()) as issuer:
        assert "certificate verify failed" in refused(OidcIssuer(issuer.url, AUDIENCE))
        by_address = issuer.url.replace("localhost", "127.0.0.1")
        assert "certificate verify failed" in refused(OidcIssuer(by_address, AUDIENCE, ca=ca))
        assert issuer.asked == []


def test_an_answer_is_one_document_of_bounded_size_and_no_redirect(ca: Path) -> None:
    with serving(Issuer()) as issuer, serving(Issuer()) as other:
        of = OidcIssuer(issuer.url, AUDIENCE, ca=ca)
        issuer.pages[WELL_KNOWN] = (302, f"{other.url}{WELL_KNOWN}".encode())
        assert "answers 302" in refused(of)
        assert other.asked == []
        for status, body, says in (
            (404, b"", "answers 404"),
            (200, b"<html>", "JSON"),
            (200, b" " * (MAX_DOCUMENT_BYTES + 1), "more than"),
        ):
            issuer.pages[WELL_KNOWN] = (status, body)
            assert says in refused(of)
        issuer.publish()
        issuer.pages["/jwks"] = (200, b'{"keys": []}')
        assert "no key" in refused(of)


def test_nobody_there_is_said_with_the_url() -> None:
    with serving(Issuer()) as issuer:
        url = issuer.url
    assert url in refused(OidcIssuer(url, AUDIENCE))
    with pytest.raises(FetchError, match="not an https URL"):
        https.get("http://localhost/", ca=None, most=1)


def test_keys_from_a_file_need_nobody(tmp_path: Path) -> None:
    issuer, path = Issuer(), tmp_path / "jwks.json"
    of = OidcIssuer(issuer.url, AUDIENCE, jwks=path)
    assert "cannot be read" in refused(of)
    path.write_bytes(issuer.jwks)
    assert set(fetch_keys(of).by_kid) == {issuer.signer.kid}
    path.write_text(json.dumps({"keys": "none"}))
    assert "cannot be used" in refused(of)
