"""Spans of decisions and of the ledger, by OpenTelemetry; off unless `tracing.enabled`, and without cost then.

Where spans go, how many are kept and what the service is called say the standard OTEL_* variables. No argument, parameter or
token is in a span. An agent's `traceparent` names the parent of its decisions' spans, and has no other effect; whoever does
not want agents to choose what is sampled sets OTEL_TRACES_SAMPLER to one that is not parent-based.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.observations import UNOBSERVED, Count, Course, Timing
from stepgrant_gateway.core.ports import Observer
from stepgrant_gateway.core.settings import Section, read_flag, setting

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE: Final = "stepgrant-gateway"
FLUSH: Final = 2.0
"""Seconds that spans get to leave at the end: a collector that is away must not hold up a gateway that stops."""
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings(Section):
    """Whether spans are sent."""

    enabled: bool = setting(
        "True: send OpenTelemetry spans by OTLP/gRPC, as the OTEL_* variables say. Needs `stepgrant-gateway[otel]`.",
        read_flag,
        False,
    )


class Tracing:
    """`Observer` that makes spans of what it hears, and passes it on."""

    def __init__(self, provider: TracerProvider, then: Observer = UNOBSERVED) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._then = then
        self._tracer = provider.get_tracer("stepgrant_gateway")
        self._propagator = TraceContextTextMapPropagator()

    def adopt(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """From here on, in this context, spans belong to the one that `traceparent` names; nothing else of it is read."""
        from opentelemetry import context

        said = next((value for key, value in metadata if key == "traceparent" and isinstance(value, str)), None)
        if said is not None:
            context.attach(self._propagator.extract({"traceparent": said}, context.Context()))

    def decided(self, course: Course, code: str, answered: timedelta) -> None:
        """See `Observer`."""
        self._then.decided(course, code, answered)
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        now = time.time_ns()

        def at(moment: timedelta) -> int:
            return now - (answered - moment) // _MICROSECOND * 1000

        attributes = {"stepgrant.boundary": course.boundary.value, "stepgrant.outcome": "denied" if code else "granted"}
        attributes |= {
            name: value
            for name, value in (
                ("stepgrant.task.id", course.task_id),
                ("gen_ai.tool.call.id", course.step_id),
                ("gen_ai.tool.name", course.tool),
                ("stepgrant.code", code),
            )
            if value
        }
        name = f"{course.boundary.value} {course.tool}".strip()
        span = self._tracer.start_span(name, kind=SpanKind.SERVER, attributes=attributes, start_time=at(course.began))
        inside = set_span_in_context(span)
        begun = course.began
        for stage, over in (("decide", course.decided), ("record", course.recorded), ("deliver", answered)):
            if over is not None:
                self._tracer.start_span(stage, inside, start_time=at(begun)).end(at(over))
                begun = over
        if code == "unrecorded":
            span.set_status(StatusCode.ERROR)
        span.end(now)

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        """See `Observer`: it has no length, so no span."""
        self._then.count(what, label, by)

    def time(self, what: Timing, took: timedelta) -> None:
        """See `Observer`. An append is of many tasks at once, so its span has no parent."""
        self._then.time(what, took)
        if what is Timing.LEDGER_APPEND:
            from opentelemetry.context import Context

            now = time.time_ns()
            self._tracer.start_span("append", Context(), start_time=now - took // _MICROSECOND * 1000).end(now)

    async def close(self) -> None:
        """Lets the last spans go, within FLUSH."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH)


def begin_tracing(settings: TracingSettings, instance_id: str, then: Observer) -> Tracing | None:
    """What sends spans by OTLP, or None.

    Raises:
        ConfigError: it is wanted, and OpenTelemetry is not installed.
    """
    if not settings.enabled:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError("tracing.enabled needs OpenTelemetry: pip install 'stepgrant-gateway[otel]'") from error
    resource: dict[str, Any] = {"service.instance.id": instance_id}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = SERVICE
    provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider, then)
