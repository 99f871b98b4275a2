"""The socket of the Workload API: none, no socket, nobody there, or not for this user, each with what to type."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.sockets import socket_path, workload_api

NOBODY = 65534
WHERE = "SPIFFE_ENDPOINT_SOCKET"


@contextmanager
def nobody() -> Iterator[None]:
    """Without privileges for a while: who is root may open everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def listening(*, folder_mode: int = 0o755, mode: int = 0o777) -> Iterator[Path]:
    """A socket that takes connections, in a folder of this mode."""
    with tempfile.TemporaryDirectory(prefix="sg") as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder) / "api.sock"
        server.bind(str(path))
        server.listen()
        path.chmod(mode)
        Path(folder).chmod(folder_mode)
        yield path
        Path(folder).chmod(0o700)


@pytest.mark.parametrize("slashes", ["", "//"])
def test_a_socket_that_takes_connections_is_well(slashes):
    with listening() as path:
        check = workload_api(f"unix:{slashes}{path}", WHERE)

    assert check.state is State.OK


@pytest.mark.parametrize(("folder_mode", "mode"), [(0o755, 0o600), (0o700, 0o777), (0o600, 0o777)])
def test_a_socket_that_this_user_may_not_open_says_whose_it_is(folder_mode, mode):
    with listening(folder_mode=0o000 if os.geteuid() and folder_mode != 0o755 else folder_mode,
                   mode=0o000 if os.geteuid() and folder_mode == 0o755 else mode) as path, nobody():  # fmt: skip
        check = workload_api(f"unix:{path}", WHERE)

    barred = path if folder_mode == 0o755 else path.parent
    assert (check.state, check.exit) == (State.FAILED, Exit.UNAVAILABLE)
    assert f"{barred} is of " in check.says
    assert check.command == f"ls -ld {barred}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_a_socket_for_a_group_says_how_to_get_into_it():
    with listening(mode=0o660) as path:
        os.chown(path, 0, 1)
        with nobody():
            check = workload_api(f"unix:{path}", WHERE)

    assert check.command.startswith("sudo usermod --append --groups ")


@pytest.mark.parametrize(
    ("address", "says", "status"),
    [
        ("/run/agent.sock", "no address", Exit.USAGE),
        ("unix:/nowhere/agent.sock", "No such file", Exit.UNAVAILABLE),
        (f"unix:{__file__}", "no socket", Exit.UNAVAILABLE),
    ],
)
def test_what_is_no_socket_has_failed_and_names_what_to_correct(address, says, status):
    check = workload_api(address, WHERE)

    assert (check.state, check.exit) == (State.FAILED, status)
    assert says in check.says
    assert WHERE in check.todo


def test_a_socket_that_nobody_listens_at_was_left_behind():
    with tempfile.TemporaryDirectory(prefix="sg") as folder:
        path = Path(folder) / "agent.sock"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
        check = workload_api(f"unix:{path}", WHERE)

    assert "nobody listens" in check.says


def test_a_tcp_address_is_for_the_svid_to_judge():
    assert workload_api("tcp:127.0.0.1:8081", WHERE).state is State.OK
    assert socket_path("tcp:127.0.0.1:8081") is None
