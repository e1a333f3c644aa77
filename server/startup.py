"""Wait until a started tritonserver is ready.

A server is ready when its models are loaded, every variant has made its smallest volumes, and every
network has refused a call without the token.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

from server import region_modes
from server.control import ControlError, Smallest, variant_of
from server.drain import Stop, Stopped
from server.log import log
from server.settings import CannotServe, Settings
from server.triton import Triton

CALL = 10.0  # seconds for the answer of a network, which should refuse at once
UNHEALTHY = 20.0  # seconds for which Triton's report of a dead process is ignored
RETRY = 0.5  # seconds between two attempts at a first volume


def wait_until_ready(triton: Triton, settings: Settings, stop: Stop) -> dict[str, Smallest]:
    """Wait until the server is ready; return the smallest volume of each variant.

    If tritonserver aborts while it loads the models, it is started once more. Raises CannotServe if
    the start takes more than `start_seconds` or fails, and Stopped at a signal.
    """
    deadline = time.monotonic() + settings.start_seconds
    aborted = False
    while not triton.control.ready():
        if stop.requested:
            raise Stopped
        status = triton.process.poll()
        if status == -signal.SIGABRT and not aborted:
            # Triton 2.51 sometimes aborts with a lock_exception while Python models load
            # (github.com/triton-inference-server/server/issues/8882).
            aborted = True
            log("tritonserver aborted while it loaded the models; starting it once more")
            triton.restart()
        elif status is not None:
            raise CannotServe(
                f"tritonserver ended with status {status} while it loaded the models; its own"
                " lines above say why."
            )
        if time.monotonic() > deadline:
            raise CannotServe(
                f"The models did not load within {settings.start_seconds:g} seconds; the last"
                " 'loading' line above names the one that hangs (--start-seconds waits longer)."
            )
        time.sleep(0.1)
    region_modes.close_regions(triton.prefix)
    variants = {}
    configs = {
        model: triton.control.config(model)
        for model, state in sorted(triton.control.states().items())
        if state == "READY"
    }
    for model, config in configs.items():
        if "ensemble_scheduling" not in config or (variant := variant_of(config)) is None:
            continue
        if earlier := [name for name in configs if of_earlier_version(configs[name], model)]:
            raise CannotServe(
                f"{', '.join(earlier)}: built for an earlier version of this server; build"
                f" {model} again (python -m export build)."
            )
        variants[model] = Smallest.of(config, variant)
        make_first(triton, model, variants[model], settings.start_seconds, stop)
    return variants


def make_first(triton: Triton, model: str, smallest: Smallest, seconds: float, stop: Stop) -> None:
    """Make a variant's smallest volumes; try again while the server is overloaded.

    Clients may call before the server is ready. If their requests leave no time for these volumes
    within `seconds`, `Health` tries again later. Raises CannotServe if a volume cannot be made, and
    Stopped at a signal.
    """
    start = time.monotonic()
    end = start + seconds
    while True:
        if stop.requested:
            raise Stopped
        try:
            triton.control.probe(model, smallest, max(end - time.monotonic(), 1.0))
            return
        except ControlError as error:
            # On a busy machine, Triton may report a living process as dead for a while.
            unhealthy = "is not healthy" in str(error) and time.monotonic() < start + UNHEALTHY
            failed = error.answered and not (error.unavailable or unhealthy)
            late = time.monotonic() > end
            if failed or ((late or not error.answered) and not works(triton)):
                raise CannotServe(f"{model} loaded but cannot compute: {error}") from None
            if late:
                log(f"{model} serves requests, but its first volume failed: {error}")
                return
        stop.wait(RETRY)


def works(triton: Triton) -> bool:
    """Return whether the server processes requests of clients; False if it does not answer."""
    try:
        return triton.control.activity().running > 0
    except ControlError:
        return False


def of_earlier_version(config: Mapping[str, Any], variant: str) -> bool:
    """Return whether a model is a network of the variant as earlier versions of export wrote it.

    Without `network` it would compute without the token; without `grey_levels` a VAE decoder would
    return 0..1.
    """
    runs = config.get("backend") or config.get("platform")
    name, parameters = config["name"], config.get("parameters", {})
    return (
        name.startswith(f"{variant}.")
        and runs in ("onnxruntime", "slabs", "tensorrt_rtx", "tensorrt", "tensorrt_plan")
        and (
            "network" not in parameters
            or (name == f"{variant}.vae_decoder" and "grey_levels" not in parameters)
        )
    )


def check_networks(triton: Triton, variants: Iterable[str], seconds: float, stop: Stop) -> None:
    """Check that every network of the variants refuses a call without the token.

    The configuration has the name of the backend, but does not show its behaviour. Raises
    CannotServe if a network computes or does not refuse within `seconds`, and Stopped at a signal.
    """
    end = time.monotonic() + seconds
    for model, state in sorted(triton.control.states().items()):
        variant = model.partition(".")[0]
        if state != "READY" or variant not in variants:
            continue
        config = triton.control.config(model)
        if "network" not in config.get("parameters", {}):
            continue
        while (answer := _without_token(triton, config)) is None and time.monotonic() < end:
            if stop.wait(RETRY):
                raise Stopped
        if answer is None or f"only the stages of {variant} call it" not in answer:
            raise CannotServe(
                f"{model}: answers any client, or did not refuse a call without the"
                " token; serve it by this project's backends."
            )


def _without_token(triton: Triton, config: Mapping[str, Any]) -> str | None:
    """Return a network's error for a call without the token.

    The result is empty if the network computes, and None if it had no time to answer.
    """
    try:
        triton.control.call_without_token(config, CALL)
    except ControlError as error:
        return str(error) if error.answered and not error.unavailable else None
    return ""
