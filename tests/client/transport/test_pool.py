"""The state of a client's servers after failures and successes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from maisi_client import Client, ServerUnavailable, aio
from maisi_client._transport.pool import Pool, PooledServer

from tests.client.fake_server import REPORT, fake_server, message, volume

Ask = Callable[[str, str], PooledServer[Any]]


def threaded(url: str, method: str) -> PooledServer[Any]:
    with Client(url) as client:
        getattr(client, method)(size=[3, 4, 5])
        return client._pool.servers[0]


def asynchronous(url: str, method: str) -> PooledServer[Any]:
    async def run() -> PooledServer[Any]:
        async with aio.Client(url) as client:
            await getattr(client, method)(size=[3, 4, 5])
            return client._pool.servers[0]

    return asyncio.run(run())


@pytest.mark.parametrize("ask", [threaded, asynchronous])
@pytest.mark.parametrize("method", ["generate", "mask"])
def test_a_success_ends_the_failures_of_a_server(
    monkeypatch: pytest.MonkeyPatch, ask: Ask, method: str
) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.05)

    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if len(requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        if method == "generate":
            yield volume(request)
        else:
            yield message(used_mask=np.ones((3, 4, 5), np.uint8), report=json.dumps(REPORT))
        yield message(final=True)

    with fake_server(answer) as (url, requests):
        server = ask(url, method)
    assert len(requests) == 3
    assert (server.failures, server.rests_until, server.pending) == (0, 0.0, 0)


def test_a_request_from_before_a_failure_does_not_end_the_rest() -> None:
    pool = Pool("a:1", lambda url: url)
    with pool.server() as server, pytest.raises(ServerUnavailable), pool.server():
        raise ServerUnavailable("full", "overloaded", 900.0)
    assert server.failures == 1 and server.rests_until > time.monotonic() + 800
    with pool.server():
        pass
    assert (server.failures, server.rests_until) == (0, 0.0)
