"""The disk as SQLite sees it: a VFS under this process's own SQLite that fails, or loses what was not synced, when told.

SQLite calls a table of C functions for each open file (sqlite.org/vfs.html). Here `xWrite`, `xTruncate` and `xSync` of the system's
own table are replaced; everything else, locks and shared memory among it, stays the system's.
"""

from __future__ import annotations

import _sqlite3
import copy
import ctypes
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

OK: Final = 0
IOERR_WRITE: Final = 10 | 3 << 8
IOERR_FSYNC: Final = 10 | 4 << 8
FULL: Final = 13
SECTOR: Final = 512
"""What a disk writes whole or not at all."""

_POINTER = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_int, _POINTER)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int), ("szOsFile", ctypes.c_int), ("mxPathname", ctypes.c_int), ("pNext", _POINTER),
        ("zName", ctypes.c_char_p), ("pAppData", _POINTER), ("xOpen", _POINTER), ("others", _POINTER * 14),
    ]  # fmt: skip


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int), ("xClose", _POINTER), ("xRead", _POINTER), ("xWrite", _POINTER),
        ("xTruncate", _POINTER), ("xSync", _POINTER), ("others", _POINTER * 13),
    ]  # fmt: skip


class _File(ctypes.Structure):
    _fields_ = [("pMethods", ctypes.POINTER(_Methods))]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: `write` of bytes at an offset, `truncate` to a length, or `sync`."""

    kind: str
    name: str
    at: int = 0
    data: bytes = b""


@dataclass(slots=True)
class _Held:
    """One file: what is surely on the disk, and what was written since its last sync."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation, image: bytearray) -> None:
        if operation.kind == "truncate":
            del image[operation.at :]
            return
        image.extend(bytes(max(0, operation.at + len(operation.data) - len(image))))
        image[operation.at : operation.at + len(operation.data)] = operation.data

    def sync(self) -> None:
        for operation in self.pending:
            self.apply(operation, self.synced)
        self.pending.clear()

    def after_power_loss(self, numbers: random.Random) -> bytes:
        """What was synced, and any sectors of what was not."""
        image = bytearray(self.synced)
        for operation in self.pending:
            if operation.kind == "truncate":
                if numbers.random() < 0.5:
                    self.apply(operation, image)
                continue
            for begin in range(0, len(operation.data), SECTOR):
                if numbers.random() < 0.5:
                    part = operation.data[begin : begin + SECTOR]
                    self.apply(Operation("write", operation.name, operation.at + begin, part), image)
        return bytes(image)


class Disk:
    """What happened, and what is to happen. `before` is called before each operation; an error code that it returns is the answer."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.before: Callable[[Operation], int] = lambda _: OK
        self._files: dict[str, _Held] = {}

    def power_lost(self, numbers: random.Random, of: Path, folder: Path) -> None:
        """Writes into `folder` what would be there of the files in `of` if the power went now. A deleted file is gone."""
        for name, held in self._files.items():
            path = folder / Path(name).name
            if Path(name).parent != of or not Path(name).exists():
                continue
            path.write_bytes(held.after_power_loss(numbers))
            path.chmod(0o600)

    def process_killed(self, of: Path, folder: Path) -> None:
        """`folder` has what a process that is killed now leaves of the files in `of`: all that it wrote, synced or not."""
        for name, held in list(self._files.items()):
            if Path(name).parent == of and Path(name).exists():
                shutil.copy(name, folder)
                self._files[str(folder / Path(name).name)] = copy.deepcopy(held)

    def _take(self, operation: Operation, go_on: Callable[[], int]) -> int:
        self.operations.append(operation)
        answer = self.before(operation)
        held = self._files.setdefault(operation.name, _Held())
        if answer != OK:
            if operation.kind == "sync":
                # As Linux does it: what could not be synced counts as clean from then on, and no later sync brings it.
                held.pending.clear()
            return answer
        if operation.kind == "sync":
            held.sync()
        else:
            held.pending.append(operation)
        return go_on()


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk for all files that this process's SQLite opens meanwhile; connections must be closed before it is left."""
    library = _library()
    found = Disk()
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    system = library.sqlite3_vfs_find(None)
    shim = _Vfs.from_buffer_copy(system.contents)
    shim.zName = b"stepgrant-faults"
    opening = _OPEN(system.contents.xOpen)
    kept: list[Any] = []

    def opened(vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        if not Path(path).exists():
            found._files.pop(path, None)
        # The name as it came: SQLite looks behind its end for the parameters of the URI.
        answer = opening(vfs, name, file, flags, out)
        handle = _File.from_address(file)
        if answer == OK and path and handle.pMethods:
            methods, kept_here = _methods(found, handle.pMethods.contents, path)
            kept.append((methods, kept_here))
            handle.pMethods = ctypes.pointer(methods)
        return answer

    kept.append(hook := _OPEN(opened))
    shim.xOpen = ctypes.cast(hook, _POINTER)
    library.sqlite3_vfs_register(ctypes.byref(shim), 1)
    try:
        yield found
    finally:
        library.sqlite3_vfs_register(system, 1)
        library.sqlite3_vfs_unregister(ctypes.byref(shim))


def _methods(found: Disk, system: _Methods, name: str) -> tuple[_Methods, tuple[Any, ...]]:
    write, truncate, sync = _WRITE(system.xWrite), _TRUNCATE(system.xTruncate), _SYNC(system.xSync)

    def written(file: int, data: int, size: int, at: int) -> int:
        operation = Operation("write", name, at, ctypes.string_at(data, size))
        return found._take(operation, lambda: write(file, data, size, at))

    def truncated(file: int, size: int) -> int:
        return found._take(Operation("truncate", name, size), lambda: truncate(file, size))

    def synced(file: int, flags: int) -> int:
        return found._take(Operation("sync", name), lambda: sync(file, flags))

    hooks = _WRITE(written), _TRUNCATE(truncated), _SYNC(synced)
    methods = _Methods.from_buffer_copy(system)
    methods.xWrite, methods.xTruncate, methods.xSync = (ctypes.cast(hook, _POINTER) for hook in hooks)
    return methods, (hooks, write, truncate, sync)


def _library() -> ctypes.CDLL:
    """The SQLite that `sqlite3` runs on, if it is a shared library that can be had once more."""
    listed = subprocess.run(["ldd", _sqlite3.__file__], capture_output=True, text=True, check=False).stdout
    names = [line.split()[0] for line in listed.splitlines() if "libsqlite3" in line]
    if sys.platform != "linux" or not names:
        pytest.skip("this Python's SQLite is not a shared library of its own: no VFS can be put under it")
    return ctypes.CDLL(names[0])
