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

from reliability.scene import SMALL, Scene, Wrong, sentence, until

# Whose answer means that a request has come as far as the model: through the ensemble, and through
# the stream, which does by itself what condition, sampler and decoder do.
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
_STEPS = 4  # of the good request, each an answer of the flow network
_REACHED = 0.3  # seconds from the model before to this one
_ERROR = 60.0  # seconds until who lost a request is told
_AGAIN = 120.0  # seconds until tritonserver has started again, and has answered
_LATE_STEPS = 8  # of a request that is killed after them
_LARGE = (96, 112, 96)  # voxels; its answer does not fit into what a connection holds


def _caught(
    scene: Scene, model: str, before: str, ask: Callable[[], object], end: Callable[[], object]
) -> object:
    """Stop a model's process, send a request, and `end` something once it has come that far.

    Returns the answer, or the error.
    """
    answers = _STEPS if before == "mini.flow_masked" else 1
    wanted = scene.done(before) + answers if before else 0
    scene.server.stubs()[model].suspend()
    asked = scene.later(ask)
    if before:
        until(lambda: scene.done(before) >= wanted, 60, f"{before} has answered")
    time.sleep(_REACHED)
    end()
    try:
        return asked.result(_AGAIN)
    except (MaisiError, InferenceServerException) as error:
        return error


def kill_in_ensemble(scene: Scene, model: str) -> str:
    """Kill a model's process with -9 in a request of plain tritonclient."""
    victim = scene.server.stubs()[model]
    found = _caught(scene, model, ENSEMBLE[model], scene.ensemble, victim.kill)
    scene.deaths += 1
    if not isinstance(found, InferenceServerException):
        raise Wrong(f"answered by a process that was dead: {found!r:.100}")
    sentence(found.message())
    return "that request got an error; the model was loaded again"


def kill_in_stream(scene: Scene, model: str) -> str:
    """Kill a model's process with -9 in a request of our client."""
    victim = scene.server.stubs()[model]
    found = _caught(scene, model, STREAM[model], scene.good, victim.kill)
    scene.deaths = 0 if model == "mini.stream" else scene.deaths + 1  # Triton starts again
    if found != scene.sha256:
        raise Wrong(f"not sent again: {found}")
    return "our client sent the request again and got the same bytes"


def stop_stub(scene: Scene, model: str) -> str:
    """Stop a model's process with SIGSTOP in a request, and leave it so."""
    victim = scene.server.stubs()[model]
    found = _caught(scene, model, ENSEMBLE[model], scene.ensemble, lambda: None)
    scene.deaths += 1
    if not isinstance(found, InferenceServerException):
        raise Wrong(f"answered by a process that stood still: {found!r:.100}")
    sentence(found.message())
    until(lambda: scene.server.stubs().get(model) != victim, 60, "it is ended")
    return "it was ended after 5 s, that request got an error; the model was loaded again"


def end_triton(scene: Scene, how: signal.Signals) -> str:
    """Kill or stop tritonserver in a request of our client."""
    triton = scene.server.triton
    found = _caught(
        scene, "mini.flow_masked", "mini.mask_encoder", scene.good, lambda: triton.send_signal(how)
    )
    if found != scene.sha256:
        raise Wrong(f"not sent again: {found}")
    if scene.server.triton.pid == triton.pid:
        raise Wrong("it was not started again")
    scene.deaths = 0
    return "it was started again at its ports; our client sent the request again: same bytes"


def end_server(scene: Scene, everything: bool) -> str:
    """Kill the supervisor alone, or with all its processes as a power cut does; start another."""
    supervisor = psutil.Process(scene.server.pid)
    family = supervisor.children(recursive=True)
    lost, left = scene.later(partial(scene.ensemble, _LARGE)), scene.regions()
    time.sleep(_REACHED)
    for process in [supervisor, *family] if everything else [supervisor]:
        with suppress(psutil.Error):
            process.kill()
    if not isinstance(error := lost.exception(_ERROR), InferenceServerException):
        raise Wrong(f"the request in it ended with {error!r}")
    until(lambda: not any(map(psutil.Process.is_running, family)), 60, "no process is left")
    shm = os.path.realpath("/dev/shm")
    scene.start()
    if still := [name for name in left if os.path.exists(f"{shm}/{name}")]:
        raise Wrong(f"{len(still)} files of the dead server are in /dev/shm")
    return "its processes were gone; another server removed what it had left in /dev/shm"


def kill_client(scene: Scene, stage: str) -> str:
    """Kill a client with -9: `waiting`, in the `sampler` or `decoder`, or as it is `answered`."""
    done = partial(scene.gauge, "maisi_requests_total", outcome="done")
    before = done()
    if stage == "waiting":
        with scene.busy():
            process = _generate(scene, "--size=48,48,48", "--steps=900")
            until(lambda: scene.gauge("maisi_requests_waiting") >= 1, 60, "it waits")
            process.kill()
            took = until(lambda: not scene.gauge("maisi_requests_waiting"), 60, "none waits")
            _none_was_made(done() - before)
    elif stage == "sampler":
        steps = scene.gauge("maisi_steps_total")
        process = _generate(scene, "--size=48,48,48", "--steps=900")
        until(lambda: scene.gauge("maisi_steps_total") > steps + 2, 60, "it makes steps")
        process.kill()
        took = until(lambda: not scene.at_work(), 60, "nothing is at work")
        _none_was_made(done() - before)
    else:
        took = _kill_late(scene, answered=stage == "answered")
    process_gone = time.monotonic()
    scene.good()
    return (
        f"its request ended on the server {took:.1f} s later; the next one was done"
        f" {time.monotonic() - process_gone:.1f} s after that"
    )


def _kill_late(scene: Scene, answered: bool) -> float:
    done = partial(scene.gauge, "maisi_requests_total", outcome="done")
    before, steps = done(), scene.gauge("maisi_steps_total")
    side = ",".join(map(str, _LARGE if answered else SMALL))
    decoder = scene.server.stubs()["mini.vae_decoder"]
    process = _generate(scene, f"--size={side}", f"--steps={_LATE_STEPS}")
    until(lambda: scene.gauge("maisi_steps_total") > steps, 60, "it makes a step")
    decoder.suspend()  # for less than the 5 s after which it would be ended
    try:
        whole = steps + _LATE_STEPS
        until(lambda: scene.gauge("maisi_steps_total") >= whole, 4, "it makes the others")
        time.sleep(_REACHED)  # now it is the decoder's turn
        process.send_signal(signal.SIGSTOP if answered else signal.SIGKILL)
    finally:
        decoder.resume()
    if answered:  # by a server whose client takes nothing from the connection
        until(lambda: done() > before, 60, "the server has answered")
        process.kill()
        before += 1
    took = until(lambda: not scene.at_work(), 60, "nothing is at work")
    _none_was_made(done() - before)
    return took


def _none_was_made(volumes: float) -> None:
    if volumes:
        raise Wrong("a volume was made before the request of the dead client ended")


def _generate(scene: Scene, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "maisi_client", "generate", f"--url={scene.server.grpc}"]
    out = scene.folder / "killed.nii.gz"
    return subprocess.Popen([*command, *words, "--output", str(out)], stderr=subprocess.DEVNULL)
