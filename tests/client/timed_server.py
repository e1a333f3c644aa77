"""A fake server with known times: it works on one request at a time, and compiles new sizes."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as pb

from tests.client.fake_server import REPORT, contents, fake_server, message

SIDES = {"min": [1, 1, 1], "max": [999, 999, 999], "multiple": 1, "max_voxels": 10**6}
VARIANT = {
    "name": "mini",
    "modalities": {"mri_t1": 9},
    "size": SIDES,
    "spacing": {"min": [0.5] * 3, "max": [5.0] * 3},
    "defaults": {"modality": "mri_t1", "size": [4, 4, 4], "steps": 1},
}
FULL = "[overloaded retry_after=1] overloaded: 2 requests are here; try again in 1 s"
_KEPT = 2  # compiled sizes


@dataclass
class TimedServer:
    """The address of a server, the sizes of the volumes that it made, and how it was used.

    `worked` is its time of work in seconds; `compiled` counts the compilations, `refused` the
    refusals; `most` is the largest number of requests that it had.
    """

    url: str = ""
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    worked: float = 0.0
    compiled: int = 0
    most: int = 0
    refused: int = 0


def configs(working: int = 1, waiting: int = 8) -> list[Any]:
    """Return the configurations of a variant's ensemble and stream."""
    text = json.dumps({**VARIANT, "limits": {"waiting": [0, waiting]}})
    stream = model_config.ModelConfig(name="mini.stream")
    ensemble = model_config.ModelConfig(name="mini", platform="ensemble")
    for config in (stream, ensemble):
        config.parameters["variant"].string_value = text
    for name in ("mask", "size", "spacing", "seed", "modality"):
        stream.input.add(name=name)
    stream.parameters["devices"].string_value = str(working)
    return [ensemble, stream]


@contextmanager
def timed_server(
    seconds: Callable[[tuple[int, ...]], float],
    compile_seconds: float = 0.0,
    refuse_above: int = 99,
    **capacity: int,
) -> Iterator[TimedServer]:
    """Serve volumes full of their seed that take `seconds(size)`, and longer for a new size.

    A request is refused while more than `refuse_above` are there.
    """
    server, kept = TimedServer(), deque[tuple[int, ...]](maxlen=_KEPT)
    turn, count, present = threading.Lock(), threading.Lock(), 0

    def answer(request: Any, context: Any) -> Iterator[Any]:
        nonlocal present
        tensors = contents(request)
        (size,) = (
            tuple(tensor.shape)
            if tensor.name == "mask"
            else tuple(np.frombuffer(tensors["size"], np.int32).tolist())
            for tensor in request.inputs
            if tensor.name in ("mask", "size")
        )
        seed = np.frombuffer(tensors["seed"], np.int64).item()
        arrived = time.monotonic()
        with count:
            present += 1
            server.most = max(server.most, present)
            refused = present > refuse_above
            present -= refused
        if refused:
            server.refused += 1
            yield pb.ModelStreamInferResponse(error_message=FULL)
            return
        with turn:
            began = time.monotonic()
            if size in kept:
                kept.remove(size)
            else:
                server.compiled += 1
                time.sleep(compile_seconds)
            kept.append(size)
            time.sleep(seconds(size))
            server.sizes.append(size)
            server.worked += time.monotonic() - began
        with count:
            present -= 1
        now = time.monotonic()
        times = {"total": now - arrived, "waiting": began - arrived}
        report = json.dumps({**REPORT, "seed": seed, "seconds": times, "weights": {}})
        done = {"stage": "done", "progress": np.array([1], np.float32)}
        yield message(True, **done, image=np.full(size, seed, np.int16), report=report)

    with fake_server(answer, configs(**capacity), threads=16) as (url, _):
        server.url = url
        yield server
