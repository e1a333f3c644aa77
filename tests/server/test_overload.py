"""More requests than a server can serve: the refusals, their time, and the order of the others."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import statistics
import time
from collections.abc import Callable

import grpc
import pytest
import tritonclient.grpc as triton
from maisi_client import Client, InvalidRequest, ServerUnavailable, Volume, aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from tests.conftest import PATIENCE, Server

SMALL = {"size": [32, 32, 32], "modality": "mri_t1", "seed": 3}
WAITING = 8  # of mini
REFUSED = (
    r"\[overloaded retry_after=(\d+)\] overloaded: 9 requests run or wait, which is the limit;"
    r" try again in \1 s"
)


def message(steps: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mini.stream")
    for name, values in (("size", [32, 32, 32]), ("steps", [steps])):
        contents = pb.InferTensorContents(int_contents=values)
        request.inputs.add(name=name, datatype="INT32", shape=[len(values)], contents=contents)
    return request


async def send(stub: rpc.GRPCInferenceServiceStub, steps: int) -> tuple[float, str]:
    """Send a request; return the seconds until its end, and its error."""
    started = time.monotonic()
    error = ""
    async for answer in stub.ModelStreamInfer(iter([message(steps)]), timeout=PATIENCE):
        error = answer.error_message or error
    return time.monotonic() - started, error


async def flood(url: str, count: int, pause: float) -> list[tuple[float, str]]:
    async with grpc.aio.insecure_channel(url) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(send(stub, 20)))
            await asyncio.sleep(pause)
        return await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def server(module_server: Callable[..., Server]) -> Server:
    return module_server()


def resident(server) -> int:
    family = [server.triton, *server.triton.children()]
    return sum(process.memory_info().rss for process in family)


def flow_calls(server) -> int:
    with triton.InferenceServerClient(server.grpc) as client:
        (flow,) = client.get_inference_statistics("mini.flow").model_stats
        return flow.execution_count


def quick(flood: tuple[float, float, float]) -> bool:
    """Return whether refusals came long before volumes; a flood has the seconds of both."""
    refused, _, served = flood
    return refused < 0.3 * served


@pytest.mark.parametrize("pause", [0.005, pytest.param(0, marks=pytest.mark.slow)])
def test_ten_times_what_the_queue_holds(server, pause):
    """`pause`: seconds between two requests."""
    with Client(server.grpc) as client:
        expected = client.generate(**SMALL, steps=2).report["sha256"]
        asyncio.run(flood(server.grpc, 2 * WAITING, 0.005))
        before, floods = resident(server), []
        while len(floods) < 2 or not (any(map(quick, floods)) or len(floods) == 5):
            answers = asyncio.run(flood(server.grpc, 10 * WAITING, pause))
            refused = [seconds for seconds, error in answers if error]
            served = [seconds for seconds, error in answers if not error]
            assert all(re.fullmatch(rf".*{REFUSED}", error) for _, error in answers if error)
            assert len(served) > WAITING  # the queue, and those at work
            assert len(refused) > WAITING
            floods.append((statistics.median(refused), max(refused), statistics.median(served)))
        grown = (resident(server) - before) / 1e6
        for refused, latest, served in floods:
            print(
                f"refused after {1e3 * refused:.0f} ms at the median, {1e3 * latest:.0f} at most;"
                f" served after {1e3 * served:.0f} ms; memory {grown:+.1f} MB"
            )
        assert any(map(quick, floods))  # others may have been delayed by the machine
        assert grown < 20
        assert client.generate(**SMALL, steps=2).report["sha256"] == expected
    assert "died" not in server.log


def starves_nobody(client: Client, alone: str) -> bool:
    """Return whether short requests, with the digest `alone`, pass a long one and it continues."""
    long = {**SMALL, "size": [96, 96, 96], "steps": 20}
    passing = []
    with contextlib.closing(client.stream(**long)) as events:
        for event in events:
            if isinstance(event, Volume):
                break
            if event.stage == "sampler" and len(passing) < 3:
                started = time.monotonic()
                assert client.generate(**SMALL, steps=4).report["sha256"] == alone
                passing.append(time.monotonic() - started)
    assert len(passing) == 3
    seconds = event.report["seconds"]
    print(f"passed in {passing} s, and it took {seconds}")
    passed = max(passing) < 0.5 * seconds["sampler"]
    return passed and 0.1 * sum(passing) < seconds["waiting"] < sum(passing)


def test_long_and_short_requests_do_not_starve_each_other(server):
    with Client(server.grpc) as client:
        for _ in range(2):
            alone = client.generate(**SMALL, steps=4).report["sha256"]
        # Again where a pause of the machine is in one of the requests.
        assert any(starves_nobody(client, alone) for _ in range(5))


def test_a_request_without_enough_time_is_refused_before_it_begins(server):
    short = {"size": [64, 64, 64], "steps": 120, "modality": "mri_t1", "seed": 3}
    # The longest with a known least time, so that a refusal arrives before its client's time-out
    # on a busy machine, too. It does not run to its end.
    long = {**short, "steps": 4 * short["steps"]}
    with Client(server.grpc, retries=0) as client:
        reports = [client.generate(**short).report for _ in range(2)]
        sampler = min(report["seconds"]["sampler"] for report in reports)
        outlook = client.check(**long)
        assert outlook["expected_wait_seconds"] == 0
        calls = flow_calls(server)
        with (
            Client(server.grpc, timeout=2 * sampler, retries=0) as hasty,
            pytest.raises(InvalidRequest, match=r"^timeout: .* try again with more") as refused,
        ):
            hasty.generate(**long)
        assert flow_calls(server) == calls
        # The least time that such a request took, by which the server refuses.
        least = float(re.search(r"takes about ([\d.]+) s", str(refused.value))[1])
        with contextlib.closing(client.stream(**long)) as events:
            next(events)
            assert client.check(**long)["expected_wait_seconds"] > 0.5 * least
            with (
                Client(server.grpc, timeout=1.3 * least, retries=0) as another,
                pytest.raises(ServerUnavailable, match=r"waits .* s for others") as refused,
            ):
                another.generate(**long)
        assert refused.value.kind == "overloaded"
        assert 0 < refused.value.retry_after <= math.ceil(least)


@pytest.mark.slow
def test_a_client_retries_at_the_time_in_the_refusal(start_server):
    server = start_server(None, "--max-waiting=1")

    async def crowd():
        async with aio.Client(server.grpc, retries=9) as client:
            requests = [{**SMALL, "steps": 30, "seed": seed} for seed in range(6)]
            return [result async for _, result in client.gather(requests, limit=6)]

    results = asyncio.run(crowd())
    assert all(isinstance(result, Volume) for result in results), results
    assert {volume.report["seed"] for volume in results} == set(range(6))
