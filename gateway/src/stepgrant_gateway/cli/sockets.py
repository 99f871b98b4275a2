"""The socket of the Workload API, before anything is asked there: is it one, is somebody there, may this user open it."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from stepgrant_gateway.cli.checks import Check, failed, good
from stepgrant_gateway.cli.exits import Exit

NAME: Final = "Workload API"
WITHIN: Final = 5.0
"""Seconds that an answer may take."""
_START: Final = "start the SPIFFE agent (SPIRE: spire-agent run; for trying things out: stepgrant dev), or correct"


def socket_path(address: str) -> Path | None:
    """The path in `unix:/path`, however many slashes begin it; None for another address."""
    scheme, _, rest = address.partition(":")
    return Path("/" + rest.lstrip("/")) if scheme == "unix" else None


def workload_api(address: str, where: str) -> Check:
    """Whether the socket takes connections; `where` is what says its address: a variable or a setting."""
    path = socket_path(address)
    if path is None:
        if address.startswith("tcp:"):
            return good(NAME, f"{address} is not looked at by itself; the SVID says whether it answers")
        return failed(NAME, f"{address} is no address", f"it is unix: and a path; correct {where}", Exit.USAGE)
    start = f"{_START} {where}"
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return failed(NAME, f"{path} is no socket", start, Exit.UNAVAILABLE, f"ls -ld {path}")
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.settimeout(WITHIN)
            probe.connect(str(path))
    except PermissionError:
        return _closed_to_us(path)
    except ConnectionRefusedError:
        return failed(NAME, f"nobody listens at {path}: its agent has gone", start, Exit.UNAVAILABLE)
    except OSError as error:
        return failed(NAME, f"{path}: {error.strerror or error}", start, Exit.UNAVAILABLE)
    return good(NAME, f"{path} takes connections")


def _closed_to_us(path: Path) -> Check:
    """The first on the way that this user may not pass, whose it is, and how to be let in."""
    barred = next((one for one in reversed(path.parents) if not os.access(one, os.X_OK, effective_ids=True)), path)
    found = barred.stat()
    owner, group, me = _user(found.st_uid), _group(found.st_gid), _user(os.geteuid())
    says = (
        f"{path} may not be opened by {me}: {barred} is of {owner}:{group} with mode {stat.S_IMODE(found.st_mode):04o}"
    )
    if found.st_mode & (stat.S_IXGRP if barred.is_dir() else stat.S_IWGRP) and found.st_gid:
        todo = f"take {me} into the group {group} and log in anew, or start this as a user who may"
        return failed(NAME, says, todo, Exit.UNAVAILABLE, f"sudo usermod --append --groups {group} {me}")
    return failed(
        NAME, says, "start this as a user who may, or have its owner open it", Exit.UNAVAILABLE, f"ls -ld {barred}"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
