"""Writing JSON text over and over: the C encoder of the standard library, made once and not for each value."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any


def json_writer(
    *, sort_keys: bool = False, ensure_ascii: bool = True, default: Callable[[Any], Any] | None = None
) -> Callable[[Any], str]:
    """What writes values as `json.JSONEncoder` does, without spaces and without NaN; a value that holds itself is refused.

    It raises what that encoder raises, but RecursionError for a value that holds itself.
    """
    whole = json.JSONEncoder(
        sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False, default=default
    )
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return whole.encode
    quote = encoder.encode_basestring_ascii if ensure_ascii else encoder.encode_basestring
    # `JSONEncoder.encode` makes this object anew each time, which takes longer than to write a small document.
    write = make(None, whole.default, quote, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(write(value, 0))
