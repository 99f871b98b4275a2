"""Disks that fill up and become free again when the test says so."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

SMALL: Final = "256k"


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system of its own, 256 KiB; as good as any until `fill`."""

    folder: Path

    def fill(self) -> None:
        """Not a byte is free any more, also of what the other files on it gave back since the last time."""
        with (self.folder / "fill").open("ab", buffering=0) as filling:
            for size in (65536, 4096, 1):
                try:
                    while filling.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """What `fill` took is free again."""
        (self.folder / "fill").unlink()

    def freeze(self) -> None:
        """Nothing on it can be changed any more."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def thaw(self) -> None:
        """As before `freeze`."""
        subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A small disk at `folder`; the test is skipped where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass(frozen=True, slots=True)
class FailingDisk:
    """The disk as one process sees it: from `fill` on each of its writes fails (EFBIG, to SQLite an I/O error)."""

    pid: int

    def fill(self) -> None:
        """Nothing can be written any more."""
        self._limit(0)

    def free(self) -> None:
        """Everything can."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        if not hasattr(resource, "prlimit"):
            pytest.skip("the limits of another process cannot be set here")
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@dataclass(frozen=True, slots=True)
class HangingDisk:
    """The disk of a process that `hanging` runs: from `fill` on no write and no sync of it returns."""

    pid: int

    def fill(self) -> None:
        """Nothing that is written comes to an end any more."""
        os.kill(self.pid, signal.SIGUSR1)

    def free(self) -> None:
        """Everything does, also what hung."""
        os.kill(self.pid, signal.SIGUSR2)
