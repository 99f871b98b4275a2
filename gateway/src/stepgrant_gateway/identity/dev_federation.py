"""Federation of embedded trust domains by files: each writes its own bundle, and reads those of the others when they change."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stepgrant.errors import InvalidBundleError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleDocument, bundle_from_jwks
from stepgrant.spiffe.jwt_bundle import JWT_SVID_USE

BUNDLE_FILE: Final = "bundle.json"
"""In the directory of the sockets."""

_log = logging.getLogger(__name__)
_Stamp = tuple[int, int, int] | None


class BundleFiles:
    """The bundles of further trust domains, from a file each. What cannot be read leaves the last good bundle."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._stamps: dict[str, _Stamp] = dict.fromkeys(files)
        self._documents: dict[str, tuple[bytes, BundleDocument]] = {}

    def look(self) -> bool:
        """Reads the files that have changed since the last look; True if a bundle is another one now."""
        before = dict(self._documents)
        for name, path in self._files.items():
            stamp = _stamp(path)
            if stamp != self._stamps[name]:
                self._stamps[name] = stamp
                self._read(name, path)
        return before != self._documents

    def x509(self) -> dict[str, bytes]:
        """The X.509 authorities as the Workload API sends them, by the ID of their trust domain."""
        return {f"spiffe://{name}": b"".join(one.bundle.authorities) for name, (_, one) in self._documents.items()}

    def jwt(self) -> dict[str, bytes]:
        """The JWT authorities as the Workload API sends them, by the ID of their trust domain."""
        return {f"spiffe://{name}": _jwt_part(data) for name, (data, _) in self._documents.items()}

    def _read(self, name: str, path: Path) -> None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BUNDLE_BYTES + 1)
            self._documents[name] = (data, bundle_from_jwks(name, data))
        except FileNotFoundError:
            _log.info("%s is not there yet: nothing of %s is trusted more than before.", path, name)
        except (OSError, InvalidBundleError) as error:
            _log.warning("The bundle of %s cannot be read from %s: %s", name, path, error)


def write_bundle(path: Path, document: bytes) -> None:
    """Writes a bundle document for others to read, whole at every moment."""
    next_ = path.with_name(path.name + "-next")
    next_.write_bytes(document)
    next_.replace(path)


def _jwt_part(data: bytes) -> bytes:
    keys = [key for key in json.loads(data)["keys"] if key.get("use") == JWT_SVID_USE]
    return json.dumps({"keys": keys}).encode()


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
