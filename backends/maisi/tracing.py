"""Export spans of a request's stages by OTLP, if the server has a trace endpoint.

The spans continue the trace of the caller, from the header `traceparent` of W3C's Trace Context
(https://www.w3.org/TR/trace-context/#traceparent-header). Triton passes it to models as a parameter
of the request. Without a trace endpoint, OpenTelemetry is not imported.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import VERSION

ENV = "MAISI_TRACE_URL"  # the same as in server/settings.py; empty: no spans
_HEADER = "traceparent"
_FIELDS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1  # bit of the flags
_LAST_EXPORT = 2.0  # seconds for the last spans of a process that ends

_tracer: Any = None
_processor: Any = None


@dataclass(frozen=True)
class Caller:
    """The span that a request comes from: its ids in hexadecimal, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool


def parse(traceparent: Any) -> Caller | None:
    """Return the caller in a `traceparent`; None if it is not valid.

    A version after 00 may have further fields. The version ff is invalid.
    """
    fields = _FIELDS.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if fields is None:
        return None
    version, trace_id, span_id, flags, rest = fields.groups()
    invalid = version == "ff" or (version == "00" and rest)
    if invalid or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Caller(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def caller(request: Any) -> Caller | None:
    """Return the caller of a Triton request; None without a valid `traceparent`."""
    try:
        parameters = json.loads(request.parameters() or "{}")
    except ValueError:  # a header with bytes that are not text
        return None
    # With HTTP, the name keeps its case.
    headers = (value for name, value in parameters.items() if name.lower() == _HEADER)
    return parse(next(headers, None))


def start() -> None:
    """Export this process's spans to the URL in the environment; do nothing without one."""
    global _tracer, _processor
    if not (url := os.environ.get(ENV)):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    # A request is recorded if its caller is. OTEL_SERVICE_NAME is that of the server.
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    _processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url))
    provider.add_span_processor(_processor)
    _tracer = provider.get_tracer("maisi", VERSION)


def stop() -> None:
    """Export the remaining spans."""
    if _processor is not None:
        # Without an answer, the export takes up to 30 s, longer than Triton waits for a model.
        thread = threading.Thread(target=_processor.shutdown, daemon=True)
        thread.start()
        thread.join(_LAST_EXPORT)


@contextmanager
def continued(request: Any) -> Iterator[None]:
    """Make the spans of the block children of the request's span.

    The request's span is that of Triton if there is one, otherwise that of the caller.
    """
    parent = None if _tracer is None else caller(request)
    if parent is None or not parent.sampled:
        yield
        return
    from opentelemetry import context, trace

    triton = json.loads(request.trace().get_context() or "{}").get(_HEADER)
    parent = parse(triton) or parent
    span_context = trace.SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), True, trace.TraceFlags(_SAMPLED)
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span_context)))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """Record the block as a child of the enclosing span; an error also ends the span."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes, record_exception=False):
        yield
