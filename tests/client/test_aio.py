"""The asynchronous client: the same volumes, many at once, servers that come and go."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing

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

from tests.conftest import ROOT, Server

MASK = ROOT / "examples" / "brain_mask.nii.gz"
SMALL = {"size": [32, 32, 32], "steps": 1}


def test_the_same_as_the_other_client(server: Server) -> None:
    asked = {"modality": "mri_t2", "seed": 3, "steps": 2}
    with Client(server.grpc) as client:
        one, offered = client.generate(MASK, **asked), client.info()

    async def ask() -> None:
        told: list[Progress] = []
        async with aio.Client(server.grpc) as client:
            other = await client.generate(MASK, on_progress=told.append, **asked)
            assert np.array_equal(one.image.dataobj, other.image.dataobj)
            assert other.report["sha256"] == one.report["sha256"]
            assert [progress.stage for progress in told][-1] == "done"
            assert await client.info() == offered
            assert (await client.check(MASK))["size"] == [96, 112, 96]
            mask = await client.mask(MASK, augment=True, seed=1)
            assert mask.shape == (96, 112, 96)

    asyncio.run(ask())


def test_errors_are_the_same(server: Server) -> None:
    async def ask() -> None:
        async with aio.Client(server.grpc) as client:
            with pytest.raises(InvalidRequest, match=r"^the variant is 'nope'; .* serves mini$"):
                await client.generate(variant="nope")
            with pytest.raises(InvalidRequest, match=r"^top_region: mini takes none"):
                await client.generate(top_region="chest")
            with pytest.raises(InvalidRequest, match=r"^modality: 'mri_t9' is not one of"):
                await client.generate(modality="mri_t9")
            with pytest.raises(TypeError, match="'stepps' is no argument; variant, "):
                await client.generate(stepps=3)
        async with aio.Client("127.0.0.1:9", retries=0) as client:
            with pytest.raises(ServerUnavailable, match=r"^no server answers at 127.0.0.1:9: "):
                await client.generate()
        async with aio.Client(server.grpc, timeout=0.5) as client:
            with pytest.raises(Timeout, match=r"did not finish the request in time$"):
                await client.generate(MASK, steps=1000)

    asyncio.run(ask())


def test_gather_is_bounded_and_keeps_what_fails_apart(server: Server) -> None:
    drawn = 0

    def requests():
        nonlocal drawn
        for seed in range(10):
            drawn += 1
            yield {**SMALL, "seed": seed, "modality": "mri_t9" if seed == 4 else "mri_t1"}

    async def ask() -> None:
        taken = {}
        async with (
            aio.Client(server.grpc) as client,
            aclosing(client.gather(requests(), limit=3)) as results,
        ):
            async for request, result in results:
                taken[request["seed"]] = result
                assert drawn - len(taken) <= 3
        assert taken.keys() == set(range(10))
        assert isinstance(taken.pop(4), InvalidRequest)
        assert all(isinstance(volume, Volume) for volume in taken.values())
        assert {seed: volume.report["seed"] for seed, volume in taken.items()} == {
            seed: seed for seed in taken
        }

    asyncio.run(ask())


def test_leaving_cancels_on_the_server(server: Server) -> None:
    async def ask() -> float:
        async with aio.Client(server.grpc) as client:
            many = ({"mask": MASK, "steps": 1000, "seed": seed} for seed in range(3))
            task = asyncio.create_task(anext(client.gather(many)))
            await asyncio.sleep(1.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            started = time.monotonic()
            await client.generate(**SMALL)
            return time.monotonic() - started

    assert asyncio.run(ask()) < 10  # three of 1000 steps would take minutes


def test_servers_share_and_one_that_dies_is_left_out(start_server: Callable[..., Server]) -> None:
    servers = [start_server(), start_server()]

    async def ask() -> None:
        made: list[Volume | MaisiError] = []
        async with aio.Client(",".join(server.grpc for server in servers)) as client:
            asked: Counter[str] = Counter()
            before = client._pool.servers
            async for _, result in client.gather({**SMALL, "seed": n} for n in range(40)):
                made.append(result)
                asked.update(one.url for one in before if one.pending)
                if len(made) == 12:
                    assert asked.keys() == {server.grpc for server in servers}
                    servers[0].die()
            dead, alive = (
                next(one for one in before if one.url == server.grpc) for server in servers
            )
            assert dead.failures and not alive.failures
        assert [result for result in made if isinstance(result, MaisiError)] == []
        assert len(made) == 40

    asyncio.run(ask())


@pytest.mark.slow
def test_a_thousand_requests_need_no_more_memory_than_a_hundred(server: Server) -> None:
    async def ask() -> None:
        process, held = psutil.Process(), []
        async with aio.Client(server.grpc) as client:
            count = 0
            async for _, result in client.gather({**SMALL, "seed": n} for n in range(1000)):
                assert isinstance(result, Volume)
                count += 1
                if count % 100 == 0:
                    held.append(process.memory_info().rss)
        assert count == 1000
        assert max(held[1:]) - held[0] < 20e6, held

    asyncio.run(ask())


def test_a_server_that_does_not_answer_is_left_out(
    start_server: Callable[..., Server], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maisi_client._transport.errors.LOOKUP_SECONDS", 1.0)
    frozen = start_server()
    frozen.process.send_signal(signal.SIGSTOP)  # who would start it again
    frozen.triton.suspend()
    try:

        async def ask() -> None:
            async with aio.Client(f"{frozen.grpc},{server.grpc}") as client:
                assert (await client.check(MASK, augment=True))["variant"] == "mini"

        asyncio.run(ask())
        with Client(f"{frozen.grpc},{server.grpc}") as client:
            assert client.check(MASK, augment=True)["variant"] == "mini"
        with (
            Client(frozen.grpc, retries=0) as client,
            pytest.raises(ServerUnavailable, match=f"^the server at {frozen.grpc} does not"),
        ):
            client.info()
    finally:
        frozen.triton.resume()
        frozen.process.send_signal(signal.SIGCONT)
