"""Measure the time of an answer to a client on the same machine, by gRPC and by shared memory.

    scripts/bench transfer [--sides 64 128 512] [--repeat 5] [--write]

The model is a stand-in that computes nothing and always returns the same int16 volume. The client
is tritonclient; the time ends when it has the array. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from bench import page
from bench.launcher import KEY_HEADER, SHM
from bench.network_inputs import infer_inputs
from bench.servers import keyed
from bench.workload import Array

MODEL = "transfer"
CLIENT_THRESHOLD = 8 << 20  # bytes; our client uses shared memory for answers of this size or more
GZIP_LEVEL = 6  # the level of gRPC
STAND_IN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.image = np.empty((0, 0, 0), np.int16)

    def execute(self, requests):
        answers = []
        for request in requests:
            size = tuple(pb_utils.get_input_tensor_by_name(request, "size").as_numpy())
            if self.image.shape != size:
                self.image = np.arange(np.prod(size), dtype=np.int16).reshape(size)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("image", self.image)]))
        return answers
"""
CONFIG = """
name: "transfer"
backend: "python"
max_batch_size: 0
input [{ name: "size" data_type: TYPE_INT32 dims: [3] }]
output [{ name: "image" data_type: TYPE_INT16 dims: [-1, -1, -1] }]
instance_group [{ count: 1 }]
"""


def write_stand_in(repository: Path) -> None:
    """Write a model repository with the stand-in."""
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(STAND_IN)
    (version.parent / "config.pbtxt").write_text(CONFIG)


def by_grpc(client: Any, key: str, side: int) -> Array:
    """Return the volume, int16 `[side, side, side]`, of an answer by gRPC."""
    size = infer_inputs({"size": np.full(3, side, np.int32)})
    image: Array = client.infer(MODEL, size).as_numpy("image")
    return image


def by_shared_memory(client: Any, key: str, side: int) -> Array:
    """Return the volume, int16 `[side, side, side]`, of an answer in shared memory.

    The shared memory is created and registered for this answer.
    """
    name, count = f"maisi-client-transfer-{os.getpid()}", 2 * side**3
    path, headers = SHM / name, {KEY_HEADER: key}
    output = grpc.InferRequestedOutput("image")
    output.set_shared_memory(name, count)
    with path.open("w+b") as file:
        file.truncate(count)
        try:
            client.register_system_shared_memory(name, f"/{name}", count, headers=headers)
            size = infer_inputs({"size": np.full(3, side, np.int32)})
            client.infer(MODEL, size, outputs=[output])
            client.unregister_system_shared_memory(name, headers=headers)
            return np.fromfile(file, np.int16).reshape((side,) * 3)
        finally:
            path.unlink()


METHODS = {"gRPC": by_grpc, "shared memory": by_shared_memory}


def seconds(url: str, key: str, side: int, method: Callable[[Any, str, int], Array]) -> float:
    """Return the seconds from a request to the array, including a new connection."""
    started = time.perf_counter()
    with grpc.InferenceServerClient(url) as client:
        image = method(client, key, side)
    elapsed = time.perf_counter() - started
    assert image.shape == (side,) * 3 and image[0, 0, -1] == side - 1
    return elapsed


def gzip_seconds(side: int) -> tuple[float, float]:
    """Return the seconds of gzip for a smooth volume with noise, and the share that remains."""
    ramp = np.linspace(0, 1000, side, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal((side,) * 3, np.float32)
    data = (15 * noise + ramp).astype(np.int16).tobytes()
    started = time.perf_counter()
    remainder = len(zlib.compress(data, GZIP_LEVEL)) / len(data)
    return time.perf_counter() - started, remainder


def measure(sides: Sequence[int], repeat: int) -> list[dict[str, float]]:
    """Return a row for each side: the medians of both methods, in turn, in milliseconds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_stand_in(Path(folder, "models"))
        with keyed(Path(folder, "models"), Path(folder, "log")) as (server, key):
            for side in sides:
                times: dict[str, list[float]] = {name: [] for name in METHODS}
                for _ in range(repeat + 1):
                    for name, method in METHODS.items():
                        times[name].append(1e3 * seconds(server.grpc, key, side, method))
                medians = {
                    method: round(statistics.median(t[1:]), 1) for method, t in times.items()
                }
                rows.append({"side": side, "megabytes": 2 * side**3 / 1e6, **medians})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench transfer",
        description="Measure the time of an answer by gRPC and by shared memory.",
    )
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[64, 128, 160, 256, 512],
        help="voxels per side of the volumes",
    )
    parser.add_argument("--repeat", type=int, default=5, help="measurements for each median")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    options = parser.parse_args(arguments)
    rows = measure(options.sides, options.repeat)
    gzip_time, remainder = gzip_seconds(max(options.sides))
    text = (
        "The time from the request to the int16 array, for a model that computes nothing and a"
        f" client on the same machine; medians of {options.repeat}, in turn. For answers of"
        f" {CLIENT_THRESHOLD >> 20} MiB or more, our client uses shared memory automatically.\n\n"
        + page.table(
            ["volume", "MB", *(f"{method}, ms" for method in METHODS)],
            [
                [
                    f"{row['side']}³",
                    f"{row['megabytes']:.1f}",
                    *(f"{row[method]:.1f}" for method in METHODS),
                ]
                for row in rows
            ],
        )
        + f"\n\nNothing is compressed. gzip at level {GZIP_LEVEL}, which gRPC uses, takes"
        f" {gzip_time:.1f} s for a ramp of {max(options.sides)}³ voxels with noise of 15 grey"
        f" levels, and reduces it to {remainder:.0%}."
    )
    print(text + "\n")
    print(json.dumps({"repeat": options.repeat, "rows": rows, "gzip_s": round(gzip_time, 2)}))
    if options.write:
        page.write("Transfer", "scripts/bench transfer --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
