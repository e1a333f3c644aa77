"""A network's queue that strangers fill behind a long run, and a crowd of checks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

from bench import networks
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
    """Let strangers run the flow, and fill its queue, until `go` lies there."""
    with grpc.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(8) as pool:
        (flow,) = (one for one in networks.networks(client) if one.name == "mini.flow")
        tensors, token = networks.tensors(flow.good(80)), {"maisi_token": TOKEN}
        strangers: list[Future[Any]] = []
        try:
            end = time.monotonic() + PATIENCE
            while not any(stranger.done() for stranger in strangers):
                assert time.monotonic() < end
                strangers.append(pool.submit(client.infer, flow.name, tensors, parameters=token))
                time.sleep(0.3)
            (refused,) = (stranger for stranger in strangers if stranger.done())
            assert "maximum queue size" in str(refused.exception())
            yield
        finally:
            go.touch()


@pytest.mark.slow
def test_a_request_waits_for_a_networks_queue_as_long_as_it_is_wanted(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository, "--max-waiting=1")
    go = repository / "mini.flow" / "1" / "go"
    cancelled = 'maisi_requests_total{outcome="cancelled",variant="mini"}'
    with grpc.InferenceServerClient(server.grpc) as patient, full_queue(server, go):
        started = time.monotonic()
        ordinary = later(patient.infer, "mini", sized(32), client_timeout=PATIENCE)
        with grpc.InferenceServerClient(server.grpc) as client:
            said: list[Any] = []
            client.start_stream(lambda result, error: said.append(error))
            client.async_stream_infer("mini.stream", sized(32), timeout=2_000_000)
            eventually(lambda: said[-1:] and said[-1])
        assert "the request was not done within its 2 s" in str(said[-1])
        assert numbers(server.metrics)[cancelled] == 1
        messages, another = stream(server, steps=1)
        messages.get(timeout=PATIENCE)
        another.stop_stream(cancel_requests=True)
        another.close()
        eventually(lambda: numbers(server.metrics)[cancelled] == 2)
        time.sleep(max(0.0, 33 - (time.monotonic() - started)))  # longer than any fixed patience
        assert not ordinary.done()
        go.touch()
        assert ordinary.result(PATIENCE).as_numpy("image").shape == (32, 32, 32)


def test_a_request_that_waits_for_a_networks_queue_ends_with_the_server(
    start_server: Callable[..., Server], repository: Path
) -> None:
    server = start_server(repository, "--max-waiting=1", "--drain-seconds=1")
    with full_queue(server, repository / "mini.flow" / "1" / "go"):
        messages, client = stream(server, steps=1)
        messages.get(timeout=PATIENCE)
        ordinary = later(volume, server, steps=1)
        time.sleep(1)
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
    check = networks.tensors({"mask": mask, "check": np.array([True])})
    process: psutil.Process = server.stub("mini.stream")
    with Client(server.grpc) as client, grpc.InferenceServerClient(server.grpc) as crowd:
        client.check(image)
        threads = process.num_threads()
        said: list[Any] = []
        crowd.start_stream(lambda result, error: said.append(error))
        most = 0
        for _ in range(40):
            crowd.async_stream_infer("mini.stream", check)
        while len(said) < 40:
            most = max(most, process.num_threads())
            time.sleep(0.002)
        assert most <= threads + 2 + 1
        refused = [error for error in said if error]
        assert 0 < len(refused) < 40
        for error in refused:
            assert "overloaded: as many checks as may be are here; try again in 3 s" in str(error)
        assert client.check(image)["size"] == [160, 160, 160]  # there is room again
