"""The bank: AgentDojo's own tool functions over HTTP, each call made under a grant or not at all.

The run's orchestrator sets and takes the environment by lines of JSON on standard input and output; the agent has
only the HTTP side.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from decimal import Decimal
from typing import Any

import uvicorn
from benchmark import Bank, Benchmark

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def plain(value: Any) -> Any:
    """Verified arguments as the tool functions take them: numbers as int or float."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
