"""Faults: processes of the server and of its clients that are killed or stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil
from maisi_client import MaisiError
from tritonclient.utils import InferenceServerException

from reliability.fault_target import SMALL, FaultTarget, Wrong, checked_sentence, until

# Model -> the model whose answer precedes its call: in the ensemble, and in the stream, which does
# the work of condition, sampler and decoder itself.
ENSEMBLE = {
    "mini.condition": "",
    "mini.mask_encoder": "mini.condition",
    "mini.sampler": "mini.condition",
    "mini.flow_masked": "mini.mask_encoder",
    "mini.decoder": "mini.sampler",
    "mini.vae_decoder": "mini.sampler",
}
STREAM = {
    "mini.mask_encoder": "",
    "mini.flow_masked": "mini.mask_encoder",
    "mini.vae_decoder": "mini.flow_masked",
    "mini.stream": "",
}
_STEPS = 4  # of the good request; the flow network answers once a step
_REACHED = 0.3  # seconds from the answer of one model to the call of the next
_ERROR = 60.0  # seconds until a lost request ends with an error
_AGAIN = 120.0  # seconds until tritonserver has started again and answered
_LATE_STEPS = 8  # of a request whose client is killed after them
_LARGE = (96, 112, 96)  # voxels; its answer does not fit into what a connection holds


def _interrupt(
    target: FaultTarget,
    model: str,
    before: str,
    ask: Callable[[], object],
    end: Callable[[], object],
) -> object:
    """Suspend a model's process, send a request, and call `end` once the request has reached it.

    Returns the answer, or the error.
    """
    answers = _STEPS if before == "mini.flow_masked" else 1
    count = target.done(before) + answers if before else 0
    target.server.stubs()[model].suspend()
    future = target.later(ask)
    if before:
        until(lambda: target.done(before) >= count, 60, f"{before} has answered")
    time.sleep(_REACHED)
    end()
    try:
        return future.result(_AGAIN)
    except (MaisiError, InferenceServerException) as error:
        return error


def kill_in_ensemble(target: FaultTarget, model: str) -> str:
    """Kill a model's process with -9 in a request of plain tritonclient."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, ENSEMBLE[model], target.ensemble, victim.kill)
    target.deaths += 1
    if not isinstance(result, InferenceServerException):
        raise Wrong(f"answered by a killed process: {result!r:.100}")
    checked_sentence(result.message())
    return "that request got an error; the model was loaded again"


def kill_in_stream(target: FaultTarget, model: str) -> str:
    """Kill a model's process with -9 in a request of our client."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, STREAM[model], target.good, victim.kill)
    target.deaths = 0 if model == "mini.stream" else target.deaths + 1  # Triton starts again
    if result != target.sha256:
        raise Wrong(f"not sent again: {result}")
    return "our client sent the request again and got the same bytes"


def stop_stub(target: FaultTarget, model: str) -> str:
    """Stop a model's process with SIGSTOP in a request."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, ENSEMBLE[model], target.ensemble, lambda: None)
    target.deaths += 1
    if not isinstance(result, InferenceServerException):
        raise Wrong(f"answered by a stopped process: {result!r:.100}")
    checked_sentence(result.message())
    until(lambda: target.server.stubs().get(model) != victim, 60, "the stopped process is ended")
    return "it was ended after 5 s, that request got an error; the model was loaded again"


def end_triton(target: FaultTarget, how: signal.Signals) -> str:
    """Kill or stop tritonserver in a request of our client."""
    triton = target.server.triton
    result = _interrupt(
        target,
        "mini.flow_masked",
        "mini.mask_encoder",
        target.good,
        lambda: triton.send_signal(how),
    )
    if result != target.sha256:
        raise Wrong(f"not sent again: {result}")
    if target.server.triton.pid == triton.pid:
        raise Wrong("it was not started again")
    target.deaths = 0
    return "it was started again at its ports; our client sent the request again: same bytes"


