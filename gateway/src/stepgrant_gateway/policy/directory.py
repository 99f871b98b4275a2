"""The policy directory, read once: names and bytes of every file that takes part, and their digest."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stepgrant_gateway.core.errors import Finding, PolicyRefusedError
from stepgrant_gateway.policy.findings import nearest

MAX_FILES: Final = 4096
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""One file of 100,000 policies takes about 30 MiB."""
MAX_DIRECTORY_BYTES: Final = 128 * 1024 * 1024

CATALOG_FILE: Final = "catalog.yaml"
_DIGEST_TAG: Final = b"stepgrant.policy.v1\0"
_FOLDERS: Final = ("tools", "tests")
_IGNORED: Final = re.compile(r"\..*|README\.md")
_ADMITTED: Final = re.compile(r"catalog\.yaml|[^/]+\.cedar|tools/[^/]+\.json|tests/[^/]+\.yaml")
_EXAMPLES: Final = ("catalog.yaml", "tools", "tests")


def read_directory(path: Path) -> Mapping[str, bytes]:
    """Every file of the directory by its name relative to it (`tools/orders.json`), in order of name.

    Admitted are catalog.yaml, *.cedar, tools/*.json and tests/*.yaml; README.md and names that begin with a dot are
    passed over; anything else, a symbolic link included, is refused rather than silently not loaded.

    Raises:
        PolicyRefusedError: with every finding; also for more than MAX_FILES files, MAX_FILE_BYTES in one, or
            MAX_DIRECTORY_BYTES in all.
    """
    files: dict[str, bytes] = {}
    findings: list[Finding] = []
    _read_folder(path, "", files, findings)
    if CATALOG_FILE not in files and not any(finding.file == CATALOG_FILE for finding in findings):
        findings.append(Finding(CATALOG_FILE, 0, "", "is missing: a policy directory needs a catalog.yaml."))
    if findings:
        raise PolicyRefusedError(tuple(sorted(findings)))
    return dict(sorted(files.items()))


def directory_digest(files: Mapping[str, bytes]) -> str:
    """`sha256:` and 64 hexadecimal digits over names and bytes; no two directories share one by moving a boundary."""
    digest = hashlib.sha256(_DIGEST_TAG)
    for name, content in sorted(files.items()):
        encoded = name.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "big") + encoded + len(content).to_bytes(8, "big") + content)
    return f"sha256:{digest.hexdigest()}"


def _read_folder(root: Path, folder: str, files: dict[str, bytes], findings: list[Finding]) -> None:
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as error:
        findings.append(Finding(folder or root.name, 0, "", f"cannot be read: {error.strerror}."))
        return
    for entry in entries:
        if _IGNORED.fullmatch(entry.name):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_symlink():
            findings.append(Finding(name, 0, "", "is a symbolic link: put the file itself here."))
        elif not folder and entry.name in _FOLDERS and entry.is_dir():
            _read_folder(root, entry.name, files, findings)
        elif _ADMITTED.fullmatch(name) is None or not entry.is_file():
            findings.append(
                Finding(
                    name,
                    0,
                    "",
                    "does not belong here: catalog.yaml, *.cedar, tools/*.json, tests/*.yaml and README.md do.",
                    nearest(entry.name, _EXAMPLES),
                )
            )
        elif len(files) >= MAX_FILES:
            findings.append(Finding(name, 0, "", f"is one file more than the {MAX_FILES} that a directory may have."))
            return
        else:
            _read_file(root, name, files, findings)


def _read_file(root: Path, name: str, files: dict[str, bytes], findings: list[Finding]) -> None:
    left = min(MAX_FILE_BYTES, MAX_DIRECTORY_BYTES - sum(len(content) for content in files.values()))
    try:
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                findings.append(Finding(name, 0, "", "is not a regular file."))
                return
            content = stream.read(left + 1)
    except OSError as error:
        findings.append(Finding(name, 0, "", f"cannot be read: {error.strerror}."))
        return
    if len(content) > left:
        findings.append(
            Finding(
                name,
                0,
                "",
                f"is too large: at most {MAX_FILE_BYTES} bytes in a file, {MAX_DIRECTORY_BYTES} in a directory.",
            )
        )
        return
    files[name] = content
