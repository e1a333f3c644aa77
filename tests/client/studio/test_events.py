"""A stream of events lives while it is read, and ends where its reader has to reconnect."""

from __future__ import annotations

import asyncio

import pytest
from maisi_client._studio import events as module
from maisi_client._studio.events import Events


def test_a_reader_that_does_not_read_is_dropped() -> None:
    async def fall_behind() -> None:
        events = Events()
        stream, *readers = (events.stream() for _ in range(5))
        assert {await anext(one) for one in (stream, *readers)} == {": listening\n\n"}
        for number in range(module._BACKLOG + 1):
            events.publish("job", number)
            expected = f"event: job\ndata: {number}\n\n"
            assert {await anext(reader) for reader in readers} == {expected}
        assert len([text async for text in stream]) == module._BACKLOG
        assert events.listening
        events.close()
        assert [text for reader in readers async for text in reader] == []
        assert not events.listening
        assert [text async for text in events.stream()] == [": listening\n\n"]

    asyncio.run(fall_behind())


def test_a_silent_stream_has_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEPALIVE", 0.01)

    async def wait() -> None:
        stream = Events().stream()
        assert [await anext(stream) for _ in range(3)][1:] == [": \n\n"] * 2
        await stream.aclose()

    asyncio.run(wait())
