"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

_KEEPALIVE = 15.0  # seconds between comments, which keep the stream open
_BACKLOG = 1000  # most unread events of a stream; with more, it ends and the browser reconnects


class Events:
    """The events of a session, sent to every browser that listens."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    @property
    def listening(self) -> bool:
        """Whether a browser listens."""
        return bool(self._readers)

    def publish(self, name: str, data: Any) -> None:
        """Send an event to all browsers; `data` is a JSON value."""
        self._put(f"event: {name}\ndata: {json.dumps(data)}\n\n")

    def close(self) -> None:
        """End all streams, including those that are opened later."""
        self._closed = True
        self._put(None)

    async def stream(self) -> AsyncGenerator[str, None]:
        """Yield the events from now on, in the text format of the stream."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_BACKLOG + 1)
        self._readers.add(queue)
        try:
            yield ": listening\n\n"
            while not self._closed or not queue.empty():
                try:
                    text = await asyncio.wait_for(queue.get(), _KEEPALIVE)
                except asyncio.TimeoutError:
                    text = ": \n\n"
                if text is None:
                    return
                yield text
        finally:
            self._readers.discard(queue)

    def _put(self, text: str | None) -> None:
        for queue in list(self._readers):
            behind = queue.qsize() >= _BACKLOG
            if behind:
                self._readers.discard(queue)
            queue.put_nowait(None if behind else text)
