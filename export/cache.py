"""The cache of a build: exported graphs and compiled plans, each in a folder named by its key.

The key of a graph is a hash of its weights' digests, its networks, the precision and this
exporter; the key of an engine is a hash of its graph's key, the target and the sizes that the
engine is built for.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from export import (
    capacity,
    graphs,
    networks,
    onnx_export,
    profiles,
    subgraph_onnx,
    tensorrt_plans,
)
from export.graphs import NEEDS, Graph
from export.job import Job, Log
from export.profiles import Profile
from export.variant import Variant

_SOURCES = (
    "networks.py",
    "graphs.py",
    "graph_modules.py",
    "chains.py",
    "subgraph_onnx.py",
    "half.py",
    "onnx_export.py",
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache during the context, and remove what killed builds have left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it at the end of the process
        for part in folder.glob(".part-*"):
            shutil.rmtree(part, ignore_errors=True)
        yield


def export_graphs(job: Job, digests: Mapping[str, str], log: Log = print) -> dict[str, Path]:
    """Return graph -> its folder in the cache, with `graph.json` and the graph's ONNX files.

    `digests`: role -> sha256 of the checkpoint. Graphs that the cache lacks are exported and
    compared with PyTorch. Raises ValueError if memory or disk space does not suffice, or a graph
    differs from PyTorch.
    """
    names = [name for name, roles in NEEDS.items() if set(roles) <= set(job.variant.networks)]
    folders = {
        name: job.cache / graph_key(job.variant, name, digests, job.precision) for name in names
    }
    missing = [name for name in names if not folders[name].is_dir()]
    for name in names:
        if name not in missing:
            log(f"{job.variant.name}.{name}: kept from an earlier build")
    if not missing:
        return folders
    capacity.check(job, missing)
    for graph in graphs.graphs(job.variant, networks.load(job.variant, job.checkpoints)):
        if graph.name in missing:
            with _new_folder(folders[graph.name]) as folder:
                _export(job, graph, folder, log)
    return folders


def _export(job: Job, graph: Graph, folder: Path, log: Log) -> None:
    started = time.monotonic()
    path = onnx_export.write(graph, folder, job.precision)
    error = onnx_export.verify(graph, path, onnx_export.TOLERANCE[job.precision])
    size, seconds = _size(folder), time.monotonic() - started
    description = {
        "relative_error": error,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "subgraphs": _subgraph_inputs(graph),
    }
    (folder / "graph.json").write_text(json.dumps(description))
    log(
        f"{job.variant.name}.{graph.name}: {size / 1e6:.1f} MB in {seconds:.0f} s, "
        f"relative error {error:.1e}"
    )


def _subgraph_inputs(graph: Graph) -> dict[str, Any]:
    """Return stem -> shapes of the inputs of every subgraph; empty if the graph is not a chain."""
    if (chain := graph.chain) is None:
        return {}
    return {
        f"{number:02}": subgraph_onnx.shapes(chain, x)[0]
        for number, x in enumerate(chain.subgraphs)
    }


def build_engines(
    job: Job, graph_folders: Mapping[str, Path], builder: Any, log: Log
) -> dict[str, Path]:
    """Return graph -> folder in the cache with its engine, `model.plan`, and its description.

    A chain has one engine for each subgraph, and `chain.json`. `builder` is the result of
    `tensorrt_plans.ready`. Raises ValueError if an engine cannot be built.
    """
    folders = {}
    description_fields = [field.name for field in dataclasses.fields(tensorrt_plans.Description)]
    for name, graph_folder in graph_folders.items():
        shapes, chain = _profiles(job, name, graph_folder)
        innermost = {} if chain is None else tensorrt_plans.innermost_tensors(chain)
        words = [graph_folder.name, job.target, builder, shapes, innermost, description_fields]
        folders[name] = job.cache / hash_of(words)
        if folders[name].is_dir():
            log(f"{job.variant.name}.{name}: engine kept from an earlier build")
            continue
        with _new_folder(folders[name]) as folder:
            started = time.monotonic()
            for stem, profile in shapes.items():
                onnx, plan = graph_folder / f"{stem}.onnx", folder / f"{stem}.plan"
                _build_plan(job, name, onnx, plan, profile, innermost.get(stem, ()), log)
            if chain is not None:
                (folder / "chain.json").write_text(json.dumps(chain, indent=1) + "\n")
            size, seconds = _size(folder), time.monotonic() - started
            log(f"{job.variant.name}.{name}: engine of {size / 1e6:.1f} MB in {seconds:.0f} s")
    return folders


def _profiles(
    job: Job, name: str, folder: Path
) -> tuple[dict[str, Profile], dict[str, Any] | None]:
    """Return stem -> the profile of its engine, and the description of a chain.

    `folder` is the graph's. The description is None if the graph is not a chain; its `thickest` is
    the largest number of latent planes that the engines take.
    """
    graph = graph_description(folder)
    if graph["subgraphs"]:
        chain = json.loads((folder / "chain.json").read_bytes())
        sizes = profiles.subgraph_sizes(job.variant, chain, graph["inputs"])
        of_subgraphs = {stem: profiles.profile(x, sizes) for stem, x in graph["subgraphs"].items()}
        return of_subgraphs, {**chain, "thickest": sizes[-1]["t"]}
    shapes = Graph(name, nn.Identity(), graph["inputs"], graph["outputs"], {})
    sizes = profiles.sizes(job.variant, shapes)
    return {"model": profiles.profile(shapes.inputs, sizes)}, None


def _build_plan(
    job: Job,
    name: str,
    onnx: Path,
    plan: Path,
    profile: Profile,
    innermost: Sequence[str],
    log: Log,
) -> None:
    timing, model = job.cache / f"{job.target}.timing", f"{job.variant.name}.{name}"
    try:
        engine = tensorrt_plans.build(
            onnx, plan, job.target, profile, job.capabilities, timing, innermost
        )
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from error
    log(f"{model}: {plan.name} of {size_text(plan.stat().st_size, engine.activation_bytes)}")


def size_text(plan: int, activations: int | None) -> str:
    """Return text with the bytes of a plan and of its activations at the largest shapes."""
    most = "an unknown size" if activations is None else f"{activations / 1e9:.2f} GB"
    return f"{plan / 1e6:.1f} MB, its activations at most {most}"


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` on success, so `path` is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as part:
        folder = Path(part) / "whole"
        folder.mkdir()
        yield folder
        os.replace(folder, path)


def graph_key(variant: Variant, name: str, digests: Mapping[str, str], precision: str) -> str:
    """Return the hash of all that graph `name` depends on: weights, networks, precision, code."""
    roles = NEEDS[name]
    sources = [(Path(__file__).parent / file).read_text() for file in _SOURCES]
    tools = [version(package) for package in ("torch", "monai", "onnx", "onnxscript")]
    keywords = {role: variant.networks[role] for role in roles}
    labels = variant.serving.get("mask_labels") if name == "mask_decoder" else None
    weights = [digests[role] for role in roles]
    return hash_of([name, precision, weights, keywords, variant.tensors, labels, sources, tools])


def hash_of(value: Any) -> str:
    """Return 32 hex digits of the sha256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def graph_description(folder: Path) -> dict[str, Any]:
    """Return the content of `graph.json` in a graph's folder."""
    description: dict[str, Any] = json.loads((folder / "graph.json").read_text())
    return description


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
