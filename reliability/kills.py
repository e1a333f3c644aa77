"""Cause faults: kill or stop processes of the server and of its clients."""

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

# For each model, the model whose answer precedes its call, in the ensemble and in the stream. The
# stream does the work of condition, sampler and decoder itself.
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
_STEPS = 4  # solver steps of the good request; the flow network answers once per step
_REACHED = 0.3  # seconds from the answer of one model to the call of the next
_ERROR = 60.0  # limit in seconds until a lost request ends with an error
_AGAIN = 120.0  # limit in seconds until tritonserver has restarted and answered
_LATE_STEPS = 8  # solver steps of a request whose client is killed after the last step
_LARGE = (96, 112, 96)  # voxels; the answer does not fit into the buffers of a connection


def _interrupt(
    target: FaultTarget,
    model: str,
    before: str,
    ask: Callable[[], object],
    end: Callable[[], object],
) -> object:
    """Suspend a model's process, send a request, and call `end` when the model has the request.

    Return the answer or the error.
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
    """Kill a model's process with SIGKILL in a request of tritonclient."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, ENSEMBLE[model], target.ensemble, victim.kill)
    target.deaths += 1
    if not isinstance(result, InferenceServerException):
        raise Wrong(f"the killed process answered: {result!r:.100}")
    checked_sentence(result.message())
    return "the request got an error; the model was loaded again"


def kill_in_stream(target: FaultTarget, model: str) -> str:
    """Kill a model's process with SIGKILL in a request of our client."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, STREAM[model], target.good, victim.kill)
    # Without mini.stream, tritonserver restarts.
    target.deaths = 0 if model == "mini.stream" else target.deaths + 1
    if result != target.sha256:
        raise Wrong(f"our client did not send the request again: {result}")
    return "our client sent the request again and got the same bytes"


def stop_stub(target: FaultTarget, model: str) -> str:
    """Stop a model's process with SIGSTOP in a request."""
    victim = target.server.stubs()[model]
    result = _interrupt(target, model, ENSEMBLE[model], target.ensemble, lambda: None)
    target.deaths += 1
    if not isinstance(result, InferenceServerException):
        raise Wrong(f"the stopped process answered: {result!r:.100}")
    checked_sentence(result.message())
    until(lambda: target.server.stubs().get(model) != victim, 60, "the stopped process has ended")
    return "the process was ended after 5 s; the request got an error; the model was loaded again"


def end_triton(target: FaultTarget, how: signal.Signals) -> str:
    """Send the signal `how` to tritonserver in a request of our client."""
    triton = target.server.triton
    result = _interrupt(
        target,
        "mini.flow_masked",
        "mini.mask_encoder",
        target.good,
        lambda: triton.send_signal(how),
    )
    if result != target.sha256:
        raise Wrong(f"our client did not send the request again: {result}")
    if target.server.triton.pid == triton.pid:
        raise Wrong("tritonserver was not restarted")
    target.deaths = 0
    return (
        "tritonserver was restarted at its ports; our client sent the request again and got the"
        " same bytes"
    )


def end_server(target: FaultTarget, everything: bool) -> str:
    """Kill the supervisor or, as a power cut does, all processes; then start another server."""
    supervisor = psutil.Process(target.server.pid)
    family = supervisor.children(recursive=True)
    future, files = target.later(partial(target.ensemble, _LARGE)), target.regions()
    time.sleep(_REACHED)
    for process in [supervisor, *family] if everything else [supervisor]:
        with suppress(psutil.Error):
            process.kill()
    if not isinstance(error := future.exception(_ERROR), InferenceServerException):
        raise Wrong(f"the request on the killed server ended with {error!r}")
    until(lambda: not any(map(psutil.Process.is_running, family)), 60, "no process remains")
    shm = os.path.realpath("/dev/shm")
    target.start()
    if remaining := [name for name in files if os.path.exists(f"{shm}/{name}")]:
        raise Wrong(f"/dev/shm still has {len(remaining)} files of the killed server")
    return "all processes ended; the next server removed the files in /dev/shm"


def kill_client(target: FaultTarget, stage: str) -> str:
    """Kill a client with SIGKILL at a stage: `waiting`, `sampler`, `decoder` or `answered`."""
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
        until(lambda: target.gauge("maisi_steps_total") > steps + 2, 60, "three steps are done")
        process.kill()
        seconds = until(lambda: not target.at_work(), 60, "no request runs or waits")
        _expect_no_volume(done() - before)
    else:
        seconds = _kill_late(target, answered=stage == "answered")
    began = time.monotonic()
    target.good()
    return (
        f"the request ended on the server {seconds:.1f} s later; the next request took"
        f" {time.monotonic() - began:.1f} s"
    )


def _kill_late(target: FaultTarget, answered: bool) -> float:
    done = partial(target.gauge, "maisi_requests_total", outcome="done")
    before, steps = done(), target.gauge("maisi_steps_total")
    side = ",".join(map(str, _LARGE if answered else SMALL))
    decoder = target.server.stubs()["mini.vae_decoder"]
    process = _generate(target, f"--size={side}", f"--steps={_LATE_STEPS}")
    until(lambda: target.gauge("maisi_steps_total") > steps, 60, "a step is done")
    decoder.suspend()  # for less than 5 s, because the supervisor would then end it
    try:
        all_steps = steps + _LATE_STEPS
        until(lambda: target.gauge("maisi_steps_total") >= all_steps, 4, "all steps are done")
        time.sleep(_REACHED)  # then the decoder has been called
        process.send_signal(signal.SIGSTOP if answered else signal.SIGKILL)
    finally:
        decoder.resume()
    if answered:  # the client is stopped and does not read the answer
        until(lambda: done() > before, 60, "the server has answered")
        process.kill()
        before += 1
    seconds = until(lambda: not target.at_work(), 60, "no request runs or waits")
    _expect_no_volume(done() - before)
    return seconds


def _expect_no_volume(volumes: float) -> None:
    if volumes:
        raise Wrong("a volume was made for the killed client")


def _generate(target: FaultTarget, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "maisi_client", "generate", f"--url={target.server.grpc}"]
    out = target.folder / "killed.nii.gz"
    return subprocess.Popen([*command, *words, "--output", str(out)], stderr=subprocess.DEVNULL)
