"""A receiver of spans by OTLP/HTTP, in protobuf as Python sends them or in JSON as Triton does."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span; ids in hexadecimal, times in seconds since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Receiver:
    """The spans that have come so far, and the endpoint that takes them."""

    def __init__(self, port: int) -> None:
        self.spans: list[Span] = []
        self.endpoint = f"http://127.0.0.1:{port}"

    def trace(self, trace_id: str) -> dict[str, Span]:
        """Return the spans of a trace by their names, the first of each."""
        spans = [span for span in self.spans if span.trace_id == trace_id]
        return {span.name: span for span in sorted(spans, key=lambda span: -span.start)}


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Receive spans at a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            as_json = "json" in self.headers["Content-Type"]
            received.spans += _of_json(json.loads(body)) if as_json else _of_protobuf(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _of_json(request: dict[str, Any]) -> list[Span]:
    return [
        Span(
            span["name"],
            span["traceId"],
            span["spanId"],
            span.get("parentSpanId", ""),
            int(span["startTimeUnixNano"]) / 1e9,
            int(span["endTimeUnixNano"]) / 1e9,
        )
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def _of_protobuf(body: bytes) -> list[Span]:
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
        )
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
