"""The mini variant through restarts, stops and deaths of the server's processes."""

from __future__ import annotations

import json
import queue
import re
import signal
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

SECONDS_TO_ERROR = 10


def tensors(seed=5, steps=2, masked=False):
    mask = np.zeros((40, 33, 35), np.uint8)
    mask[8:30, 6:28, 9:29] = 22
    values = {
        "seed": (np.array([seed], np.int64), "INT64"),
        "steps": (np.array([steps], np.int32), "INT32"),
        **(
            {"mask": (mask, "UINT8")}
            if masked
            else {"size": (np.array([40, 33, 35], np.int32), "INT32")}
        ),
    }
    made = []
    for name, (array, kind) in values.items():
        made.append(grpc.InferInput(name, list(array.shape), kind))
        made[-1].set_data_from_numpy(array)
    return made


def volume(server, **request):
    with grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer("mini", tensors(**request), client_timeout=200)
        report = json.loads(result.as_numpy("report").tobytes())
        return result.as_numpy("image"), report


def later(function, *args, **kwargs):
    future = Future()

    def run():
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def stream(server, **request):
    """Start a streamed request; returns its queue of results and errors, and its client."""
    messages = queue.Queue()
    client = grpc.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: messages.put(error or result))
    client.async_stream_infer("mini.stream", tensors(**request), enable_empty_final_response=True)
    return messages, client


def until_sampling(server, flow="mini.flow_masked"):
    """Wait until a flow network has begun to answer."""
    with grpc.InferenceServerClient(server.grpc) as client:

        def answered():
            stats = client.get_inference_statistics(flow).model_stats
            return sum(model.inference_count for model in stats)

        before = answered()
        deadline = time.monotonic() + 30
        while answered() < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_same_seed_same_bytes_after_a_restart(start_server):
    images = []
    for _ in range(2):
        server = start_server()
        assert server.variants == ["mini"]
        image, report = volume(server, masked=True)
        other, _ = volume(server, masked=True, seed=6)
        assert report["seed"] == 5
        images.append((image.tobytes(), other.tobytes()))
        assert server.stop() == 0
    assert images[0] == images[1]
    assert images[0][0] != images[0][1]


def test_sigterm_with_requests_in_flight(start_server):
    server = start_server()
    unary = later(volume, server, steps=40, masked=True)
    until_sampling(server)
    messages, client = stream(server, steps=40, masked=True)
    messages.get(timeout=30)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert not unary.done()  # so it was in flight
    started = time.monotonic()
    stopping = r"\[stopping\] the server is stopping"
    with pytest.raises(grpc.InferenceServerException, match=stopping) as refused:
        volume(server)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    late, other = stream(server)
    assert "the server is stopping" in str(late.get(timeout=5))
    other.close()
    assert time.monotonic() - started < 2  # at once, and not when the running ones are done
    image, report = unary.result(120)
    assert image.shape == (40, 33, 35)
    assert report["steps"] == 40
    while True:
        message = messages.get(timeout=120)
        assert not isinstance(message, Exception), message
        if message.as_numpy("image") is not None:
            break
    np.testing.assert_array_equal(message.as_numpy("image"), image)
    client.close()
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("victim", ["mini.sampler", "mini.flow_masked"])
def test_killed_process_mid_request(start_server, eventually, victim):
    server = start_server()
    expected, _ = volume(server, masked=True)
    doomed = later(volume, server, steps=900, masked=True)
    until_sampling(server)
    server.stub(victim).kill()
    with pytest.raises(grpc.InferenceServerException) as caught:
        doomed.result(SECONDS_TO_ERROR)
    if victim == "mini.flow_masked":  # who called it is alive and can say so
        told = re.search(r"; the server's log says why, at request '(\w+)'", str(caught.value))
        line = f"request '{told[1]}': sampler: flow_masked: "
        eventually(lambda: line in server.log, 5)
    eventually(lambda: f"{victim} serves again" in server.log, 20)
    again, _ = volume(server, masked=True)
    np.testing.assert_array_equal(again, expected)


