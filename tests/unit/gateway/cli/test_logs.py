"""Lines of the log: one JSON object each, or one line for people; and nothing that another one's error quotes."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import sys

import pytest

from stepgrant_gateway.cli.logs import Form, JsonLines, TextLines, log_to_stderr
from stepgrant_gateway.core.errors import ConfigError

SECRET = "canary-5ecret"


def record(message: str, *args: object, name: str = "stepgrant_gateway.app.feed", error: BaseException | None = None):
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, None)
    if error is not None:
        made.exc_info = (type(error), error, error.__traceback__)
    made.created = 1_763_726_400.25
    return made


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - to be looked at
        return caught


def test_a_line_is_one_json_object_with_time_level_logger_event_and_ids():
    made = record("cut %s off", "orders")
    made.event, made.workload, made.task, made.step = "feed_reader_cut_off", "spiffe://acme.org/orders", "", "01S"

    assert json.loads(JsonLines().format(made)) == {
        "time": "2025-11-21T12:00:00.250Z",
        "level": "warning",
        "logger": "stepgrant_gateway.app.feed",
        "event": "feed_reader_cut_off",
        "message": "cut orders off",
        "step": "01S",
        "workload": "spiffe://acme.org/orders",
    }


def test_a_line_for_people_has_the_same_and_no_control_characters():
    made = record("cut %s off", "or\x1b[31m\nders")
    made.event, made.task = "feed_reader_cut_off", "01T"

    assert TextLines().format(made) == (
        "2025-11-21T12:00:00.250Z WARNING  stepgrant_gateway.app.feed [feed_reader_cut_off] cut or [31m ders off task=01T"
    )


def test_a_line_break_in_a_message_makes_no_second_json_line():
    assert "\n" not in JsonLines().format(record("a\nb", error=raised(ValueError("x"))))


@pytest.mark.parametrize("lines", [JsonLines(), TextLines()])
def test_au_08_an_exception_says_where_and_what_class_but_not_what_it_quotes(lines):
    """AU-08: `KeyError: 'the secret'` is how values get into logs."""
    cause = raised(KeyError(SECRET))
    text = lines.format(record("it failed", error=raised(ValueError(f"bad value {SECRET}"), cause)))

    assert SECRET not in text
    assert "builtins.ValueError" in text
    assert "builtins.KeyError" in text
    assert "test_logs.py" in text


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("gateway.toml:3: no"),
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("disk I/O error"),
    ],
)
def test_what_our_own_code_the_system_or_the_ledger_says_is_said(error):
    assert str(error) in json.loads(JsonLines().format(record("it failed", error=raised(error))))["exception"]


def test_au_08_another_library_s_message_is_its_template_only():
    """AU-08: asyncio, for one, puts the repr of a lost exception into the message."""
    said = record("future: %r\n%s", ValueError(SECRET), SECRET, name="asyncio")

    assert json.loads(JsonLines().format(said))["message"] == "future: %r"


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers = []
    yield logger
    logger.handlers, logger.level = handlers, level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "form", "formatter"),
    [
        (io.StringIO(), None, JsonLines),
        (Terminal(), None, TextLines),
        (Terminal(), Form.JSON, JsonLines),
        (io.StringIO(), Form.TEXT, TextLines),
    ],
)
def test_json_unless_it_is_a_terminal_or_somebody_says_otherwise(root, monkeypatch, stream, form, formatter):
    monkeypatch.setattr(sys, "stderr", stream)

    root.handlers = []
    log_to_stderr(form=form)

    assert [type(handler.formatter) for handler in root.handlers] == [formatter]
    assert root.level == logging.INFO
