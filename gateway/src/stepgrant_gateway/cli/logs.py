"""The only place with logging handlers: standard error, as JSON lines for programs or as lines for people.

What is not ours may quote anything: a message of another library is cut to its template, and an exception says its message
only if our own code, the operating system or the ledger's engine worded it. So no argument, parameter or token gets through
by an error that nobody foresaw.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from stepgrant.errors import StepgrantError
from stepgrant_gateway.core.errors import GatewayError

IDS: Final = ("task", "step", "decision", "workload")
"""What a line may be about, where it is known: attributes of the record, given as `extra`."""
OURS: Final = ("stepgrant", "stepgrant_gateway")
MAX_MESSAGE: Final = 4096

_OPEN: Final = (StepgrantError, GatewayError, OSError, sqlite3.Error)


class Form(Enum):
    """How lines of the log look."""

    JSON = "json"
    TEXT = "text"


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event (a stable name, if there is one), message, ids, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        document = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        if hasattr(record, "event"):
            document["event"] = record.event
        document["message"] = said(record)
        document |= dict(_ids(record))
        if record.exc_info is not None and record.exc_info[1] is not None:
            document["exception"] = "\n".join(raised(record.exc_info[1]))
        return json.dumps(document, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One line for people, and the lines of its exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        ids = "".join(f" {name}={value}" for name, value in _ids(record))
        event = f" [{record.event}]" if hasattr(record, "event") else ""
        # A control character would let a caller's text write lines, or colours, of its own.
        text = "".join(char if char.isprintable() else " " for char in said(record))
        lines = [f"{_time(record)} {record.levelname:<8} {record.name}{event} {text}{ids}"]
        if record.exc_info is not None and record.exc_info[1] is not None:
            lines += raised(record.exc_info[1])
        return "\n".join(lines)


def said(record: logging.LogRecord) -> str:
    """The message; of what is not ours, only the first line of its template."""
    if record.name.partition(".")[0] in OURS:
        return record.getMessage()[:MAX_MESSAGE]
    return str(record.msg).partition("\n")[0][:MAX_MESSAGE]


def raised(error: BaseException) -> Iterator[str]:
    """Where an exception was raised and of what class it is, its causes first; its message only if it is one of `_OPEN`."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from raised(before)
        yield "which led to:"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    message = f": {error}" if isinstance(error, _OPEN) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{message}"[:MAX_MESSAGE]


def log_to_stderr(*, verbose: bool = False, form: Form | None = None) -> None:
    """Logs from INFO on (DEBUG with `verbose`) to standard error; without `form`, as text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    chosen = form or (Form.TEXT if sys.stderr.isatty() else Form.JSON)
    handler.setFormatter(JsonLines() if chosen is Form.JSON else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)


def keep_quiet() -> None:
    """Logs nothing: for a command that says itself what it found."""
    for name in ("stepgrant", "spiffe"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _ids(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    for name in IDS:
        value = getattr(record, name, "")
        if value:
            yield name, str(value)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