def test_killed_stream_mid_request(start_server, eventually):
    server = start_server()
    messages, client = stream(server, steps=900, masked=True)
    until_sampling(server)
    server.stub("mini.stream").kill()
    deadline = time.monotonic() + SECONDS_TO_ERROR
    while not isinstance(messages.get(timeout=deadline - time.monotonic()), Exception):
        pass
    client.close()
    eventually(lambda: "tritonserver serves again" in server.log, 20)
    messages, client = stream(server, masked=True)
    for message in iter(lambda: messages.get(timeout=60), None):
        assert not isinstance(message, Exception), message
        if message.as_numpy("image") is not None:
            break
    client.close()


def test_what_is_not_done_in_time_is_told_how_to_go_on_elsewhere(start_server):
    server = start_server(None, "--drain-seconds=1")
    unary = later(volume, server, steps=900, masked=True)
    until_sampling(server)
    messages, client = stream(server, steps=900, seed=6)
    messages.get(timeout=30)
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.InferenceServerException, match="seed 5 makes the same") as handed_on:
        unary.result(20)
    assert handed_on.value.status() == "StatusCode.UNAVAILABLE"
    for message in iter(lambda: messages.get(timeout=20), None):
        if isinstance(message, Exception):
            break
    assert "the server stopped before this volume was done" in str(message)
    assert "seed 6 makes the same volume" in str(message)
    client.close()
    assert server.process.wait(30) == 0


def test_requests_that_were_taken_are_answered_though_they_wait(start_server):
    server = start_server()
    waiting = [stream(server, steps=steps) for steps in (20, 1, 1)]
    waiting[0][0].get(timeout=30)
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    for messages, client in waiting:
        for message in iter(lambda: messages.get(timeout=60), None):  # noqa: B023
            assert not isinstance(message, Exception), message
            if message.as_numpy("image") is not None:
                break
        client.close()
    assert server.process.wait(60) == 0


def test_more_than_may_wait_are_refused_at_once(start_server):
    server = start_server(None, "--max-waiting=1")
    first, client = stream(server, steps=60, masked=True)
    first.get(timeout=30)
    second, another = stream(server)
    time.sleep(0.2)
    started = time.monotonic()
    third, last = stream(server)
    assert re.fullmatch(
        r".*overloaded: 2 requests are here, as many as may be; try again in \d+ s",
        str(third.get(timeout=5)),
    )
    assert time.monotonic() - started < 0.5
    with Client(server.grpc) as curious:  # which takes no place
        assert curious.check(size=[32, 32, 32])["steps"] > 0
    for messages in (first, second):
        for message in iter(lambda: messages.get(timeout=60), None):  # noqa: B023
            assert not isinstance(message, Exception), message
            if message.as_numpy("image") is not None:
                break
    for each in (client, another, last):
        each.close()


def test_tighter_limits_hold_and_are_published(start_server):
    options = ["voxels=46200", "waiting=3", "seconds=2"]
    server = start_server(
        None, *(f"--max-{option}" for option in options), "--memory-gb=0.5", "--spill-gb=2"
    )
    image, _ = volume(server)  # 40 x 33 x 35 voxels
    assert image.size == 46200
    size = grpc.InferInput("size", [3], "INT32")
    size.set_data_from_numpy(np.array([40, 33, 36], np.int32))
    with grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(grpc.InferenceServerException, match=r"size: .*46200"):
            client.infer("mini", [size])
        config = client.get_model_config("mini").config
        decoder = client.get_model_config("mini.vae_decoder").config
    published = json.loads(config.parameters["variant"].string_value)
    assert published["size"]["max_voxels"] == 46200
    limits = {"waiting": [0, 3], "seconds": [0, 2], "memory_gb": [0, 0.5], "spill_gb": [0, 2]}
    assert published["limits"] == published["limits"] | limits
    assert decoder.parameters["memory_budget_gb"].string_value == "0.5"
    assert decoder.parameters["spill_limit_gb"].string_value == "2"
    assert json.loads(decoder.parameters["network"].string_value)["max_voxels"] == 46200
    assert decoder.dynamic_batching.default_queue_policy.max_queue_size == 3
    messages, client = stream(server, steps=900, masked=True)
    for message in iter(lambda: messages.get(timeout=20), None):
        if isinstance(message, Exception):
            break
    assert "the request was not done within its 2 s" in str(message)
    client.close()
