"""Durations as policy directories write them: `30s`, `15m`, `1h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

MAX_DURATION: Final = timedelta(days=366)
DURATION_FORM: Final = "a whole number above 0 and a unit, s, m, h or d: 30s, 15m, 1h"

_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def parse_duration(text: str) -> timedelta | None:
    """The span that `text` is, or None if it is none: not DURATION_FORM, or longer than MAX_DURATION."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) * _UNITS[match[2]] > MAX_DURATION:
        return None
    return int(match[1]) * _UNITS[match[2]]
