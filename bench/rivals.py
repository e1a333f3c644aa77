"""The contenders, each in a process of its own: `scripts/bench rivals NAME TASK`.

`bench.life` starts it, waits for the line {"ready": true}, and writes the path of an .npy file for
each volume it wants; each is answered with a line of seconds. Whatever libraries print goes to
standard error. PyTorch is imported only by those that need it.
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
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import task as tasks
from bench.acceptance.engines import load
from bench.in_process import published
from bench.launcher import Server
from bench.servers import stream
from bench.task import Array, Task, Volume

_WAIT = 3600.0  # seconds; volumes of 512^3 on a CPU are slow

Make = Callable[[], Volume]
Contender = Callable[[Task], AbstractContextManager[tuple[Make, str]]]


def upstream(task: Task) -> AbstractContextManager[tuple[Make, str]]:
    """Give NV-Generate-CTMR's own code."""
    made: AbstractContextManager[tuple[Make, str]] = importlib.import_module(
        "bench.upstream"
    ).upstream(task)
    return made


@contextmanager
def eager(task: Task, compiled: bool = False) -> Iterator[tuple[Make, str]]:
    """Give MONAI's networks and scheduler in plain PyTorch, float32 on a CPU, autocast on a GPU."""
    import torch

    from backends.maisi.request import complete
    from bench.stages import Stages
    from export import networks, reference

    chosen = task.load()
    loaded = networks.load(chosen, Path(task.checkpoints))
    for network in (loaded.autoencoder, loaded.diffusion_unet, loaded.controlnet):
        network.to(task.device)
    stages = Stages(loaded.autoencoder, loaded.controlnet, task.device, inside=not compiled)
    if compiled:
        loaded.controlnet.compile()
        loaded.diffusion_unet.compile()
        loaded.autoencoder.decoder.compile()
    labels, drawn = tasks.mask(task), tasks.noise(task)
    plan = complete(chosen.parameter({}), tasks.request(task))
    rows: dict[str, Sequence[float]] = {
        "spacing_tensor": plan.spacing,
        "class_labels": [plan.class_label],
    }

    def sample() -> Array:
        with torch.autocast("cuda", enabled=task.device == "cuda"):
            image = reference.volume(
                loaded, drawn, rows, task.steps, 0.0, None, labels, labels, task.device
            )
        return tasks.grey_levels(chosen.serving, image, labels)

    notes = "MONAI's networks without split convolutions, one decode of the whole volume"
    yield lambda: Volume(*stages.run(sample)), notes


@contextmanager
def compile(task: Task) -> Iterator[tuple[Make, str]]:
    """Give the same through torch.compile, whose first volume compiles with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        with eager(task, compiled=True) as (make, _):
            yield make, "the networks of eager through torch.compile; its first volume compiles"


@contextmanager
def engines(task: Task) -> Iterator[tuple[Make, str]]:
    """Give the repository's graphs and the server's own stages in this process, without Triton."""
    from backends.maisi import conditioning, decoder, sampler
    from backends.maisi.request import complete

    table = published(task.load().name, task.models)
    models = ("mask_encoder", "flow_masked", "vae_decoder")
    opened = {model: open_model(task, model) for model in models}
    asked = tasks.request(task)

    def engine(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        found = opened[model](inputs)
        return [found[name] for name in outputs]

    def make() -> Volume:
        begin = time.perf_counter()
        plan = complete(table, asked)
        first = conditioning.noise(table, plan, asked["latent"])
        steered: dict[str, Any] = conditioning.rows(table, plan)
        labels = conditioning.labels(table, plan, asked["mask"])
        encoding = time.perf_counter()
        (steered["embedding"],) = engine("mask_encoder", {"labels": labels}, ["embedding"])
        sampling = time.perf_counter()
        latent = sampler.sample(table, plan, first, steered, engine)
        decoding = time.perf_counter()
        image = decoder.decode(table, plan, latent, asked["mask"], engine)
        end = time.perf_counter()
        seconds: dict[str, float | None] = {
            "mask_encoder": sampling - encoding,
            "sampler": decoding - sampling,
            "decoder": end - decoding,
            "total": end - begin,
        }
        return Volume(image, seconds)

    yield make, "the graphs and the code of our service in one process"


def open_model(task: Task, model: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Open a model of the repository with the runtime that the server has for it."""
    on_gpu = {"onnx": "onnxruntime-cuda"}.get(task.target, task.target)
    folder = task.models / f"{task.load().name}.{model}" / "1"
    return load(folder, "openvino" if task.device == "cpu" else on_gpu)


@contextmanager
def service(task: Task) -> Iterator[tuple[Make, str]]:
    """Give our server, asked over gRPC by tritonclient."""
    name, inputs = task.load().name, tasks.request(task)
    with tempfile.TemporaryDirectory() as folder, _served(task, Path(folder, "log")) as server:

        def make() -> Volume:
            begin = time.perf_counter()
            result = stream(server.grpc, name, inputs, _WAIT)
            image, report = result.as_numpy("image"), result.as_numpy("report")
            total = time.perf_counter() - begin
            seconds = json.loads(report.tobytes())["seconds"]
            stages = {stage: seconds[stage] for stage in ("mask_encoder", "sampler", "decoder")}
            return Volume(image, {**stages, "total": total})

        yield make, "over gRPC, with the transfers; the stages are those of its report"


@contextmanager
def _served(task: Task, log: Path) -> Iterator[Server]:
    """Serve the task's variant; at the end, write the server's log to standard error."""
    try:
        with Server(task.models, log, f"--models={task.load().name}") as server:
            yield server
    finally:
        print(log.read_text(), file=sys.stderr)


CONTENDERS: dict[str, Contender] = {
    "upstream": upstream,
    "eager": eager,
    "compile": compile,
    "engines": engines,
    "service": service,
}


def main() -> int:
    """Make volumes until standard input ends; return the exit status."""
    name, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        with CONTENDERS[name](task) as (make, notes):
            print(json.dumps({"ready": True, "notes": notes}), file=told)
            for line in sys.stdin:
                volume = make()
                np.save(line.strip(), volume.image)
                print(json.dumps({"seconds": volume.seconds}), file=told)
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split()) or "no reason given"
        print(json.dumps({"error": f"{type(error).__name__}: {said[:300]}"}), file=told)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
