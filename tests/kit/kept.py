"""What a program keeps: the objects that some of its parts reach, by type."""

from __future__ import annotations

import asyncio
import gc
import types
from collections import Counter
from collections.abc import Iterable
from contextvars import Context

_CODE = types.ModuleType | type | types.CodeType | types.BuiltinFunctionType | asyncio.AbstractEventLoop | Context
"""What leads to everything that there is: modules, classes, the loop."""


def kept(roots: Iterable[object], without: Iterable[object] = ()) -> Counter[str]:
    """Objects that `roots` reach, but for what only `without` do; numbers and texts, which Python shares, do not count."""
    gc.collect()
    seen, waiting = {id(other) for other in without}, list(roots)
    counts: Counter[str] = Counter()
    while waiting:
        one = waiting.pop()
        if isinstance(one, _CODE) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, types.FunctionType):
            waiting += [*(one.__closure__ or ()), *(one.__defaults__ or ())]
            continue
        if not isinstance(one, int | float | str | bytes | None):
            counts[f"{type(one).__module__}.{type(one).__qualname__}"] += 1
        waiting += gc.get_referents(one)
    return counts
