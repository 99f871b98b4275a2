"""Spans of steps: the GenAI conventions' name and attributes, no values, and nothing at all without OpenTelemetry."""

from __future__ import annotations

import asyncio
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from stepgrant import spans
from stepgrant.spans import StepSpan, traceparent
from stepgrant.threads import BlockingStep

STEP = "01KAJ7RM00000000000000STEP"


@pytest.fixture
def finished(monkeypatch):
    """The spans that were made and ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter.get_finished_spans


@pytest.fixture
def without_opentelemetry(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    spans._trace_api.cache_clear()
    yield
    spans._trace_api.cache_clear()


def test_a_step_is_an_execute_tool_span_with_the_conventions_attributes(finished):
    StepSpan("orders.get", STEP).end()

    (span,) = finished()
    assert span.name == "execute_tool orders.get"
    assert span.kind is trace.SpanKind.INTERNAL
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "orders.get",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": STEP,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_step_that_did_not_come_out_well_says_its_code_and_no_more(finished):
    span = StepSpan("orders.get", STEP)
    span.end("no_permit")
    span.end("later")

    (span,) = finished()
    assert span.attributes["error.type"] == "no_permit"
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())


def test_what_begins_inside_belongs_to_the_step_and_what_begins_after_it_does_not(finished):
    step = StepSpan("orders.get", STEP)
    step.enter()
    inside = StepSpan("orders.search", STEP)
    said = traceparent()
    step.leave()
    after = traceparent()
    inside.end()
    step.end()

    child, parent = finished()
    assert child.parent.span_id == parent.context.span_id
    assert said == (
        (
            "traceparent",
            f"00-{parent.context.trace_id:032x}-{parent.context.span_id:016x}-{parent.context.trace_flags:02x}",
        ),
    )
    assert after == ()


async def test_what_begins_in_a_blocking_body_belongs_to_its_step_as_well(gateway, finished):
    async with gateway.client() as client, client.task("Refund") as task:

        def work():
            with BlockingStep(task.step("orders.get")):
                StepSpan("orders.search", STEP).end()
            assert traceparent() == ()

        await asyncio.to_thread(work)

    child, parent = finished()
    assert child.parent is not None
    assert child.parent.span_id == parent.context.span_id


def test_without_opentelemetry_there_is_nothing(without_opentelemetry):
    step = StepSpan("orders.get", STEP)
    step.enter()

    assert traceparent() == ()
    step.leave()
    step.end("failed")
