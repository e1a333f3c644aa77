"""What Kubernetes and Prometheus are told, in good times and in bad ones."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as grpc

from tests.server.test_mini_service import later, stream, until_sampling, volume


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=90) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def numbers(address):
    """Every metric by its name and labels."""
    _, text = get(address, "metrics")
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_a_server_that_works_is_ready_and_counts(start_server):
    server = start_server()
    assert get(server.status, "ready") == get(server.status, "live") == (200, "ok\n")
    assert get(server.status, "nonsense")[0] == 404
    before = numbers(server.metrics)
    assert before.get('maisi_voxels_total{variant="mini"}', 0) == 0  # the probe is nobody's volume
    image, report = volume(server, masked=True, steps=3)
    messages, client = stream(server, steps=2)
    while messages.get(timeout=60).as_numpy("image") is None:
        pass
    client.close()
    after = numbers(server.metrics)
    assert after['maisi_voxels_total{variant="mini"}'] == 2 * image.size
    assert after['maisi_requests_total{outcome="done",variant="mini"}'] == 2
    steps = 'maisi_steps_total{variant="mini"}'
    assert after[steps] - before.get(steps, 0) == 5
    for stage in ("condition", "sampler", "decoder"):
        name = f'maisi_stage_seconds_total{{stage="{stage}",variant="mini"}}'
        assert after[name] >= report["seconds"][stage] - 1e-3
    assert not [name for name, value in after.items() if "maisi_requests_running" in name and value]
    told = numbers(server.status)
    assert told["maisi_server_ready{}"] == 1
    assert told["maisi_shared_memory_free_bytes{}"] > 0
    assert told['maisi_model_resident_bytes{model="mini.flow"}'] > 10e6
    assert told['maisi_model_restarts_total{model="mini.flow"}'] == 0


def test_bad_requests_and_cancelled_ones_are_counted_apart(start_server, eventually):
    server = start_server()
    _, client = stream(server, steps=0)
    messages, another = stream(server, steps=900)
    messages.get(timeout=30)
    another.stop_stream(cancel_requests=True)
    for each in (client, another):
        each.close()
    cancelled = 'maisi_requests_total{outcome="cancelled",variant="mini"}'
    eventually(lambda: numbers(server.metrics).get(cancelled) == 1, 20)
    found = numbers(server.metrics)
    assert found['maisi_requests_total{outcome="invalid",variant="mini"}'] == 1
    assert 'maisi_requests_total{outcome="done",variant="mini"}' not in found


@pytest.mark.slow
def test_a_busy_server_is_ready_and_one_without_progress_starts_again(start_server, eventually):
    server = start_server(None, "--stall-seconds=2")
    expected, _ = volume(server, masked=True)
    small = later(volume, server, steps=100, masked=True)
    until_sampling(server)
    assert get(server.status, "ready") == (200, "ok\n")
    small.result(120)
    # Nothing is heard of a decoder at work, for seconds where the volume is large.
    large = grpc.InferInput("size", [3], "INT32")
    large.set_data_from_numpy(np.array([192, 192, 192], np.int32))
    step = grpc.InferInput("steps", [1], "INT32")
    step.set_data_from_numpy(np.array([1], np.int32))
    with grpc.InferenceServerClient(server.grpc) as client:
        working = later(client.infer, "mini", [large, step])
        eventually(lambda: get(server.status, "ready")[0] == 503, 60)
        assert re.fullmatch(r"no progress for \d+ s\n", get(server.status, "ready")[1])
        assert get(server.status, "live")[0] == 200
        with pytest.raises(grpc.InferenceServerException):
            working.result(20)
    eventually(lambda: "tritonserver serves again" in server.log, 30)
    assert re.search(r"no progress for \d+ s; starting tritonserver again", server.log)
    assert get(server.status, "ready") == (200, "ok\n")
    assert numbers(server.status)['maisi_model_restarts_total{model="tritonserver"}'] == 1
    np.testing.assert_array_equal(volume(server, masked=True)[0], expected)


def test_a_dead_process_is_counted_and_a_stopping_server_not_ready(start_server, eventually):
    server = start_server()
    server.stub("mini.flow").kill()
    name = 'maisi_model_restarts_total{model="mini.flow"}'
    eventually(lambda: numbers(server.status).get(name) == 1, 20)
    eventually(lambda: "mini.flow serves again" in server.log, 20)
    assert get(server.status, "ready")[0] == 200
    messages, client = stream(server, steps=30, masked=True)
    assert isinstance(messages.get(timeout=30), grpc.InferResult)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: get(server.status, "ready")[0] == 503, 5)
    assert get(server.status, "live")[0] == 200
    while messages.get(timeout=60).as_numpy("image") is None:
        pass
    client.close()
    assert server.process.wait(60) == 0
