"""More than a server can do: who is refused, how fast, and who goes first."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time

import grpc
import numpy as np
import psutil
import pytest
from maisi_client import Client, InvalidRequest, ServerUnavailable, aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

SMALL = {"size": [32, 32, 32], "modality": "mri_t1", "seed": 3}
WAITING = 16  # of mini
REFUSED = r"overloaded: 17 requests are here, as many as may be; try again in \d+ s"


def message(steps: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mini.stream")
    for name, values in (("size", [32, 32, 32]), ("steps", [steps])):
        contents = pb.InferTensorContents(int_contents=values)
        request.inputs.add(name=name, datatype="INT32", shape=[len(values)], contents=contents)
    return request


async def asked(stub: rpc.GRPCInferenceServiceStub, steps: int) -> tuple[float, str]:
    """Send a request; return the seconds until its end, and its error."""
    started = time.monotonic()
    said = ""
    async for answer in stub.ModelStreamInfer(iter([message(steps)]), timeout=200):
        said = answer.error_message or said
    return time.monotonic() - started, said


async def flood(url: str, count: int, each: float) -> list[tuple[float, str]]:
    async with grpc.aio.insecure_channel(url) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(asked(stub, 20)))
            await asyncio.sleep(each)
        return await asyncio.gather(*tasks)


def resident(server) -> int:
    family = [server.triton, *server.triton.children()]
    return sum(process.memory_info().rss for process in family)


@pytest.mark.parametrize("each", [0.005, 0])
def test_ten_times_what_the_queue_holds(start_server, each):
    server = start_server()
    asyncio.run(flood(server.grpc, 2 * WAITING, 0.005))
    before = resident(server)
    answers = asyncio.run(flood(server.grpc, 10 * WAITING, each))
    refused = [seconds for seconds, said in answers if said]
    assert all(re.fullmatch(rf".*{REFUSED}", said) for _, said in answers if said)
    print(len(refused), sorted(refused)[::10], max(refused), statistics.median(refused), (resident(server)-before)/1e6)
