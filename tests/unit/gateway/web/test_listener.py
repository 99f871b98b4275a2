"""The HTTP listener: its pages and nothing else, to a bounded number of clients, whatever they send or do not send."""

from __future__ import annotations

import errno
import http.client
import socket
import threading
from http import HTTPStatus

import pytest

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.web.listener import MAX_CONNECTIONS, Listener, Page

WAIT = 10


@pytest.fixture
def listener():
    listener = Listener(
        Address("127.0.0.1", 0), {"/readyz": lambda: Page(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", b"{}")}
    )
    yield listener
    listener.close()


def asked(listener: Listener, path: str, method: str = "GET") -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=WAIT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Server")
    finally:
        connection.close()


def test_a_page_is_served_with_its_status_whatever_the_query(listener):
    assert asked(listener, "/readyz?from=probe")[:2] == (503, b"{}")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/readyz/", "GET", 404), ("/readyz", "POST", 404), ("/readyz", "PUT", 501)],
)
def test_nothing_else_is_served_and_nothing_sent_comes_back(listener, path, method, status):
    found, body, server = asked(listener, path, method)

    assert (found, server) == (status, "stepgrant")
    assert b"POST" not in body


def test_an_address_that_is_taken_is_a_config_error(listener):
    with pytest.raises(ConfigError, match=r"metrics\.address"):
        Listener(Address("127.0.0.1", listener.port), {})


def test_nobody_is_asked_for_the_name_of_the_address(monkeypatch):
    """It listens from the gateway's loop, which must not wait for a DNS that does not answer."""
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", lambda name="": asked.append(name) or name)

    Listener(Address("127.0.0.1", 0), {}).close()

    assert not asked


def test_ds_08_a_connection_for_which_there_was_no_thread_leaves_its_place(listener, monkeypatch):
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        for _ in range(MAX_CONNECTIONS + 1):
            with pytest.raises((http.client.HTTPException, OSError)):
                asked(listener, "/readyz")

    assert asked(listener, "/readyz")[0] == 503


def test_clients_that_say_nothing_take_a_bounded_number_of_places(listener, monkeypatch):
    """DS-08: connections beyond the bound are closed at once; those that end make room again."""
    # However slow this machine is, none of them gets its place back for having waited too long.
    monkeypatch.setattr("stepgrant_gateway.web.listener.PATIENCE", 60.0)
    monkeypatch.setattr("stepgrant_gateway.web.listener._Handler.timeout", 60.0)
    silent = [socket.create_connection(("127.0.0.1", listener.port), timeout=WAIT) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises((http.client.HTTPException, OSError)):
        asked(listener, "/readyz")
    for connection in silent:
        connection.shutdown(socket.SHUT_WR)
    for connection in silent:
        assert connection.recv(1) == b""
        connection.close()

    for _ in range(1000):  # bounded: a place is given back just after its connection has ended
        try:
            assert asked(listener, "/readyz")[0] == 503
            break
        except (http.client.HTTPException, OSError):
            continue
    else:
        pytest.fail("no place came free")


def test_ds_08_a_client_that_sends_a_byte_now_and_then_has_its_place_no_longer_than_any_other(listener, monkeypatch):
    """Sixteen of them would keep the probe of liveness out, and whoever probes would end a gateway that works."""
    monkeypatch.setattr("stepgrant_gateway.web.listener.PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", listener.port), timeout=WAIT) as slow:
        slow.sendall(b"GET /readyz HTTP/1.0\r\n")
        slow.settimeout(0.05)
        for _ in range(200):  # 10 s at most; each byte in less time than a silent client has
            try:
                slow.sendall(b"x")
                assert slow.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it still has its place")


def test_ds_08_a_process_without_file_descriptors_answers_again_once_it_has_some(listener, monkeypatch):
    """The listener neither spins nor dies when there is no descriptor to accept a connection with."""
    real, failures = socket.socket.accept, []

    def accept(self: socket.socket) -> object:
        if len(failures) < 3:
            failures.append(errno.EMFILE)
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)

    assert asked(listener, "/readyz")[0] == 503
    assert len(failures) == 3
