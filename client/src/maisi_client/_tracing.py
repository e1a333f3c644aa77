"""The trace context of a request: W3C's header `traceparent`."""

from __future__ import annotations

import logging
import re
import sys

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_log = logging.getLogger("maisi_client")


def traceparent(argument: object) -> str | None:
    """Return the header for a request: the caller's argument, else that of the active span.

    The result is None if there is neither, the argument is not a valid header, or the active span
    is not recorded.
    """
    if argument is None:
        return _of_active_span()
    if isinstance(argument, str) and _TRACEPARENT.fullmatch(argument):
        return argument
    _log.warning("traceparent %r is not a W3C trace context; it is not sent", argument)
    return None


def _of_active_span() -> str | None:
    # If there is an active span, the program has imported OpenTelemetry.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
