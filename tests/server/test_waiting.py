"""A network's queue that strangers fill during a long run, and many checks at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

from bench import network_inputs
from tests.conftest import PATIENCE, TOKEN, Server
from tests.server import failing_flow
from tests.server.metrics import numbers
from tests.server.mini import last, sized, stream, volume
from tests.server.threads import later


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return failing_flow.write(tmp_path / "models")


@contextmanager
def full_queue(server: Server, go: Path) -> Iterator[None]:
    """Let strangers run the flow and fill its queue, of one request, until the file `go` exists."""
    pending = 'nv_inference_pending_request_count{model="mini.flow",version="1"}'
    with grpc.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(2) as pool:
        (flow,) = (
            network for network in network_inputs.of_server(client) if network.name == "mini.flow"
        )
        tensors, token = network_inputs.infer_inputs(flow.good(80)), {"maisi_token": TOKEN}

        def run() -> None:
            client.infer(flow.name, tensors, parameters=token)

        def wait(condition: Callable[[], bool]) -> None:
            end = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.05)

        try:
            pool.submit(run)
            wait(go.with_name("busy").exists)
            pool.submit(run)
            wait(lambda: numbers(server.metrics)[pending] == 1)
            with pytest.raises(grpc.InferenceServerException, match="maximum queue size"):
                run()
            yield
        finally:
            go.touch()


@pytest.mark.slow
def test_a_request_waits_for_a_networks_queue_until_its_time_or_a_cancellation(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository, "--max-waiting=1")
    go = repository / "mini.flow" / "1" / "go"
    cancelled = 'maisi_requests_total{outcome="cancelled",variant="mini"}'
    with grpc.InferenceServerClient(server.grpc) as patient, full_queue(server, go):
        started = time.monotonic()
        ordinary = later(patient.infer, "mini", sized(32), client_timeout=PATIENCE)
        with grpc.InferenceServerClient(server.grpc) as client:
            errors: list[Any] = []  # None for an answer
            client.start_stream(lambda result, error: errors.append(error))
            client.async_stream_infer("mini.stream", sized(32), timeout=2_000_000)
            eventually(lambda: errors[-1:] and errors[-1])
        assert "the request was not done within its 2 s" in str(errors[-1])
        eventually(lambda: numbers(server.metrics).get(cancelled) == 1)
        messages, another = stream(server, steps=1)
        messages.get(timeout=PATIENCE)
        another.stop_stream(cancel_requests=True)
        another.close()
        eventually(lambda: numbers(server.metrics).get(cancelled) == 2)
        time.sleep(max(0.0, 33 - (time.monotonic() - started)))  # above all time-outs there
        assert not ordinary.done()
        go.touch()
        assert ordinary.result(PATIENCE).as_numpy("image").shape == (32, 32, 32)


def test_a_request_that_waits_for_a_networks_queue_ends_with_the_server(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository, "--max-waiting=1", "--drain-seconds=1")
    sampling = 'maisi_requests_running{model="mini.sampler",variant="mini"}'
    with full_queue(server, repository / "mini.flow" / "1" / "go"):
        messages, client = stream(server, steps=1)
        messages.get(timeout=PATIENCE)
        ordinary = later(volume, server, steps=1)
        eventually(lambda: numbers(server.metrics).get(sampling) == 1)
        server.process.send_signal(signal.SIGTERM)
        assert "the server stopped before this volume was done" in str(last(messages))
        assert "the server stopped before this volume was done" in str(ordinary.exception(PATIENCE))
    client.close()
    assert server.process.wait(PATIENCE) == 0


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
