"""Spans of steps, where OpenTelemetry's API is installed (`stepgrant[otel]`); where it is not, nothing at all.

Name and attributes are those of the GenAI semantic conventions, `execute_tool {gen_ai.tool.name}`, as of semconv 1.41.0 (status
Development). Never arguments, results or messages of exceptions: not `gen_ai.tool.call.arguments`, not `gen_ai.tool.call.result`.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

TRACEPARENT: Final = "traceparent"
"""Metadata key of W3C Trace Context. `tracestate` and baggage are not sent: who set them decides what is in them."""


class StepSpan:
    """The span of one step, from its declaration to its report. `end` it once; more often is harmless."""

    __slots__ = ("_span", "_token")

    def __init__(self, tool: str, step_id: str) -> None:
        api = _trace_api()
        self._token: Any = None
        self._span: Any = None
        if api is not None:
            self._span = api.get_tracer("stepgrant").start_span(
                f"execute_tool {tool}",
                attributes={
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": tool,
                    "gen_ai.tool.type": "function",
                    "gen_ai.tool.call.id": step_id,
                },
            )

    def enter(self) -> None:
        """What is begun from here on, in this context, belongs to the step."""
        api = _trace_api()
        if api is not None and self._span is not None:
            from opentelemetry import context

            self._token = context.attach(api.set_span_in_context(self._span))

    def leave(self) -> None:
        """Takes `enter` back."""
        if self._token is not None:
            from opentelemetry import context

            context.detach(self._token)
            self._token = None

    def end(self, error_type: str = "") -> None:
        """The step is over. `error_type`: a stable code or a class name if it did not come out well, never a message."""
        if self._span is not None:
            if error_type:
                from opentelemetry.trace import StatusCode

                self._span.set_attribute("error.type", error_type)
                self._span.set_status(StatusCode.ERROR)
            self._span.end()
            self._span = None


def traceparent() -> tuple[tuple[str, str], ...]:
    """The metadata that names the span that this is called in, or none (W3C Trace Context, 3.2)."""
    api = _trace_api()
    if api is None:
        return ()
    current = api.get_current_span().get_span_context()
    if not current.is_valid:
        return ()
    return ((TRACEPARENT, f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"),)


@functools.cache
def _trace_api() -> ModuleType | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace
