"""A protected server's own credentials."""

import grpc
import pytest

from stepgrant.errors import IdentityUnavailableError
from stepgrant.verify import server_identity
from tests.kit.ca import FixedSource, TestAuthority


def test_without_an_svid_there_are_no_credentials_inv_11():
    """INV-11: identity missing."""
    with pytest.raises(IdentityUnavailableError):
        server_identity.server_credentials(FixedSource(None))


def test_new_connections_get_the_newest_svid_and_the_former_one_only_when_there_is_no_other(monkeypatch, caplog):
    taken = {}

    def dynamic(initial, fetcher, *, require_client_authentication):
        taken.update(initial=initial, fetch=fetcher, require=require_client_authentication)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", dynamic)
    authority = TestAuthority()
    source = FixedSource(authority.snapshot("resource/orders"))
    server_identity.server_credentials(source)
    assert taken["require"] is True
    assert taken["fetch"]() is None

    source.put(authority.snapshot("resource/orders"))
    assert taken["fetch"]() is not None
    assert taken["fetch"]() is None

    source.put(None)
    assert taken["fetch"]() is None
    assert "former certificate" in caplog.text
