"""/live, /ready and /metrics of a server that works, hangs, recovers or stops."""

from __future__ import annotations

import re
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as grpc

from server import drain, health
from server.control import Activity, ControlError
from tests.conftest import PATIENCE
from tests.server.metrics import answers, get, numbers
from tests.server.mini import last, sized, stream, until_sampling, volume
from tests.server.threads import later

OUTCOMES = ("done", "invalid", "cancelled")


def test_a_server_that_works_is_ready_and_counts(start_server, eventually):
    server = start_server()
    assert get(server.status, "ready") == get(server.status, "live") == (200, "ok\n")
    assert get(server.status, "nonsense")[0] == 404
    before = numbers(server.metrics)
    assert before.get('maisi_voxels_total{variant="mini"}', 0) == 0  # the probe is nobody's volume
    image, report = volume(server, masked=True, steps=3)
    messages, client = stream(server, steps=2)
    assert last(messages).shape == image.shape
    client.close()

    def running():  # a stage counts its end after its answer
        metrics = numbers(server.metrics)
        return sum(value for name, value in metrics.items() if "maisi_requests_running" in name)

    eventually(lambda: running() == 0)
    after = numbers(server.metrics)
    assert after['maisi_voxels_total{variant="mini"}'] == 2 * image.size
    assert after['maisi_requests_total{outcome="done",variant="mini"}'] == 2
    steps = 'maisi_steps_total{variant="mini"}'
    assert after[steps] - before.get(steps, 0) == 5
    for stage in ("condition", "sampler", "decoder"):
        name = f'maisi_stage_seconds_total{{stage="{stage}",variant="mini"}}'
        assert after[name] >= report["seconds"][stage] - 1e-3
    own = numbers(server.status)
    assert own["maisi_server_ready"] == 1
    assert own["maisi_shared_memory_free_bytes"] > 0
    assert own['maisi_model_resident_bytes{model="mini.flow"}'] > 10e6
    assert own['maisi_model_restarts_total{model="mini.flow"}'] == 0
    assert own['maisi_model_restarts_total{model="tritonserver"}'] == 0


def test_bad_requests_and_cancelled_ones_are_counted_apart(server, eventually):
    def counts():
        metrics = numbers(server.metrics)
        names = (f'maisi_requests_total{{outcome="{name}",variant="mini"}}' for name in OUTCOMES)
        return [metrics.get(name, 0) for name in names]

    done, invalid, cancelled = counts()
    _, client = stream(server, steps=0)
    messages, another = stream(server, steps=900)
    messages.get(timeout=PATIENCE)
    another.stop_stream(cancel_requests=True)
    for connection in (client, another):
        connection.close()
    eventually(lambda: counts()[:2] == [done, invalid + 1] and counts()[2] >= cancelled + 1)


@pytest.mark.slow
def test_a_busy_server_is_ready_and_one_without_progress_starts_again(start_server, eventually):
    server = start_server(None, "--stall-seconds=2")
    expected, _ = volume(server, masked=True)
    before = answers(server.grpc, "mini.flow_masked")
    small = later(volume, server, steps=100, masked=True)
    until_sampling(server, before=before)
    assert get(server.status, "ready") == (200, "ok\n")
    small.result(PATIENCE)
    # A decoder makes no progress that is counted, for seconds where the volume is large.
    with grpc.InferenceServerClient(server.grpc) as client:
        working = later(client.infer, "mini", sized(192))
        eventually(lambda: get(server.status, "ready")[0] == 503)
        assert re.fullmatch(r"no progress for \d+ s\n", get(server.status, "ready")[1])
        assert get(server.status, "live")[0] == 200
        with pytest.raises(grpc.InferenceServerException):
            working.result(PATIENCE)
    eventually(lambda: "tritonserver serves again" in server.log)
    assert re.search(r"no progress for \d+ s; starting tritonserver again", server.log)
    assert get(server.status, "ready") == (200, "ok\n")
    assert numbers(server.status)['maisi_model_restarts_total{model="tritonserver"}'] == 1
    np.testing.assert_array_equal(volume(server, masked=True)[0], expected)