def end_server(target: FaultTarget, everything: bool) -> str:
    """Kill the supervisor alone, or all processes as a power cut does; start another server."""
    supervisor = psutil.Process(target.server.pid)
    family = supervisor.children(recursive=True)
    future, files = target.later(partial(target.ensemble, _LARGE)), target.regions()
    time.sleep(_REACHED)
    for process in [supervisor, *family] if everything else [supervisor]:
        with suppress(psutil.Error):
            process.kill()
    if not isinstance(error := future.exception(_ERROR), InferenceServerException):
        raise Wrong(f"the request in it ended with {error!r}")
    until(lambda: not any(map(psutil.Process.is_running, family)), 60, "no process remains")
    shm = os.path.realpath("/dev/shm")
    target.start()
    if remaining := [name for name in files if os.path.exists(f"{shm}/{name}")]:
        raise Wrong(f"{len(remaining)} files of the killed server are in /dev/shm")
    return "its processes ended; the next server removed its files in /dev/shm"


def kill_client(target: FaultTarget, stage: str) -> str:
    """Kill a client with -9 at a stage: `waiting`, `sampler`, `decoder` or `answered`."""
    done = partial(target.gauge, "maisi_requests_total", outcome="done")
    before = done()
    if stage == "waiting":
        with target.busy():
            process = _generate(target, "--size=48,48,48", "--steps=900")
            until(lambda: target.gauge("maisi_requests_waiting") >= 1, 60, "the request waits")
            process.kill()
            waiting = partial(target.gauge, "maisi_requests_waiting")
            seconds = until(lambda: not waiting(), 60, "no request waits")
            _expect_no_volume(done() - before)
    elif stage == "sampler":
        steps = target.gauge("maisi_steps_total")
        process = _generate(target, "--size=48,48,48", "--steps=900")
        until(lambda: target.gauge("maisi_steps_total") > steps + 2, 60, "steps are made")
        process.kill()
        seconds = until(lambda: not target.at_work(), 60, "nothing is at work")
        _expect_no_volume(done() - before)
    else:
        seconds = _kill_late(target, answered=stage == "answered")
    began = time.monotonic()
    target.good()
    return (
        f"its request ended on the server {seconds:.1f} s later; the next one was done"
        f" {time.monotonic() - began:.1f} s after that"
    )


def _kill_late(target: FaultTarget, answered: bool) -> float:
    done = partial(target.gauge, "maisi_requests_total", outcome="done")
    before, steps = done(), target.gauge("maisi_steps_total")
    side = ",".join(map(str, _LARGE if answered else SMALL))
    decoder = target.server.stubs()["mini.vae_decoder"]
    process = _generate(target, f"--size={side}", f"--steps={_LATE_STEPS}")
    until(lambda: target.gauge("maisi_steps_total") > steps, 60, "a step is made")
    decoder.suspend()  # for less than the 5 s after which the supervisor ends it
    try:
        whole = steps + _LATE_STEPS
        until(lambda: target.gauge("maisi_steps_total") >= whole, 4, "the other steps are made")
        time.sleep(_REACHED)  # now the decoder has been called
        process.send_signal(signal.SIGSTOP if answered else signal.SIGKILL)
    finally:
        decoder.resume()
    if answered:  # and the client reads nothing of the answer
        until(lambda: done() > before, 60, "the server has answered")
        process.kill()
        before += 1
    seconds = until(lambda: not target.at_work(), 60, "nothing is at work")
    _expect_no_volume(done() - before)
    return seconds


def _expect_no_volume(volumes: float) -> None:
    if volumes:
        raise Wrong("a volume was made for the killed client")


def _generate(target: FaultTarget, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "maisi_client", "generate", f"--url={target.server.grpc}"]
    out = target.folder / "killed.nii.gz"
    return subprocess.Popen([*command, *words, "--output", str(out)], stderr=subprocess.DEVNULL)
