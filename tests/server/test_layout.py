"""What tritonserver and its models' processes are started with, and what it keeps of messages."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc

from bench import watch
from server import layout


def test_the_malloc_of_tritonserver_is_not_the_models(server):
    assert server.triton.environ().items() >= layout.MALLOC.items()
    stubs = [child for child in server.triton.children() if len(child.cmdline()) > 1]
    assert len(stubs) > 5
    assert not any(layout.MALLOC.keys() & stub.environ().keys() for stub in stubs)


def test_tritonserver_gives_back_what_large_messages_took(server, eventually):
    mask = grpc.InferInput("mask", [256, 256, 256], "UINT8")
    mask.set_data_from_numpy(np.zeros((256, 256, 256), np.uint8))

    def refused(number):
        with (
            grpc.InferenceServerClient(server.grpc) as client,
            pytest.raises(grpc.InferenceServerException, match="at most 8388608"),
        ):
            client.infer("mini", [mask])

    before = watch.private(server.triton.pid)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(refused, range(8)))
    eventually(lambda: watch.private(server.triton.pid) < before + 32e6, 5)
