"""The asynchronous client: equal volumes, concurrent requests, servers that stop."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import psutil
import pytest
from maisi_client import (
    Client,
    InvalidRequest,
    MaisiError,
    Progress,
    ServerUnavailable,
    Timeout,
    Volume,
    aio,
)

from tests.client.server_metrics import cancelled_requests
from tests.conftest import PATIENCE, ROOT, Server

MASK = ROOT / "examples" / "brain_mask.nii.gz"
SMALL = {"size": [32, 32, 32], "steps": 1}


def test_the_same_as_the_other_client(server: Server) -> None:
    arguments = {"modality": "mri_t2", "seed": 3, "steps": 2}
    with Client(server.grpc) as client:
        one, variants = client.generate(MASK, **arguments), client.info()

    async def ask() -> None:
        events: list[Progress] = []
        async with aio.Client(server.grpc) as client:
            other = await client.generate(MASK, on_progress=events.append, **arguments)
            assert np.array_equal(one.image.dataobj, other.image.dataobj)
            assert other.report["sha256"] == one.report["sha256"]
            assert [progress.stage for progress in events][-1] == "done"
            assert await client.info() == variants
            assert (await client.check(MASK))["size"] == [96, 112, 96]
            mask = await client.mask(MASK, augment=True, seed=1)
            assert mask.shape == (96, 112, 96)

    asyncio.run(ask())


def test_errors_are_the_same(server: Server) -> None:
    async def ask() -> None:
        async with aio.Client(server.grpc) as client:
            with pytest.raises(InvalidRequest, match=r"^the variant is 'nope'; .* serves mini$"):
                await client.generate(variant="nope")
            with pytest.raises(InvalidRequest, match=r"^top_region: mini does not have this input"):
                await client.generate(top_region="chest")
            with pytest.raises(InvalidRequest, match=r"^modality: 'mri_t9' is not one of"):
                await client.generate(modality="mri_t9")
            with pytest.raises(TypeError, match="'stepps' is not an argument; variant, "):
                await client.generate(stepps=3)
        async with aio.Client("127.0.0.1:9", retries=0) as client:
            with pytest.raises(ServerUnavailable, match=r"^no server answers at 127.0.0.1:9: "):
                await client.generate()
        async with aio.Client(server.grpc, timeout=0.5) as client:
            said = r"did not finish the request in time$|was not done within its [0-9.]+ s$"
            with pytest.raises(Timeout, match=said):  # the client's sentence, or the server's
                await client.generate(MASK, steps=1000)

    asyncio.run(ask())


def test_gather_is_bounded_and_keeps_what_fails_apart(server: Server) -> None:
    taken_requests = 0

    def requests():
        nonlocal taken_requests
        for seed in range(10):
            taken_requests += 1
            yield {**SMALL, "seed": seed, "modality": "mri_t9" if seed == 4 else "mri_t1"}

    async def ask() -> None:
        results_by_seed = {}
        async with (
            aio.Client(server.grpc) as client,
            aclosing(client.gather(requests(), limit=3)) as results,
        ):
            async for request, result in results:
                results_by_seed[request["seed"]] = result
                assert taken_requests - len(results_by_seed) <= 3
        assert results_by_seed.keys() == set(range(10))
        assert isinstance(results_by_seed.pop(4), InvalidRequest)
        assert all(isinstance(volume, Volume) for volume in results_by_seed.values())
        assert {seed: volume.report["seed"] for seed, volume in results_by_seed.items()} == {
            seed: seed for seed in results_by_seed
        }

    asyncio.run(ask())


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_gather_refuses_a_limit_that_runs_nothing(limit: Any) -> None:
    async def ask() -> None:
        async with aio.Client("127.0.0.1:9") as client:
            async for _ in client.gather([SMALL], limit=limit):
                pass

    with pytest.raises(InvalidRequest, match=r"^limit is .*; a whole number of 1 or more is "):
        asyncio.run(ask())


def test_leaving_cancels_on_the_server(server: Server, eventually: Callable[..., None]) -> None:
    before = cancelled_requests(server)

    async def ask() -> None:
        started, everyone = set[int](), asyncio.Event()

        def request(seed: int) -> dict[str, Any]:
            def note(progress: Progress) -> None:
                started.add(seed)
                if len(started) == 3:
                    everyone.set()

            return {"mask": MASK, "steps": 1000, "seed": seed, "on_progress": note}

        async with aio.Client(server.grpc) as client:
            task = asyncio.create_task(anext(client.gather(map(request, range(3)))))
            await asyncio.wait_for(everyone.wait(), PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    eventually(lambda: cancelled_requests(server) >= before + 3)


def test_servers_share_and_one_that_dies_is_left_out(
    start_server: Callable[..., Server], server: Server
) -> None:
    servers = [start_server(), server]

    async def ask() -> None:
        outcomes: list[Volume | MaisiError] = []
        async with aio.Client(",".join(server.grpc for server in servers)) as client:
            urls: Counter[str] = Counter()
            before = client._pool.servers
            async for _, result in client.gather({**SMALL, "seed": n} for n in range(40)):
                outcomes.append(result)
                urls.update(one.url for one in before if one.pending)
                if len(outcomes) == 12:
                    assert urls.keys() == {server.grpc for server in servers}
                    servers[0].die()
            dead, alive = (
                next(one for one in before if one.url == server.grpc) for server in servers
            )
            assert dead.failures and not alive.failures
        assert [result for result in outcomes if isinstance(result, MaisiError)] == []
        assert len(outcomes) == 40

    asyncio.run(ask())


@pytest.mark.slow
def test_a_thousand_requests_need_no_more_memory_than_a_hundred(server: Server) -> None:
    async def ask() -> None:
        process, memory = psutil.Process(), []
        async with aio.Client(server.grpc) as client:
            count = 0
            async for _, result in client.gather({**SMALL, "seed": n} for n in range(1000)):
                assert isinstance(result, Volume)
                count += 1
                if count % 100 == 0:
                    memory.append(process.memory_info().rss)
        assert count == 1000
        assert max(memory[1:]) - memory[0] < 20e6, memory

    asyncio.run(ask())


def test_a_server_that_does_not_answer_is_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maisi_client._transport.errors.LOOKUP_SECONDS", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # connects, and reads nothing
        url = f"127.0.0.1:{frozen.getsockname()[1]}"

        async def ask() -> None:
            async with aio.Client(f"{url},{server.grpc}") as client:
                assert (await client.check(MASK, augment=True))["variant"] == "mini"

        asyncio.run(ask())
        with Client(f"{url},{server.grpc}") as client:
            assert client.check(MASK, augment=True)["variant"] == "mini"
        with (
            Client(url, retries=0) as client,
            pytest.raises(ServerUnavailable, match=f"^the server at {url} does not"),
        ):
            client.info()
