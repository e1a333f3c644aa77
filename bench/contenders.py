"""Run one contender in its own process: `python -m bench.contenders NAME WORKLOAD`.

`bench.trial` starts the process and waits for the line {"ready": true}. For each volume, it writes
the path of an .npy file to standard input and reads a line with the seconds. The output of
libraries goes to standard error. Only the contenders that need PyTorch import it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.acceptance.loading import load
from bench.in_process import published
from bench.launcher import Server
from bench.servers import stream
from bench.workload import Array, TimedVolume, Workload, grey_levels

_WAIT = 3600.0  # seconds; volumes of 512^3 on a CPU are slow

Make = Callable[[], TimedVolume]
Contender = Callable[[Workload], AbstractContextManager[tuple[Make, str]]]


def upstream(workload: Workload) -> AbstractContextManager[tuple[Make, str]]:
    """Return the contender that runs NV-Generate-CTMR's own code."""
    context: AbstractContextManager[tuple[Make, str]] = importlib.import_module(
        "bench.upstream"
    ).upstream(workload)
    return context


@contextmanager
def eager(workload: Workload, compiled: bool = False) -> Iterator[tuple[Make, str]]:
    """Yield the contender that runs MONAI's networks and scheduler in plain PyTorch.

    It computes in float32 on a CPU and with autocast on a GPU.
    """
    import torch

    from backends.maisi.request import complete
    from bench.stage_timer import StageTimer
    from export import networks, reference

    variant = workload.load()
    loaded = networks.load(variant, Path(workload.checkpoints))
    controlnet = [] if loaded.controlnet is None else [loaded.controlnet]
    for network in (loaded.autoencoder, loaded.diffusion_unet, *controlnet):
        network.to(workload.device)
    timed = None if compiled else loaded.controlnet
    stages = StageTimer(loaded.autoencoder, timed, workload.device)
    if compiled:
        for network in (loaded.diffusion_unet, loaded.autoencoder.decoder, *controlnet):
            network.compile()
    labels, noise = workload.mask() if workload.masked else None, workload.noise()
    plan = complete(variant.parameter({}), workload.request())
    rows: dict[str, Sequence[float]] = {
        "spacing_tensor": plan.spacing,
        "class_labels": [plan.class_label],
    }

    def sample() -> Array:
        with torch.autocast("cuda", enabled=workload.device == "cuda"):
            image = reference.volume(
                loaded,
                noise,
                rows,
                workload.steps,
                workload.guidance,
                None,
                labels,
                labels,
                workload.device,
            )
        return grey_levels(variant.serving, image, labels)

    notes = "MONAI's networks without split convolutions, one decode of the whole volume"
    yield lambda: TimedVolume(*stages.run(sample)), notes


@contextmanager
def compile(workload: Workload) -> Iterator[tuple[Make, str]]:
    """Yield `eager` with torch.compile; the cache is empty, so that the first volume compiles."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        with eager(workload, compiled=True) as (make, _):
            yield make, "the networks of eager with torch.compile; the first volume compiles"


@contextmanager
def engines(workload: Workload) -> Iterator[tuple[Make, str]]:
    """Yield the contender that runs the server's graphs and stages in this process, no Triton."""
    from backends.maisi import conditioning, decoder, sampler
    from backends.maisi.request import complete

    table = published(workload.load().name, workload.models)
    networks = ("mask_encoder", "flow_masked") if workload.masked else ("flow",)
    graphs = {name: open_model(workload, name) for name in (*networks, "vae_decoder")}
    inputs = workload.request()
    mask = inputs.get("mask")

    def engine(model: str, feeds: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        results = graphs[model](feeds)
        return [results[name] for name in outputs]

    def make() -> TimedVolume:
        begin = time.perf_counter()
        plan = complete(table, inputs)
        first = conditioning.noise(table, plan, inputs["latent"])
        conditions: dict[str, Any] = conditioning.condition_rows(table, plan)
        encoding = time.perf_counter()
        if mask is not None:
            labels = conditioning.label_rows(table, plan, mask)
            (conditions["embedding"],) = engine("mask_encoder", {"labels": labels}, ["embedding"])
        sampling = time.perf_counter()
        latent = sampler.sample(table, plan, first, conditions, engine)
        decoding = time.perf_counter()
        served = decoder.in_grey_levels(table, engine)
        image = decoder.decode(table, plan, latent, mask, served)
        end = time.perf_counter()
        seconds: dict[str, float | None] = {
            "mask_encoder": None if mask is None else sampling - encoding,
            "sampler": decoding - sampling,
            "decoder": end - decoding,
            "total": end - begin,
        }
        return TimedVolume(image, seconds)

    yield make, "the graphs and the code of our service in one process"


def open_model(workload: Workload, model: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return a model of the repository as a function, in the runtime that the server uses."""
    on_gpu = {"onnx": "onnxruntime-cuda"}.get(workload.target, workload.target)
    folder = workload.models / f"{workload.load().name}.{model}" / "1"
    return load(folder, "openvino" if workload.device == "cpu" else on_gpu)


@contextmanager
def service(workload: Workload, bfloat16: bool = False) -> Iterator[tuple[Make, str]]:
    """Yield the contender that calls our server over gRPC with tritonclient."""
    name, inputs = workload.load().name, workload.request()
    notes = "over gRPC, including transfers; the times of stages are from the report"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        options = [f"--models={name}"]
        if bfloat16:
            options.append("--bfloat16")
            notes = "as our service, started with `--bfloat16`"
        server = stack.enter_context(_served(workload.models, options, Path(folder, "log")))

        def make() -> TimedVolume:
            begin = time.perf_counter()
            result = stream(server.grpc, name, inputs, _WAIT)
            image, report = result.as_numpy("image"), result.as_numpy("report")
            total = time.perf_counter() - begin
            seconds = json.loads(report.tobytes())["seconds"]
            stages = {name: seconds.get(name) for name in ("mask_encoder", "sampler", "decoder")}
            return TimedVolume(image, {**stages, "total": total})

        yield make, notes


@contextmanager
def _served(models: Path, options: Sequence[str], log: Path) -> Iterator[Server]:
    """Serve with `options`; at the end, write the server's log to standard error."""
    try:
        with Server(models, log, *options) as server:
            yield server
    finally:
        print(log.read_text(), file=sys.stderr)


DEFAULT: dict[str, Contender] = {
    "upstream": upstream,
    "eager": eager,
    "compile": compile,
    "engines": engines,
    "service": service,
}
CONTENDERS = DEFAULT | {"service-bfloat16": partial(service, bfloat16=True)}


def main() -> int:
    """Make volumes until standard input ends; return the exit status."""
    name, workload = sys.argv[1], Workload(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        with CONTENDERS[name](workload) as (make, notes):
            print(json.dumps({"ready": True, "notes": notes}), file=answers)
            for line in sys.stdin:
                volume = make()
                np.save(line.strip(), volume.image)
                print(json.dumps({"seconds": volume.seconds}), file=answers)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split()) or "no reason given"
        print(json.dumps({"error": f"{type(error).__name__}: {reason[:300]}"}), file=answers)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
