"""What an answer takes from the server to a client beside it: by gRPC and through shared memory.

    scripts/bench transfer [--sides 64 128 512] [--repeat 5] [--write]

The model is a stand-in that computes nothing and hands out the same int16 volume. The client is
ours, up to the array; what it makes of that is the same in both ways. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from maisi_client._request import prepare
from maisi_client._transport import channel, shared, threads
from maisi_client._transport.pool import Pool
from maisi_client._transport.session import Session

from bench import page
from bench.overhead import served

WAYS = {"gRPC": sys.maxsize, "shared memory": 0}  # and the threshold that makes it so
GZIP_LEVEL = 6  # gRPC's
STAND_IN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.image = np.empty((0, 0, 0), np.int16)

    def execute(self, requests):
        for request in requests:
            size = tuple(pb_utils.get_input_tensor_by_name(request, "size").as_numpy())
            if self.image.shape != size:
                self.image = np.arange(np.prod(size), dtype=np.int16).reshape(size)
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("image", self.image)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CONFIG = """
name: "transfer.stream"
backend: "python"
max_batch_size: 0
input [{ name: "size" data_type: TYPE_INT32 dims: [3] },
       { name: "seed" data_type: TYPE_INT64 dims: [1] }]
output [{ name: "image" data_type: TYPE_INT16 dims: [-1, -1, -1] }]
model_transaction_policy { decoupled: true }
instance_group [{ count: 1 }]
"""


def lay(repository: Path) -> None:
    """Fill a folder with the stand-in."""
    version = repository / "transfer.stream" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(STAND_IN)
    (version.parent / "config.pbtxt").write_text(CONFIG)


def seconds(url: str, side: int, threshold: int) -> float:
    """Return the seconds from a request to the array, a connection of its own included."""
    before, shared.THRESHOLD = shared.THRESHOLD, threshold
    pool = Pool(url, lambda address: channel.connect(address, None))
    session = Session(pool, url, 600, 600, 0)
    try:
        started = time.perf_counter()
        request = prepare(None, {"variant": "transfer", "size": [side] * 3})
        results = threads.events(session.results(request), None)
        found = [image for result in results if (image := result.as_numpy("image")) is not None]
        took = time.perf_counter() - started
        if pool.servers[0].far_until:
            raise SystemExit("transfer: shared memory could not be had; the log says why (DEBUG).")
    finally:
        pool.servers[0].connection.close()
        shared.THRESHOLD = before
    (image,) = found
    assert image.shape == (side,) * 3 and image[0, 0, -1] == side - 1
    return took


def gzip_seconds(side: int) -> tuple[float, float]:
    """Return the seconds that gzip takes for a smooth volume with noise, and what is left of it."""
    ramp = np.linspace(0, 1000, side, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal((side,) * 3, np.float32)
    data = (15 * noise + ramp).astype(np.int16).tobytes()
    started = time.perf_counter()
    left = len(zlib.compress(data, GZIP_LEVEL)) / len(data)
    return time.perf_counter() - started, left


def measure(sides: Sequence[int], repeat: int) -> list[dict[str, float]]:
    """Return for each side the medians of both ways, in turn, in milliseconds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder))
        with served(Path(folder)) as url:
            for side in sides:
                times: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(repeat + 1):
                    for way, threshold in WAYS.items():
                        times[way].append(1e3 * seconds(url, side, threshold))
                medians = {way: round(statistics.median(t[1:]), 1) for way, t in times.items()}
                rows.append({"side": side, "megabytes": 2 * side**3 / 1e6, **medians})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench transfer", description="Seconds of an answer's way."
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 160, 256, 512])
    parser.add_argument("--repeat", type=int, default=5, help="medians of so many")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    given = parser.parse_args(arguments)
    rows = measure(given.sides, given.repeat)
    packed, left = gzip_seconds(max(given.sides))
    text = (
        "An int16 answer from a model that computes nothing to a client on the same machine, from"
        f" the request to the array; medians of {given.repeat}, in turn. From"
        f" {shared.THRESHOLD >> 20} MiB on the client takes shared memory by itself.\n\n"
        + page.table(
            ["volume", "MB", *(f"{way}, ms" for way in WAYS)],
            [
                [f"{row['side']}³", f"{row['megabytes']:.1f}", *(f"{row[way]:.1f}" for way in WAYS)]
                for row in rows
            ],
        )
        + f"\n\nNothing is compressed: gzip, as gRPC has it (level {GZIP_LEVEL}), takes"
        f" {packed:.1f} s for a ramp with noise of 15 grey levels at {max(given.sides)}³, once,"
        f" and leaves {left:.0%} of it."
    )
    print(text + "\n")
    print(json.dumps({"repeat": given.repeat, "rows": rows, "gzip_s": round(packed, 2)}))
    if given.write:
        page.write("Transfer", "scripts/bench transfer --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
