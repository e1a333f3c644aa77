"""Comparison of exported graphs with PyTorch, and of whole volumes with MONAI's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.engines import Target
from backends.maisi import conditioning, decoder, sampler
from backends.maisi.request import Plan, complete
from export import (
    cache,
    graphs,
    model_configs,
    networks,
    onnx_export,
    reference,
    subgraph_onnx,
    tensorrt_plans,
)
from export.arrays import Array
from export.graphs import Graph
from export.job import Job, Log, checkpoint_digests
from export.variant import PRECISIONS, Variant

Sessions = Mapping[str, onnx_export.GraphSession]
# Whole volumes: share of voxels that may differ by more than one grey level (HU for CT). The share
# in float16 was up to 0.08 with random weights, whose volumes are noise, and 0 with mini's.
SHARE = {"fp32": 1e-3, "fp16": 0.2}
STEPS = 3


@dataclass(frozen=True)
class Comparison:
    """One comparison: the largest absolute and the relative difference, and the allowed one.

    For graphs `relative` is the norm of the difference over that of PyTorch's output (for labels,
    the share that differs); for volumes the share of voxels more than one grey level apart.
    """

    what: str
    size: str
    against: str
    largest: float
    relative: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the relative difference is at most the allowed one; false for NaN."""
        return self.relative <= self.allowed


def verify(
    variant: Variant, checkpoints: Path, cache_folder: Path, log: Log = print
) -> list[Comparison]:
    """Compare every graph at two sizes, then a volume with and without mask; return the results.

    ONNX Runtime runs float32 and float16 on the CPU. With a GPU and TensorRT or TensorRT-RTX, the
    float16 graphs also run as engines. Raises as `cache.export_graphs` does.
    """
    with cache.locked(cache_folder):
        return _verify(variant, checkpoints, cache_folder, log)


def _verify(variant: Variant, checkpoints: Path, cache_folder: Path, log: Log) -> list[Comparison]:
    digests = checkpoint_digests(variant, checkpoints)
    loaded = networks.load(variant, checkpoints)
    variant_graphs = graphs.graphs(variant, loaded)
    comparisons: list[Comparison] = []
    for precision in PRECISIONS:
        job = Job(variant, checkpoints, Path(), cache_folder, precision=precision)
        folders = cache.export_graphs(job, digests, log)
        sessions = {
            graph.name: onnx_export.load(folders[graph.name] / graph.file)
            for graph in variant_graphs
        }
        for graph in variant_graphs:
            for seed, size in enumerate(onnx_export.CHECKED):
                inputs = onnx_export.random_inputs(graph, *size, seed)
                outputs = onnx_export.run(sessions[graph.name], inputs)
                comparisons.append(
                    _compare(graph, size, inputs, outputs, f"ONNX Runtime {precision}", precision)
                )
        comparisons += _compare_volumes(variant, loaded, sessions, precision)
    return comparisons + _compare_engines(job, variant_graphs, folders, log)


def _compare_engines(
    job: Job, variant_graphs: list[Graph], folders: Mapping[str, Path], log: Log
) -> list[Comparison]:
    """Compare the graphs in `folders` as engines of each TensorRT that can build here."""
    comparisons = []
    for target in tensorrt_plans.TARGETS:
        try:
            builder = tensorrt_plans.ready(target)
        except ValueError as error:
            log(f"{target}: not compared: {error}")
            continue
        plan_folders = cache.build_engines(replace(job, target=target), folders, builder, log)
        for graph in variant_graphs:
            examples = [
                onnx_export.random_inputs(graph, *size, seed)
                for seed, size in enumerate(onnx_export.CHECKED)
            ]
            results = _run_plans(graph, examples, plan_folders[graph.name], target, job.precision)
            against = f"{target} {job.precision}"
            for size, inputs, outputs in zip(onnx_export.CHECKED, examples, results, strict=True):
                comparisons.append(_compare(graph, size, inputs, outputs, against, job.precision))
    return comparisons


def _run_plans(
    graph: Graph,
    examples: list[dict[str, torch.Tensor]],
    folder: Path,
    target: str,
    precision: str,
) -> list[list[Array]]:
    """Return the outputs, in the graph's order, of the plans in `folder` for each of `examples`."""
    if graph.chain is not None:
        session = subgraph_onnx.ChainSession(
            folder / "chain.json", lambda stem: _SubgraphPlan(stem.with_suffix(".plan"), target)
        )
        return [onnx_export.run(session, inputs) for inputs in examples]
    feeds = [_cast(graph, inputs, precision) for inputs in examples]
    results = tensorrt_plans.run(folder / "model.plan", target, feeds)
    return [[result[name] for name in graph.outputs] for result in results]


class _SubgraphPlan:
    """The engine of one subgraph: a plan with the interface that a chain calls."""

    def __init__(self, path: Path, target: str) -> None:
        self.path, self.target = path, target

    def __call__(
        self, feeds: Mapping[str, Array], target: Target | None = None
    ) -> Mapping[str, Array]:
        (outputs,) = tensorrt_plans.run(self.path, self.target, [feeds])
        return outputs

    def release(self) -> None:
        """Do nothing: every call is a process of its own."""


def _cast(graph: Graph, inputs: Mapping[str, torch.Tensor], precision: str) -> dict[str, Array]:
    return {name: x.to(graph.dtype(name, precision)).numpy() for name, x in inputs.items()}


