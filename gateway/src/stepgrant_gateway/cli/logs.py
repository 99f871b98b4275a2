"""The only place with a logging handler: standard error, one line an event."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(*, verbose: bool = False) -> None:
    """Logs from INFO on (DEBUG with `verbose`) to standard error."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
    )


def keep_quiet() -> None:
    """Logs nothing: for a command that says itself what it found."""
    for name in ("stepgrant", "spiffe"):
        logging.getLogger(name).addHandler(logging.NullHandler())
