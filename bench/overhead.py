"""Compare the time of a step through Triton with the time of its graph in this process.

    scripts/bench overhead [--sides 32 48] [--repeat 5] [--write]

A small difference between two noisy times has little meaning. The calls are therefore also timed
alone: in a second server, the flow is a graph that transfers the same tensors and computes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as grpc
from onnx import TensorProto, helper

from bench import page
from bench.in_process import REPOSITORY, RunGraph, open_graph, published
from bench.launcher import Server
from bench.network_inputs import infer_inputs
from bench.workload import Array
from export import variant

RUNTIME = "OpenVINO"  # the engine of the server's flow
STEPS = 5
IDLE_STEPS = 100  # with the graph that computes nothing


@dataclass(frozen=True)
class Subject:
    """A variant with a ControlNet in a repository, its precision, and the function for its flow.

    `open` takes the flow's version folder and returns a function that runs it.
    """

    variant: str
    repository: Path
    precision: str
    open: Callable[[Path], RunGraph]

    @property
    def flow(self) -> str:
        """The name of the model that computes a step."""
        return f"{self.variant}.flow_masked"

    def published(self) -> dict[str, Any]:
        """Return the limits and defaults that the variant publishes."""
        return published(self.variant, self.repository)


MINI = Subject("mini", REPOSITORY, "fp32", open_graph)


def feeds(subject: Subject, side: int) -> dict[str, Array]:
    """Return inputs of the flow, one row, for a latent with `side` voxels per side."""
    random, axes = np.random.default_rng(0), (side, side, side)
    table, details = subject.published(), variant.load(subject.variant)
    half = details.tensor_type("embedding", subject.precision) == "FP16"
    latent = (1, table["latent"]["channels"], *axes)
    embedding = (1, details.networks["controlnet"]["num_channels"][0], *axes)
    modality = table["modalities"][table["defaults"]["modality"]]
    return {
        "latent": random.standard_normal(latent, np.float32),
        "z": random.standard_normal(latent, np.float32),
        "coefficients": np.array([1, 0.03, 0], np.float32),
        "timestep": np.array([500], np.float32),
        "guidance": np.array([0], np.float32),
        "class_labels": np.array([modality], np.int64),
        "spacing_mm100": np.full((1, 3), 200, np.float32),
        "embedding": random.standard_normal(embedding, np.float32).astype("f2" if half else "f4"),
    }


def write_idle(subject: Subject, repository: Path) -> None:
    """Fill a folder with the models of the variant, except for a flow that returns its inputs."""
    for model in subject.repository.glob(f"{subject.variant}*"):
        if model.name != subject.flow:
            (repository / model.name).symlink_to(model)
    source, target = (folder / subject.flow for folder in (subject.repository, repository))
    version = target / "1"
    version.mkdir(parents=True)
    (target / "config.pbtxt").symlink_to(source / "config.pbtxt")
    graph = onnx.load(source / "1" / "model.onnx", load_external_data=False).graph
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
def serving(subject: Subject, repository: Path) -> Iterator[Callable[[int, int], float]]:
    """Serve a repository; yield a function of the latent's side and steps to seconds per step."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(repository, Path(folder, "log")) as server,
        grpc.InferenceServerClient(server.grpc) as client,
    ):
        yield lambda side, steps: step_seconds(subject, client, side, steps)


def step_seconds(subject: Subject, client: Any, side: int, steps: int) -> float:
    """Request a volume; return the sampler's seconds per step, from the report."""
    table = subject.published()
    label = next(int(label) for label in table["labels"] if int(label))
    arrays = {
        "mask": np.full((side * table["latent"]["factor"],) * 3, label, np.uint8),
        "steps": np.array([steps], np.int32),
        "seed": np.array([1]),
        "guidance": np.array([0], np.float32),
    }
    outputs = [grpc.InferRequestedOutput("report")]
    result = client.infer(
        subject.variant, infer_inputs(arrays), outputs=outputs, client_timeout=600
    )
    report = json.loads(result.as_numpy("report").tobytes())
    return float(report["seconds"]["sampler"]) / steps


def call_seconds(subject: Subject, sides: Sequence[int], repeat: int) -> dict[int, float]:
    """Return the median seconds of a step that computes nothing, by side of the latent."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        write_idle(subject, Path(folder))
        with serving(subject, Path(folder)) as step:
            for side in sides:
                step(side, IDLE_STEPS)
                times[side] = statistics.median(step(side, IDLE_STEPS) for _ in range(repeat))
    return times


def pairs(
    subject: Subject, sides: Sequence[int], repeat: int
) -> Iterator[tuple[int, float, float]]:
    """Yield each side with the median seconds of a served step and of a step in this process."""
    run = subject.open(subject.repository / subject.flow / "1")
    with serving(subject, subject.repository) as step:
        for side in sides:
            inputs = feeds(subject, side)
            served, in_process = [], []
            for _ in range(repeat + 1):  # in turn, so that both have the same load of the machine
                started = time.perf_counter()
                for _ in range(STEPS):
                    run(inputs)
                in_process.append((time.perf_counter() - started) / STEPS)
                served.append(step(side, STEPS))
            yield side, statistics.median(served[1:]), statistics.median(in_process[1:])


def measure(sides: Sequence[int], repeat: int, subject: Subject = MINI) -> list[dict[str, float]]:
    """Return a row for each side: the medians in milliseconds, and their ratios."""
    idle = call_seconds(subject, sides, repeat)
    return [
        {
            "side": side,
            "served_ms": round(1e3 * served, 2),
            "in_process_ms": round(1e3 * in_process, 2),
            "ratio": round(served / in_process, 4),
            "calls_ms": round(1e3 * idle[side], 2),
            "calls_share": round(idle[side] / in_process, 4),
        }
        for side, served, in_process in pairs(subject, sides, repeat)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench overhead", description="Measure the overhead of Triton for a step."
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[32, 48], help="sides of the latents, voxels"
    )
    parser.add_argument("--repeat", type=int, default=5, help="measurements for each median")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    options = parser.parse_args(arguments)
    rows = measure(options.sides, options.repeat)
    text = (
        f"`{MINI.variant}` from a mask, one row, {RUNTIME} on both sides; medians of "
        f'{options.repeat} runs of {STEPS} steps, in turn. "Calls alone" is a step through the '
        "same server with a graph that transfers the same tensors and computes nothing. It is the "
        "overhead of Triton.\n\n"
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
    print(json.dumps({"variant": MINI.variant, "repeat": options.repeat, "rows": rows}))
    if options.write:
        page.write("Overhead of a step", "scripts/bench overhead --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
