"""The time of a step through Triton, beside the same graph in this process.

    scripts/bench overhead [--sides 32 48] [--repeat 5] [--write]

A small difference of two noisy times has little meaning. So the calls are also timed by themselves:
in a second server the flow is a graph that moves the same tensors and computes nothing.
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

RUNTIME = "OpenVINO"  # of the server's flow
STEPS = 5
IDLE_STEPS = 100  # of the graph that computes nothing


@dataclass(frozen=True)
class Subject:
    """A variant with a ControlNet in a repository, its precision, and the loader of its flow."""

    variant: str
    repository: Path
    precision: str
    open: Callable[[Path], RunGraph]

    @property
    def flow(self) -> str:
        """The model of a step."""
        return f"{self.variant}.flow_masked"

    def published(self) -> dict[str, Any]:
        """Return the limits and defaults that the variant publishes."""
        return published(self.variant, self.repository)


MINI = Subject("mini", REPOSITORY, "fp32", open_graph)


def feeds(subject: Subject, side: int) -> dict[str, Array]:
    """Return one row of inputs of the flow at a latent of `side` cubed."""
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
    """Fill a folder with the variant's models, and a flow that returns its inputs."""
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
    """Serve a repository; give a function (side of the latent, steps) -> seconds of a step."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(repository, Path(folder, "log")) as server,
        grpc.InferenceServerClient(server.grpc) as client,
    ):
        yield lambda side, steps: step_seconds(subject, client, side, steps)


def step_seconds(subject: Subject, client: Any, side: int, steps: int) -> float:
    """Request a volume and return the sampler's seconds a step, from the report."""
    table = subject.published()
    label = next(int(label) for label in table["labels"] if int(label))
    arrays = {
        "mask": np.full((side * table["latent"]["factor"],) * 3, label, np.uint8),
        "steps": np.array([steps], np.int32),
        "seed": np.array([1]),
        "guidance": np.array([0], np.float32),
    }
    outputs = [grpc.InferRequestedOutput("report")]
    answer = client.infer(
        subject.variant, infer_inputs(arrays), outputs=outputs, client_timeout=600
    )
    report = json.loads(answer.as_numpy("report").tobytes())
    return float(report["seconds"]["sampler"]) / steps


def call_seconds(subject: Subject, sides: Sequence[int], repeat: int) -> dict[int, float]:
    """Return side -> the median seconds of a step that computes nothing."""
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
    """Yield side, and the median seconds of a step served and of one in this process."""
    run = subject.open(subject.repository / subject.flow / "1")
    with serving(subject, subject.repository) as step:
        for side in sides:
            inputs = feeds(subject, side)
            both, alone = [], []
            for _ in range(repeat + 1):  # in turn, so that both see the same machine
                started = time.perf_counter()
                for _ in range(STEPS):
                    run(inputs)
                alone.append((time.perf_counter() - started) / STEPS)
                both.append(step(side, STEPS))
            yield side, statistics.median(both[1:]), statistics.median(alone[1:])


def measure(sides: Sequence[int], repeat: int, subject: Subject = MINI) -> list[dict[str, float]]:
    """Return for each side the medians in milliseconds, and their ratios."""
    idle = call_seconds(subject, sides, repeat)
    return [
        {
            "side": side,
            "served_ms": round(1e3 * both, 2),
            "in_process_ms": round(1e3 * alone, 2),
            "ratio": round(both / alone, 4),
            "calls_ms": round(1e3 * idle[side], 2),
            "calls_share": round(idle[side] / alone, 4),
        }
        for side, both, alone in pairs(subject, sides, repeat)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench overhead", description="A step's cost through Triton."
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48], help="of the latent")
    parser.add_argument("--repeat", type=int, default=5, help="medians of so many")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
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