@pytest.fixture
def now(monkeypatch):
    """Return the time of `server.health`, in a list; it stands still unless a test changes it."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(health, "time", clock)
    return now


def test_a_tritonserver_that_stays_silent_starts_again(monkeypatch, now, eventually):
    answering, polls = [False], []

    class Control:
        probe_id = "probe"

        def activity(self):
            polls.append(now[0])
            if not answering[0]:
                raise ControlError("no answer: timed out")
            return Activity(0, 0, 0, 0, 0)

    monkeypatch.setattr(health, "POLL", 0.01)
    monkeypatch.setattr(health, "SILENT", 1.0)
    silent = health.Health(SimpleNamespace(control=Control()), {}, 1800)
    eventually(silent.ready)
    assert silent.hang() is None  # not yet
    now[0] += 2
    eventually(silent.hang)
    assert silent.hang() == "tritonserver does not answer: no answer: timed out"
    answering[0] = True
    eventually(lambda: silent.ready() is None)
    answering[0] = False  # the time of silence begins with the latest answer
    eventually(silent.ready)
    assert silent.hang() is None
    silent.loading = "tritonserver"
    now[0] += 2
    eventually(lambda: polls[-2:] == [now[0]] * 2)
    assert silent.hang() is None
    silent.recovered()
    assert silent.hang() is None
    silent.stopping = True


def test_a_model_that_dies_at_every_volume_is_never_ready(monkeypatch, now, eventually):
    dies, probes = [True], []

    class Control:
        probe_id = "probe"

        def activity(self):
            return Activity(0, 0, 0, 0, 0)

        def probe(self, variant, smallest, seconds):
            probes.append(now[0])
            if dies[0]:
                raise ControlError("the process died")

        def states(self):  # Triton does not notice that a process died
            return {"mini": "READY", "mini.flow": "READY", "other.flow": "UNAVAILABLE"}

    monkeypatch.setattr(health, "POLL", 0.01)
    watched = health.Health(SimpleNamespace(control=Control()), {"mini": None}, 1800)
    assert watched.ready() is None
    states = []
    for _ in range(3):
        watched.loading = "mini.flow"
        watched.recovered("mini.flow died")
        states.append(watched.ready())
        count = len(probes)
        eventually(lambda count=count: len(probes) > count + 1)
        states.append(watched.ready())
        now[0] += health.FAILING - 1  # a recovery begins this time again
        assert watched.hang() is None
    assert None not in states and states[0] == "mini.flow died"
    now[0] += 1801
    eventually(watched.live)
    dies[0] = False
    eventually(lambda: watched.ready() is None)
    watched.stopping = True


@pytest.mark.parametrize("unloaded", ["mini", "mini.flow"])
def test_a_variant_that_an_operator_unloads_makes_no_volumes(
    monkeypatch, now, eventually, unloaded
):
    probes = []

    class Control:
        probe_id = "probe"

        def activity(self):
            return Activity(0, 0, 0, 0, 0)

        def probe(self, variant, smallest, seconds):
            probes.append(variant)
            if variant == "mini":
                raise ControlError("Request for unknown model")

        def states(self):
            names = ("mini", "mini.flow", "mini2", "mini2.flow")
            return dict.fromkeys(names, "READY") | {unloaded: "UNAVAILABLE"}

    monkeypatch.setattr(health, "POLL", 0.01)
    triton = SimpleNamespace(control=Control())
    watched = health.Health(triton, {"mini": None, "mini2": None}, 1800)
    for _ in range(2):
        count = len(probes)
        now[0] += health.IDLE + health.FAILING
        eventually(lambda count=count: probes[count:] == ["mini", "mini2"])
        assert watched.ready() is None and watched.hang() is None
    watched.stopping = True


def test_a_probe_that_began_before_a_reload_does_not_count(monkeypatch, now, eventually):
    states = []

    class Control:
        probe_id = "probe"

        def activity(self):
            return Activity(0, 0, 0, 0, 0)

        def probe(self, variant, smallest, seconds):
            states.append(watched.ready())
            now[0] += 1
            if len(states) == 1:
                watched.recovered("mini.flow died")
                now[0] += 1

    monkeypatch.setattr(health, "POLL", 0.01)
    watched = health.Health(SimpleNamespace(control=Control()), {"mini": None}, 1800)
    now[0] += health.IDLE
    eventually(lambda: len(states) > 1)
    assert states[:2] == [None, "mini.flow died"]
    eventually(lambda: watched.ready() is None)
    watched.stopping = True


def test_a_long_probe_is_no_silence(monkeypatch, now, eventually):
    probed = threading.Event()

    class Control:
        probe_id = "probe"

        def activity(self):
            if probed.is_set():
                raise ControlError("no answer: timed out")
            return Activity(0, 0, 0, 0, 0)

        def probe(self, variant, smallest, seconds):
            now[0] += 2  # behind clients' requests
            probed.set()

    monkeypatch.setattr(health, "POLL", 0.01)
    monkeypatch.setattr(health, "SILENT", 1.0)
    monkeypatch.setattr(health, "IDLE", 0.0)
    watched = health.Health(SimpleNamespace(control=Control()), {"mini": None}, 1800)
    assert probed.wait(PATIENCE)
    eventually(watched.ready)
    assert watched.hang() is None
    now[0] += 2
    eventually(watched.hang)
    watched.stopping = True


def test_a_stop_without_space_waits_for_running_requests(monkeypatch, tmp_path, capfd):
    busy = [True] * 5

    class Control:
        def activity(self):
            running = bool(busy and busy.pop())
            return Activity(float(running), 0, 0, 0, 0)

        def states(self):
            return {}

    monkeypatch.setattr(drain, "POLL", 0.01)
    triton = SimpleNamespace(control=Control(), work=lambda: 0.0)
    full = tmp_path / "full" / "stopping"  # cannot be written
    assert drain.drain(triton, 60, full, drain.Stop()) is None
    assert not busy and "new requests are not refused" in capfd.readouterr().err


def test_a_dead_process_is_counted_and_a_stopping_server_not_ready(start_server, eventually):
    server = start_server()
    server.stub("mini.flow").kill()
    name = 'maisi_model_restarts_total{model="mini.flow"}'
    eventually(lambda: numbers(server.status).get(name) == 1)
    eventually(lambda: "mini.flow serves again" in server.log)
    eventually(lambda: get(server.status, "ready")[0] == 200)
    messages, client = stream(server, steps=300, masked=True)
    assert isinstance(messages.get(timeout=PATIENCE), grpc.InferResult)
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: get(server.status, "ready")[0] == 503)
    assert get(server.status, "live")[0] == 200
    assert last(messages).shape == (40, 33, 35)
    client.close()
    assert server.process.wait(PATIENCE) == 0
