"""Spans of a request's stages, exported by OTLP where the server has a trace endpoint.

They continue the trace of the caller, by the header `traceparent` of W3C's Trace Context
(https://www.w3.org/TR/trace-context/#traceparent-header), which Triton gives to models as a
parameter of the request. Without a trace endpoint OpenTelemetry is not imported.
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

ENV = "MAISI_TRACE_URL"  # as server/settings.py has it; empty: no spans
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
    """Return the caller that a `traceparent` names; None for what is no valid one.

    A version after 00 may have further fields, but ff is invalid.
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
    """Return the caller of a request of Triton; None where it has no valid `traceparent`."""
    try:
        parameters = json.loads(request.parameters() or "{}")
    except ValueError:  # a header with bytes that are no text
        return None
    # HTTP keeps the case of the name.
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

    # A request is recorded where its caller is. OTEL_SERVICE_NAME is the server's, for all models.
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    _processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url))
    provider.add_span_processor(_processor)
    _tracer = provider.get_tracer("maisi", VERSION)


def stop() -> None:
    """Export the spans that are left."""
    if _processor is not None:
        # It takes up to 30 s where nobody answers, longer than Triton has to end.
        thread = threading.Thread(target=_processor.shutdown, daemon=True)
        thread.start()
        thread.join(_LAST_EXPORT)


@contextmanager
def continued(request: Any) -> Iterator[None]:
    """Make the spans of the block children of the request's span.

    That is Triton's own where it has one, else the caller's.
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
    """Record the block as a span, below the span of the blocks around it; an error ends it, too."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes, record_exception=False):
        yield