def _compare(
    graph: Graph,
    size: tuple[tuple[int, int, int], int],
    inputs: dict[str, torch.Tensor],
    outputs: list[Array],
    against: str,
    precision: str,
) -> Comparison:
    truth = onnx_export.evaluate(graph.module, inputs)
    pairs = [(a.astype(np.float64), b) for a, b in zip(outputs, truth, strict=True)]
    latent, rows = size
    return Comparison(
        graph.name,
        f"latent {'x'.join(map(str, latent))}" + (", 2 rows" if rows == 2 else ""),
        against,
        max(float(np.abs(a - b).max()) for a, b in pairs),
        max(onnx_export.difference(a, b) for a, b in zip(outputs, truth, strict=True)),
        onnx_export.TOLERANCE[precision],
    )


def _compare_volumes(
    variant: Variant, loaded: networks.Networks, sessions: Sessions, precision: str
) -> list[Comparison]:
    """Compare volumes from the same noise, by this project and by MONAI's own code."""

    def run_model(model: str, inputs: Mapping[str, Any], outputs: Any) -> list[Any]:
        arrays = onnx_export.run(sessions[model], onnx_export.tensors(inputs))
        names = onnx_export.outputs(sessions[model])
        return [arrays[names.index(name)] for name in outputs]

    multiple = variant.serving["size"]["multiple"]
    size = (2 * multiple, 3 * multiple, 2 * multiple)
    label, allowed = f"{'x'.join(map(str, size))}, {STEPS} steps", SHARE[precision]
    comparisons = []
    for name, request in requests(variant, size).items():
        largest, share = volume_difference(*volumes(variant, loaded, run_model, request))
        against = f"ours {precision}"
        comparisons.append(Comparison(name, label, against, largest, share, allowed))
    return comparisons


def requests(variant: Variant, size: tuple[int, int, int]) -> dict[str, dict[str, Array]]:
    """Return description -> inputs of the requests whose volumes are compared."""
    fixed = {"seed": np.array([1]), "steps": np.array([STEPS])}
    inputs: dict[str, dict[str, Array]] = {"image alone": {"size": np.array(size), **fixed}}
    if "controlnet" in variant.networks:
        ids = np.array([int(label) for label in variant.serving["labels"]], np.uint8)
        blocks = np.random.default_rng(0).choice(ids, [n // 8 for n in size])
        inputs["from a mask"] = {"mask": blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2), **fixed}
    return inputs


def volume_difference(volume: Array, truth: Array) -> tuple[float, float]:
    """Return the largest difference of two volumes, and the share of voxels beyond 1.

    The share is infinite where a difference is NaN or infinite.
    """
    difference = np.abs(volume - truth)
    share = float((difference > 1).mean()) if np.isfinite(difference).all() else np.inf
    return float(difference.max()), share


def volumes(
    variant: Variant,
    loaded: networks.Networks,
    run_model: sampler.RunModel,
    inputs: dict[str, Array],
    device: str = "cpu",
) -> tuple[Array, Array]:
    """Return the grey levels [X, Y, Z] of this project with `run_model`, and those of MONAI.

    `inputs` are those of a request; the networks of `loaded` are on `device`.
    """
    config = model_configs.configs(variant, {}, "onnx", "fp32")[variant.name]
    table = json.loads(config.parameters["variant"].string_value)  # as the server reads it
    plan = complete(table, inputs)
    noise = conditioning.noise(table, plan, None)
    rows = conditioning.condition_rows(table, plan)
    conditions: dict[str, Any] = dict(rows)
    if plan.masked:
        labels = conditioning.label_rows(table, plan, inputs["mask"])
        (conditions["embedding"],) = run_model("mask_encoder", {"labels": labels}, ["embedding"])
    latent = sampler.sample(table, plan, noise, conditions, run_model)
    served = decoder.in_grey_levels(table, run_model)
    volume = decoder.decode(table, plan, latent, inputs.get("mask"), served)
    truth = _monai(variant, loaded, plan, noise, rows, inputs.get("mask"), device)
    return volume.astype(np.float64), truth


def _monai(
    variant: Variant,
    loaded: networks.Networks,
    plan: Plan,
    noise: Array,
    rows: Mapping[str, Array],
    mask: Array | None,
    device: str,
) -> Array:
    """Return grey levels [X, Y, Z] that MONAI's networks and schedulers compute from `noise`."""
    keywords: dict[str, Any] = {"spacing_tensor": plan.spacing}
    if "class_labels" in rows:
        keywords["class_labels"] = [plan.class_label]
    for name in ("top_region_index", "bottom_region_index"):
        if name in rows:
            keywords[f"{name}_tensor"] = rows[name][0] / 100
    fresh = reference.fresh_noise(plan.seed, noise.shape) if plan.solver == "ddpm" else None
    schedule = (plan.steps, plan.guidance, fresh)
    image = reference.volume(loaded, noise, keywords, *schedule, mask, mask, device)
    scale = variant.serving["intensity"]
    low, high = scale["min"], scale["max"]
    image = image.clip(0, 1 if scale["clip_above"] else None) * (high - low) + low
    return image if mask is None else np.where(mask == 0, low, image)


def table(comparisons: list[Comparison]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = [
        "| what | size | against | largest | relative | allowed | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        numbers = f"{one.largest:.1e} | {one.relative:.1e} | {one.allowed:.0e}"
        verdict = "holds" if one.holds else "FAILS"
        lines.append(f"| {one.what} | {one.size} | {one.against} | {numbers} | {verdict} |")
    return "\n".join(lines)


def as_json(variant: Variant, comparisons: list[Comparison]) -> str:
    """Return the comparisons as JSON, with `holds` for each and for all."""
    rows = [{**asdict(one), "holds": one.holds} for one in comparisons]
    holds = all(one.holds for one in comparisons)
    return json.dumps({"variant": variant.name, "holds": holds, "rows": rows})
