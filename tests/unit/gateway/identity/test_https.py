"""One GET over HTTPS: what drips, or is too much, or is none, comes to an end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import FetchError
from stepgrant_gateway.identity import https
from tests.kit.endpoints import Served, endpoint
from tests.kit.oidc import WEB, authority_file

SHOWN = WEB.issue("x", dns=["localhost"])


def test_the_body_of_an_answer_comes_whole_and_the_query_is_asked(tmp_path: Path) -> None:
    with endpoint(SHOWN, Served(b"x" * 1000)) as served:
        assert https.get(f"{served.url}?a=b", ca=authority_file(tmp_path), most=1000) == b"x" * 1000
        assert served.asked == ["/bundle.json?a=b"]
        with pytest.raises(FetchError, match="more than 999 bytes"):
            https.get(served.url, ca=authority_file(tmp_path), most=999)


@pytest.mark.parametrize(
    "drips", [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000]
)
def test_an_answer_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drips: bytes) -> None:
    monkeypatch.setattr(https, "WITHIN", timedelta(milliseconds=300))
    with endpoint(SHOWN, Served(drips=drips)) as served, pytest.raises(FetchError, match="did not answer within"):
        https.get(served.url, ca=authority_file(tmp_path), most=10_000)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "https://", "https://me@localhost/", "https://localhost/#x", "file:///etc/passwd"]
)
def test_what_is_no_plain_https_url_is_not_asked(url: str) -> None:
    with pytest.raises(FetchError, match="not an https URL"):
        https.get(url, ca=None, most=1)
