"""What a step costs through Triton, beside the same graph in this process.

    python -m bench.overhead [--sides 32 48] [--repeat 5] [--write]

The difference of two noisy times says little where it is small. So the calls are timed by
themselves, too: in a second server the flow is a graph that moves the same tensors and computes
nothing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as grpc
from onnx import TensorProto, helper

from bench import page
from bench.rooms import REPOSITORY, ROOT, Array, open_graph, published

VARIANT, FLOW = "mini", "mini.flow_masked"
RUNTIME = "OpenVINO"  # of the server's flow
STEPS = 5
IDLE_STEPS = 100  # of the graph that computes nothing


def feeds(side: int) -> dict[str, Array]:
    """Return one row of inputs of the flow at a latent of `side` cubed."""
    random, axes = np.random.default_rng(0), (side, side, side)
    variant = published(VARIANT)
    session = onnx.load(REPOSITORY / FLOW / "1" / "model.onnx", load_external_data=False)
    width = next(i for i in session.graph.input if i.name == "embedding")
    latent = (1, variant["latent"]["channels"], *axes)
    embedding = (1, width.type.tensor_type.shape.dim[1].dim_value, *axes)
    return {
        "latent": random.standard_normal(latent, np.float32),
        "z": random.standard_normal(latent, np.float32),
        "coefficients": np.array([1, 0.03, 0], np.float32),
        "timestep": np.array([500], np.float32),
        "guidance": np.array([0], np.float32),
        "class_labels": np.array([variant["modalities"]["mri_t1"]], np.int64),
        "spacing_mm100": np.full((1, 3), 200, np.float32),
        "embedding": random.standard_normal(embedding, np.float32),
    }


def lay_idle(repository: Path) -> None:
    """Fill a folder with the variant's models, but a flow that hands its inputs back."""
    for model in REPOSITORY.glob(f"{VARIANT}*"):
        if model.name != FLOW:
            (repository / model.name).symlink_to(model)
    version = repository / FLOW / "1"
    version.mkdir(parents=True)
    (repository / FLOW / "config.pbtxt").symlink_to(REPOSITORY / FLOW / "config.pbtxt")
    graph = onnx.load(REPOSITORY / FLOW / "1" / "model.onnx").graph
    nodes = [
        helper.make_node("Identity", ["latent"], ["next_latent"]),
        helper.make_node("Identity", ["z"], ["velocity"]),
    ]
    free = [1, 4, "x", "y", "z"]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, free)
        for name in ("next_latent", "velocity")
    ]
    idle = helper.make_graph(nodes, "idle", list(graph.input), outputs)
    model = helper.make_model(idle, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, version / "model.onnx")


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """Serve a repository on free ports; give where its gRPC is."""
    ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "status")]
    command = [sys.executable, "-m", "server", "--repository", str(repository), *ports]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            ready = re.search(r"grpc=(\S+)", server.stdout.readline())
            if ready is None:
                log.seek(0)
                raise SystemExit(f"bench: the server did not start: {log.read()[-2000:]}")
            yield ready[1]
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


@contextmanager
def serving(repository: Path) -> Iterator[Callable[[int, int], float]]:
    """Serve a repository; give what returns the seconds of a step: (side of the latent, steps)."""
    with served(repository) as url, grpc.InferenceServerClient(url) as client:
        yield lambda side, steps: step_seconds(client, side, steps)


def step_seconds(client: Any, side: int, steps: int) -> float:
    """Ask for a volume and return the sampler's seconds a step, as the report tells them."""
    factor = published(VARIANT)["latent"]["factor"]
    asked: dict[str, tuple[Array, str]] = {
        "mask": (np.full((side * factor,) * 3, 22, np.uint8), "UINT8"),
        "steps": (np.array([steps], np.int32), "INT32"),
        "seed": (np.array([1]), "INT64"),
    }
    inputs = []
    for name, (array, kind) in asked.items():
        inputs.append(grpc.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    wanted = [grpc.InferRequestedOutput("report")]
    answer = client.infer(VARIANT, inputs, outputs=wanted, client_timeout=600)
    report = json.loads(answer.as_numpy("report").tobytes())
    return float(report["seconds"]["sampler"]) / steps


def measure(sides: Sequence[int], repeat: int) -> list[dict[str, float]]:
    """Return for each side the medians in milliseconds, and their ratios."""
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        lay_idle(Path(folder))
        with serving(Path(folder)) as step:
            for side in sides:
                step(side, IDLE_STEPS)
                calls[side] = [step(side, IDLE_STEPS) for _ in range(repeat)]
    run = open_graph(REPOSITORY / FLOW / "1")
    rows = []
    with serving(REPOSITORY) as step:
        for side in sides:
            given = feeds(side)
            served, alone = [], []
            for _ in range(repeat + 1):  # in turn, so that both see the same machine
                started = time.perf_counter()
                for _ in range(STEPS):
                    run(given)
                alone.append((time.perf_counter() - started) / STEPS)
                served.append(step(side, STEPS))
            both, one, call = (
                1e3 * statistics.median(times) for times in (served[1:], alone[1:], calls[side])
            )
            rows.append(
                {
                    "side": side,
                    "served_ms": round(both, 2),
                    "in_process_ms": round(one, 2),
                    "ratio": round(both / one, 4),
                    "calls_ms": round(call, 2),
                    "calls_share": round(call / one, 4),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="overhead", description="A step's cost through Triton.")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48], help="of the latent")
    parser.add_argument("--repeat", type=int, default=5, help="medians of so many")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    given = parser.parse_args(arguments)
    rows = measure(given.sides, given.repeat)
    text = (
        f"`{VARIANT}` from a mask, one row, {RUNTIME} on both sides; medians of {given.repeat} "
        f'runs of {STEPS} steps, in turn. "Calls alone" is a step through the same server with a '
        "graph that moves the same tensors and computes nothing, so it is what Triton costs.\n\n"
    ) + page.table(
        ["latent", "served, ms", "in process, ms", "ratio", "calls alone, ms", "share of a step"],
        [
            [
                f"{row['side']}^3",
                *(f"{row[key]:.1f}" for key in ("served_ms", "in_process_ms")),
                f"{row['ratio']:.3f}",
                f"{row['calls_ms']:.2f}",
                f"{row['calls_share']:.2%}",
            ]
            for row in rows
        ],
    )
    print(text + "\n")
    print(json.dumps({"variant": VARIANT, "repeat": given.repeat, "rows": rows}))
    if given.write:
        page.write("Overhead of a step", "scripts/overhead --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
