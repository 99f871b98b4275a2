"""The back-channel logout endpoint (OpenID Connect Back-Channel Logout 1.0, sections 2.5 and 2.8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from stepgrant_gateway.web.listener import Page

PATH: Final = "/backchannel-logout"
MAX_FIELDS: Final = 16
_NOTHING: Final = Page(HTTPStatus.OK, "application/json", b"")


def logout_page(log_out: Callable[[str], str]) -> Callable[[bytes], Page]:
    """What answers a POST there: 200 once the logout has taken its effect, 400 with what was wrong, 503 if nobody answered.

    `log_out` takes a logout token and returns what is wrong with it, or nothing; it raises TimeoutError. Called on the
    listener's threads.
    """

    def answer(body: bytes) -> Page:
        try:
            fields = parse_qs(
                body.decode("ascii"), strict_parsing=True, max_num_fields=MAX_FIELDS, encoding="ascii", errors="strict"
            )
        except (UnicodeDecodeError, ValueError):
            return _wrong("the body is no form")
        tokens = fields.get("logout_token", [])
        if len(tokens) != 1:
            return _wrong("the form has not exactly one logout_token")
        try:
            wrong = log_out(tokens[0])
        except TimeoutError:
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", b"")
        return _wrong(wrong) if wrong else _NOTHING

    return answer


def _wrong(what: str) -> Page:
    document = {"error": "invalid_request", "error_description": what}
    return Page(HTTPStatus.BAD_REQUEST, "application/json", json.dumps(document).encode())
