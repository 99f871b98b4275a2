"""Who wants to hear of changes of an identity; safe to use from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Subscribers:
    """Callbacks of one source. They are called without any lock held, in the thread that noticed the change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next = 0

    def add(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Adds one and returns what removes it, as often as one likes."""
        with self._lock:
            self._next += 1
            number = self._next
            self._callbacks[number] = callback

        def remove() -> None:
            with self._lock:
                self._callbacks.pop(number, None)

        return remove

    def notify(self) -> None:
        """Calls each of them; what one raises is logged and keeps no other from hearing."""
        with self._lock:
            callbacks = tuple(self._callbacks.values())
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - one subscriber must not keep the others from hearing
                _log.exception("a subscriber to identity changes failed")
