"""The mini variant through restarts, stops and deaths of the server's processes."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
import tritonclient.grpc as grpc
from maisi_client import Client

from tests.conftest import PATIENCE
from tests.server.metrics import answers, numbers
from tests.server.mini import last, sized, stream, until_sampling, volume
from tests.server.threads import later

STOPPED = "the server stopped before this volume was done"


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


def test_sigterm_lets_requests_finish_that_run_and_that_wait(start_server, eventually):
    server = start_server()
    before = answers(server.grpc, "mini.flow_masked")
    unary = later(volume, server, steps=300, masked=True)
    until_sampling(server, before=before)
    streams = [stream(server, steps=20, masked=True) for _ in range(3)]
    for messages, _ in streams:  # the first one comes when a stream runs or waits
        assert isinstance(messages.get(timeout=PATIENCE), grpc.InferResult)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping: running requests finish first" in server.log)
    stopping = r"\[stopping\] the server is stopping"
    with pytest.raises(grpc.InferenceServerException, match=stopping) as refused:
        volume(server)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    messages, late = stream(server)
    assert "the server is stopping" in str(messages.get(timeout=PATIENCE))
    late.close()
    assert not unary.done()  # so the refusals did not wait for it
    image, report = unary.result(PATIENCE)
    assert image.shape == (40, 33, 35)
    assert report["steps"] == 300
    streamed = [last(messages) for messages, _ in streams]
    assert streamed[0].shape == image.shape
    assert len({image.tobytes() for image in streamed}) == 1
    for _, client in streams:
        client.close()
    assert server.process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def victim_server(module_server):
    """Serve mini for tests that kill its processes."""
    return module_server()


@pytest.mark.parametrize("victim", ["mini.sampler", "mini.flow_masked"])
def test_killed_process_mid_request(victim_server, eventually, victim):
    expected, _ = volume(victim_server, masked=True)
    doomed = later(volume, victim_server, steps=900, masked=True)
    until_sampling(victim_server)
    victim_server.stub(victim).kill()
    with pytest.raises(grpc.InferenceServerException) as caught:
        doomed.result(PATIENCE)
    if victim == "mini.flow_masked":  # its caller is alive and reports it
        match = re.search(r"; the server's log says why, at request '(\w+)'", str(caught.value))
        line = f"request '{match[1]}': sampler: flow_masked: "
        eventually(lambda: line in victim_server.log)
    eventually(lambda: f"{victim} serves again" in victim_server.log)
    again, _ = volume(victim_server, masked=True)
    np.testing.assert_array_equal(again, expected)


def test_killed_stream_mid_request(victim_server, eventually):
    messages, client = stream(victim_server, steps=900, masked=True)
    until_sampling(victim_server)
    victim_server.stub("mini.stream").kill()
    assert isinstance(last(messages), Exception)
    client.close()
    eventually(lambda: "tritonserver serves again" in victim_server.log)
    messages, client = stream(victim_server, masked=True)
    assert last(messages).shape == (40, 33, 35)
    client.close()


def test_one_request_too_many_is_refused_and_one_not_done_at_a_stop_gets_its_seed(
    start_server, eventually
):
    server = start_server(None, "--max-waiting=1", "--drain-seconds=1")
    unary = later(volume, server, steps=900, masked=True)
    until_sampling(server)
    first, client = stream(server, steps=900, seed=6)
    first.get(timeout=PATIENCE)
    _, another = stream(server, steps=900)
    waits = 'maisi_requests_waiting{model="mini.stream",variant="mini"}'
    eventually(lambda: numbers(server.metrics).get(waits) == 1)
    with Client(server.grpc) as checker:  # a check does not count in the queue
        assert checker.check(size=[32, 32, 32])["steps"] > 0
    third, late = stream(server)
    assert re.fullmatch(
        r".*overloaded: 2 requests run or wait, which is the limit; try again in \d+ s",
        str(third.get(timeout=PATIENCE)),
    )
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.InferenceServerException, match="seed 5 makes the same") as handed_on:
        unary.result(PATIENCE)
    assert handed_on.value.status() == "StatusCode.UNAVAILABLE"
    message = str(last(first))
    assert STOPPED in message and "seed 6 makes the same volume" in message
    for connection in (client, another, late):
        connection.close()
    assert server.process.wait(PATIENCE) == 0


def test_tighter_limits_hold_and_are_published(start_server):
    options = ["voxels=46200", "waiting=3", "seconds=2"]
    server = start_server(
        None, *(f"--max-{option}" for option in options), "--memory-gb=0.5", "--spill-gb=2"
    )
    size, steps = sized(36)
    with grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(grpc.InferenceServerException, match=r"size: .*46200"):
            client.infer("mini", [size, steps])
        config = client.get_model_config("mini").config
        decoder = client.get_model_config("mini.vae_decoder").config
        sampler = client.get_model_config("mini.sampler").config
    published = json.loads(config.parameters["variant"].string_value)
    assert published["size"]["max_voxels"] == 46200
    limits = {"waiting": [0, 3], "seconds": [0, 2], "memory_gb": [0, 0.5], "spill_gb": [0, 2]}
    assert published["limits"] == published["limits"] | limits
    assert decoder.parameters["memory_budget_gb"].string_value == "0.5"
    assert decoder.parameters["spill_limit_gb"].string_value == "2"
    assert json.loads(decoder.parameters["network"].string_value)["max_voxels"] == 46200
    assert sampler.dynamic_batching.default_queue_policy.max_queue_size == 3
    assert not decoder.HasField("dynamic_batching")
    messages, client = stream(server, steps=900, masked=True)
    assert "the request was not done within its 2 s" in str(last(messages))
    client.close()
