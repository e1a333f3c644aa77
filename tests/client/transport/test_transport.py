"""Servers that misbehave on the wire, one behaviour a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import maisi_client
import numpy as np
import pytest
from maisi_client import Client, Progress, ServerError, ServerUnavailable, Timeout, Volume
from tritonclient.grpc import service_pb2 as pb

from tests.client.fake_server import contents, fake_server, message, progress, volume
from tests.conftest import PATIENCE


def test_progress_then_the_volume() -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield progress(0.25)
        yield progress(0.5)
        yield volume(request)
        yield message(final=True)

    with fake_server(answer) as (url, requests), Client(url) as client:
        *steps, last = client.stream(
            size=[3, 4, 5],
            spacing=[1, 2, 3],
            seed=9,
            modality="mri_t1",
            steps=4,
            guidance=1.5,
            guidance_interval=(0.25, 1),
        )
    assert steps == [Progress("sampler", 0.25), Progress("sampler", 0.5), Progress("done", 1.0)]
    assert isinstance(last, Volume)
    assert last.report["seed"] == 9
    assert last.image.header.get_zooms() == (1, 2, 3)
    assert np.allclose(last.image.affine @ [1, 1.5, 2, 1], [0, 0, 0, 1])
    assert b"SYNTHETIC" in last.image.header["descrip"].item()
    tensors = contents(requests[0])
    assert requests[0].model_name == "mini.stream"
    scalars = {"seed", "modality", "steps", "guidance", "guidance_interval"}
    assert set(tensors) == {"size", "spacing", *scalars}
    assert np.frombuffer(tensors["size"], np.int32).tolist() == [3, 4, 5]
    assert np.frombuffer(tensors["spacing"], np.float32).tolist() == [1, 2, 3]
    assert np.frombuffer(tensors["guidance"], np.float32).tolist() == [1.5]
    assert np.frombuffer(tensors["guidance_interval"], np.float32).tolist() == [0.25, 1]


def test_unavailable_is_tried_again_with_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.05)
    tries: list[float] = []

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        tries.append(time.monotonic())
        if len(tries) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        yield volume(request)
        yield message(final=True)

    with fake_server(answer) as (url, requests), Client(url, retries=3) as client:
        client.generate(size=[3, 4, 5])
    assert len({contents(request)["seed"] for request in requests}) == 1
    assert len(tries) == 3
    assert tries[1] - tries[0] >= 0.025
    assert tries[2] - tries[1] >= 0.05


def test_retries_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        yield

    with (
        fake_server(answer) as (url, requests),
        Client(url, retries=2) as client,
        pytest.raises(ServerUnavailable, match="not available: Exceeds maximum queue size"),
    ):
        client.generate(size=[3, 4, 5])
    assert len(requests) == 3


def test_work_that_a_server_left_unfinished_is_sent_again_as_it_was() -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield progress(0.5)
        context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    with (
        fake_server(answer) as (url, requests),
        Client(url, retries=2) as client,
        pytest.raises(ServerUnavailable, match="was lost: going down"),
    ):
        client.generate(size=[3, 4, 5])
    assert len(requests) == 3
    assert requests[0].raw_input_contents == requests[2].raw_input_contents  # the seed, too


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"timeout": 5}, "did not finish the request in time"),
        ({"timeout": PATIENCE, "idle_timeout": 0.4}, r"sent nothing for 0\.4 s"),
    ],
)
def test_a_silent_server_is_left_and_its_request_cancelled(
    limits: dict[str, float], sentence: str
) -> None:
    cancelled = threading.Event()

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        yield progress(0.5)
        cancelled.wait(2 * PATIENCE)  # longer than the test waits

    with fake_server(answer) as (url, _), Client(url, **limits) as client:  # type: ignore[arg-type]
        started = time.monotonic()
        with pytest.raises(Timeout, match=sentence):
            client.generate(size=[3, 4, 5])
        assert time.monotonic() - started >= min(limits.values())
        assert cancelled.wait(PATIENCE)


def test_waiting_in_the_queue_is_not_silence() -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        time.sleep(0.8)
        everything = volume(request)  # in one message, so that no other can be late
        everything.infer_response.parameters["triton_final_response"].bool_param = True
        yield everything

    with fake_server(answer) as (url, _), Client(url, idle_timeout=0.3) as client:
        client.generate(size=[3, 4, 5])


def test_leaving_the_stream_cancels_the_request() -> None:
    cancelled = threading.Event()

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        while context.is_active():
            yield progress(0.5)
            time.sleep(0.02)

    with fake_server(answer) as (url, _), Client(url) as client:
        for _ in client.stream(size=[3, 4, 5]):
            assert not cancelled.is_set()
            break
        assert cancelled.wait(PATIENCE)


def test_an_end_without_a_volume_is_an_error() -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield progress(0.5)
        yield message(final=True)

    with (
        fake_server(answer) as (url, _),
        Client(url) as client,
        pytest.raises(ServerError, match="ended without a volume"),
    ):
        client.generate(size=[3, 4, 5])


def test_every_error_is_documented() -> None:
    tree = maisi_client.MaisiError.__doc__ or ""
    public = [getattr(maisi_client, name) for name in maisi_client.__all__]
    errors = [one for one in public if isinstance(one, type) and issubclass(one, Exception)]
    assert len(errors) > 3
    for error in errors:
        assert issubclass(error, maisi_client.MaisiError)
        assert error.__name__ in tree.split()
