"""Spans of a gateway: one for each decision with its stages, under the agent's span, and sent by OTLP to a real receiver."""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from datetime import timedelta

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.observations import UNOBSERVED, Boundary, Count, Course, Timing
from stepgrant_gateway.tracing import Tracing, TracingSettings, begin_tracing
from stepgrant_gateway.web.metrics import Metrics

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TASK, STEP, INSTANCE = "01KAJ7RM00000000000000TASK", "01KAJ7RM00000000000000STEP", "01KAJ7RM000000000000000000"


def ms(count: float) -> timedelta:
    return timedelta(milliseconds=count)


def declared(**changes: object) -> Course:
    course = Course(Boundary.DECLARE, ms(10), TASK, STEP, "orders.get", decided=ms(11), recorded=ms(14))
    for name, value in changes.items():
        setattr(course, name, value)
    return course


class Traced:
    """A tracing whose spans stay here."""

    def __init__(self, *then: object) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider, *then)  # type: ignore[arg-type]

    def spans(self) -> dict[str, object]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def test_a_decision_is_one_span_with_its_stages_as_children():
    traced = Traced()

    traced.tracing.decided(declared(), "", ms(15))

    spans = traced.spans()
    whole = spans.pop("declare orders.get")
    assert {name: (span.end_time - span.start_time) // 1000 for name, span in spans.items()} == {
        "decide": 1000,
        "record": 3000,
        "deliver": 1000,
    }
    assert {span.parent.span_id for span in spans.values()} == {whole.context.span_id}
    assert (whole.end_time - whole.start_time) // 1000 == 5000
    assert dict(whole.attributes) == {
        "stepgrant.boundary": "declare",
        "stepgrant.outcome": "granted",
        "stepgrant.task.id": TASK,
        "gen_ai.tool.call.id": STEP,
        "gen_ai.tool.name": "orders.get",
    }


def test_a_denial_says_its_code_and_a_tool_that_nobody_knows_is_not_named():
    traced = Traced()

    traced.tracing.decided(declared(tool="", decided=None), "no_permit", ms(15))

    whole = traced.spans()["declare"]
    assert (whole.attributes["stepgrant.outcome"], whole.attributes["stepgrant.code"]) == ("denied", "no_permit")
    assert "gen_ai.tool.name" not in whole.attributes


@pytest.mark.parametrize(
    ("said", "adopted"),
    [(PARENT, True), ("00-" + "0" * 32 + "-b7ad6b7169203331-01", False), ("'; drop", False), (PARENT + "-x", False)],
)
def test_the_agents_traceparent_names_the_parent_and_a_bad_one_nothing(said, adopted):
    traced = Traced()

    def stream() -> None:
        traced.tracing.adopt((("tracestate", "x=y"), ("traceparent", said)))
        traced.tracing.decided(declared(), "", ms(15))
        traced.tracing.time(Timing.LEDGER_APPEND, ms(2))

    copy_context().run(stream)

    spans = traced.spans()
    parent = spans["declare orders.get"].parent
    assert (parent is not None and f"{parent.span_id:016x}" == "b7ad6b7169203331") == adopted
    assert spans["append"].parent is None
    assert spans["append"].end_time - spans["append"].start_time == 2_000_000


def test_of_an_agents_metadata_only_traceparent_is_taken():
    """AU-08: tracestate is free text, and would be sent on with every span."""
    traced = Traced()

    def stream() -> None:
        traced.tracing.adopt((("traceparent", PARENT), ("tracestate", "vendor=canary")))
        traced.tracing.decided(declared(), "", ms(15))

    copy_context().run(stream)

    assert "canary" not in str(traced.spans()["declare orders.get"].context.trace_state)


def test_what_is_heard_is_passed_on():
    metrics = Metrics()
    tracing = Traced(metrics).tracing

    tracing.decided(declared(), "", ms(15))
    tracing.count(Count.CALLER_DENIED)
    tracing.time(Timing.LEDGER_APPEND, ms(1))

    page = metrics.page().decode()
    assert 'stepgrant_decisions_total{boundary="declare",code="",outcome="granted"} 1.0\n' in page
    assert "stepgrant_callers_denied_total 1.0\n" in page
    assert "stepgrant_ledger_append_seconds_count 1.0\n" in page


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """What an OTLP collector hears."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    async def Export(self, request, context):  # noqa: N802 - OTLP's name
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_arrive_at_a_real_receiver_by_otlp(monkeypatch):
    receiver, server = Receiver(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    try:
        tracing = begin_tracing(TracingSettings(enabled=True), INSTANCE, UNOBSERVED)
        assert tracing is not None
        tracing.decided(declared(), "", ms(15))
        await asyncio.wait_for(tracing.close(), 20)
    finally:
        await server.stop(None)

    (sent,) = (spans for request in receiver.requests for spans in request.resource_spans)
    resource = {item.key: item.value.string_value for item in sent.resource.attributes}
    assert (resource["service.name"], resource["service.instance.id"]) == ("stepgrant-gateway", INSTANCE)
    names = {span.name for scope in sent.scope_spans for span in scope.spans}
    assert names == {"declare orders.get", "decide", "record", "deliver"}


def test_off_is_off_and_on_without_opentelemetry_says_what_to_install(monkeypatch):
    assert begin_tracing(TracingSettings(), INSTANCE, UNOBSERVED) is None

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"stepgrant-gateway\[otel\]"):
        begin_tracing(TracingSettings(enabled=True), INSTANCE, UNOBSERVED)
