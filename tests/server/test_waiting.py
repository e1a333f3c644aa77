"""Many checks at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import tritonclient.grpc as grpc
from maisi_client import Client

from bench import network_inputs
from tests.conftest import Server


def test_a_crowd_of_checks_has_few_threads_and_is_refused_in_a_sentence(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(None, "--max-waiting=2")
    mask = np.full((160, 160, 160), 22, np.uint8)
    image = nib.Nifti1Image(mask, np.eye(4))
    check = network_inputs.infer_inputs({"mask": mask, "check": np.array([True])})
    process: psutil.Process = server.stub("mini.stream")
    with Client(server.grpc) as client, grpc.InferenceServerClient(server.grpc) as crowd:
        client.check(image)
        threads = process.num_threads()
        errors: list[Any] = []  # None for an answer
        crowd.start_stream(lambda result, error: errors.append(error))
        most = 0
        for _ in range(40):
            crowd.async_stream_infer("mini.stream", check)
        while len(errors) < 40:
            most = max(most, process.num_threads())
            time.sleep(0.002)
        assert most <= threads + 2 + 1
        refusals = [error for error in errors if error]
        assert 0 < len(refusals) < 40
        for error in refusals:
            assert "overloaded: the limit of concurrent checks is reached; try again in 3 s" in str(
                error
            )
        assert client.check(image)["size"] == [160, 160, 160]  # none runs any more
