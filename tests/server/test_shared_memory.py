"""A client's file that shrinks ends tritonserver; it starts again, and requests are repeated."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client
from maisi_client._transport import dev_shm, shared

from tests.conftest import PATIENCE, SHM, Server

NAME = "maisi-client-0123456789abcdef"


@pytest.mark.slow
def test_a_file_that_shrinks_after_it_was_registered(
    start_server: Callable[..., Server], eventually: Callable[..., None]
) -> None:
    server = start_server()
    shape = [64, 64, 64]
    size = int(np.prod(shape))
    headers = {shared._KEY: dev_shm.key(server.grpc)}
    request = {"size": [32, 32, 32], "steps": 300, "seed": 5}
    with Client(server.grpc, retries=30) as client, ThreadPoolExecutor(1) as pool:
        before = client.generate(**request).report["sha256"]
        events = client.stream(**request)
        next(events)  # it runs
        rest = pool.submit(list, events)
        descriptor, memory = dev_shm.create(NAME, size)
        try:
            with grpc.InferenceServerClient(server.grpc) as other:
                other.register_system_shared_memory(NAME, f"/{NAME}", size, headers=headers)
                os.ftruncate(descriptor, 0)
                mask = grpc.InferInput("mask", shape, "UINT8")
                mask.set_shared_memory(NAME, size)
                with pytest.raises(grpc.InferenceServerException):
                    other.infer("mini", [mask], client_timeout=PATIENCE)
        finally:
            memory.close()
            os.close(descriptor)
            (SHM / NAME).unlink(missing_ok=True)
        assert rest.result(PATIENCE)[-1].report["sha256"] == before  # it was sent again
    eventually(lambda: "tritonserver serves again" in server.log)
    assert "tritonserver ended by itself with status -7; starting" in server.log  # SIGBUS
