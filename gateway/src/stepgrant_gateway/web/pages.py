"""What the HTTP listener serves: metrics, whether the process is alive, and whether it can do its work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final, Protocol

from stepgrant_gateway.web.listener import Page, Pages
from stepgrant_gateway.web.metrics import CONTENT_TYPE

STALL: Final = timedelta(seconds=5)
"""A loop that has not looked at its own health for so long is stuck: what it said last is not believed any more."""


class Condition(Protocol):
    """How the gateway was when it last looked (`health.Condition`)."""

    @property
    def at(self) -> timedelta:
        """When that was, by the monotonic clock."""

    @property
    def troubles(self) -> Mapping[str, str]:
        """By name of the check: why the gateway cannot do its work."""


def pages(metrics: Callable[[], bytes], latest: Callable[[], Condition], monotonic: Callable[[], timedelta]) -> Pages:
    """The pages by path: `/metrics`, `/healthz` and `/readyz`."""

    def age() -> timedelta:
        return monotonic() - latest().at

    def alive() -> Page:
        ago = age()
        return _json(ago <= STALL, {"alive": ago <= STALL, "looked_seconds_ago": round(ago.total_seconds(), 3)})

    def ready() -> Page:
        troubles = dict(latest().troubles)
        ago = age()
        if ago > STALL:
            troubles["event_loop"] = f"has not turned for {ago.total_seconds():.1f} s"
        return _json(not troubles, {"ready": not troubles, "troubles": troubles})

    return {
        "/metrics": lambda: Page(HTTPStatus.OK, CONTENT_TYPE, metrics()),
        "/healthz": alive,
        "/readyz": ready,
    }


def _json(good: bool, document: Mapping[str, Any]) -> Page:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status, "application/json", json.dumps(document).encode() + b"\n")
