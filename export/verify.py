"""Proof that nothing was lost: graphs against PyTorch, whole volumes against MONAI's own way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.maisi import conditioning, decoder, sampler
from backends.maisi.request import Plan, complete
from export import (
    build,
    engines,
    graphs,
    networks,
    onnx_export,
    reference,
    repository,
    stages,
)
from export.build import Job, Say
from export.variant import PRECISIONS, Variant

Array = np.ndarray[Any, Any]
Sessions = Mapping[str, onnx_export.Session]
# Whole volumes: share of voxels that may differ by more than one grey level (HU for CT). Random
# weights, whose volumes are noise of any height, gave up to 0.08 in float16, mini's none.
SHARE = {"fp32": 1e-3, "fp16": 0.2}
STEPS = 3


@dataclass(frozen=True)
class Row:
    """One comparison: the largest absolute and the relative difference, and what is allowed.

    Of graphs `relative` is the norm of the difference over that of PyTorch's output (of labels, the
    share that differs); of volumes the share of voxels more than one grey level apart.
    """

    what: str
    size: str
    against: str
    largest: float
    relative: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the relative difference is within what is allowed; not for NaN."""
        return self.relative <= self.allowed


def verify(variant: Variant, checkpoints: Path, cache: Path, say: Say = print) -> list[Row]:
    """Compare every graph at two sizes, then a volume with and without mask; return the rows.

    ONNX Runtime runs float32 and float16 on the CPU; where a GPU and a TensorRT are present, the
    float16 graphs run there as engines too. Raises as `build.export` does.
    """
    digests = build.digest(variant, checkpoints)
    loaded = networks.load(variant, checkpoints)
    made = graphs.graphs(variant, loaded)
    rows: list[Row] = []
    for precision in PRECISIONS:
        job = Job(variant, checkpoints, Path(), cache, precision=precision)
        folders = build.export(job, digests, say)
        sessions = {
            graph.name: onnx_export.load(folders[graph.name] / graph.file) for graph in made
        }
        for graph in made:
            for seed, size in enumerate(onnx_export.CHECKED):
                inputs = onnx_export.example(graph, *size, seed)
                found = onnx_export.run(sessions[graph.name], inputs)
                rows.append(_row(graph, size, inputs, found, "ONNX Runtime", precision))
        rows += _volume_rows(variant, loaded, sessions, precision)
    return rows + _engine_rows(job, made, folders, say)


def _engine_rows(
    job: Job, made: list[graphs.Graph], folders: Mapping[str, Path], say: Say
) -> list[Row]:
    """Compare the graphs in `folders` as engines, with each TensorRT that can build here."""
    rows = []
    for target in engines.TARGETS:
        try:
            able = engines.ready(target)
        except ValueError as error:
            say(f"{target}: not compared: {error}")
            continue
        homes = build.compile_engines(replace(job, target=target), folders, able, say)
        for graph in made:
            asked = [
                onnx_export.example(graph, *size, seed)
                for seed, size in enumerate(onnx_export.CHECKED)
            ]
            answers = _engine_answers(graph, asked, homes[graph.name], target, job.precision)
            for size, inputs, found in zip(onnx_export.CHECKED, asked, answers, strict=True):
                rows.append(_row(graph, size, inputs, found, target, job.precision))
    return rows


def _engine_answers(
    graph: graphs.Graph,
    asked: list[dict[str, torch.Tensor]],
    home: Path,
    target: str,
    precision: str,
) -> list[list[Array]]:
    if graph.chain is not None:
        session = stages.Session(
            home / "chain.json", lambda stem: _Plan(stem.with_suffix(".plan"), target)
        )
        return [onnx_export.run(session, inputs) for inputs in asked]
    feeds = [_cast(graph, inputs, precision) for inputs in asked]
    answers = engines.run(home / "model.plan", target, feeds)
    return [[answer[name] for name in graph.outputs] for answer in answers]


class _Plan:
    """A plan of one stage, as a chain calls it."""

    def __init__(self, path: Path, target: str) -> None:
        self.path, self.target = path, target

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        (found,) = engines.run(self.path, self.target, [feeds])
        return found

    def release(self) -> None:
        """Every call is a process of its own."""


def _cast(
    graph: graphs.Graph, inputs: Mapping[str, torch.Tensor], precision: str
) -> dict[str, Array]:
    return {name: x.to(graph.dtype(name, precision)).numpy() for name, x in inputs.items()}


def _row(
    graph: graphs.Graph,
    size: tuple[tuple[int, int, int], int],
    inputs: dict[str, torch.Tensor],
    found: list[Array],
    runtime: str,
    precision: str,
) -> Row:
    truth = onnx_export.evaluate(graph.module, inputs)
    pairs = [(a.astype(np.float64), b) for a, b in zip(found, truth, strict=True)]
    latent, rows = size
    return Row(
        graph.name,
        f"latent {'x'.join(map(str, latent))}" + (", 2 rows" if rows == 2 else ""),
        f"{runtime} {precision}",
        max(float(np.abs(a - b).max()) for a, b in pairs),
        max(onnx_export.difference(a, b) for a, b in zip(found, truth, strict=True)),
        onnx_export.TOLERANCE[precision],
    )


def _volume_rows(
    variant: Variant, loaded: networks.Networks, sessions: Sessions, precision: str
) -> list[Row]:
    """Compare volumes of the same noise: our code, and MONAI's networks and schedulers."""

    def engine(model: str, inputs: Mapping[str, Any], outputs: Any) -> list[Any]:
        arrays = onnx_export.run(sessions[model], onnx_export.tensors(inputs))
        names = onnx_export.outputs(sessions[model])
        return [arrays[names.index(name)] for name in outputs]

    multiple = variant.serving["size"]["multiple"]
    size = (2 * multiple, 3 * multiple, 2 * multiple)
    rows = []
    for what, request in requests(variant, size).items():
        largest, share = apart(*volumes(variant, loaded, engine, request))
        where = f"{'x'.join(map(str, size))}, {STEPS} steps"
        rows.append(Row(what, where, f"ours {precision}", largest, share, SHARE[precision]))
    return rows


def requests(variant: Variant, size: tuple[int, int, int]) -> dict[str, dict[str, Array]]:
    """Return the requests that volumes are compared for, by what they ask for."""
    fixed = {"seed": np.array([1]), "steps": np.array([STEPS])}
    asked: dict[str, dict[str, Array]] = {"image alone": {"size": np.array(size), **fixed}}
    if "controlnet" in variant.networks:
        ids = np.array([int(label) for label in variant.serving["labels"]], np.uint8)
        blocks = np.random.default_rng(0).choice(ids, [n // 8 for n in size])
        asked["from a mask"] = {"mask": blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2), **fixed}
    return asked


def apart(ours: Array, truth: Array) -> tuple[float, float]:
    """Return the largest difference of two volumes, and the share of voxels beyond 1.

    That share is infinite where a number is none.
    """
    difference = np.abs(ours - truth)
    share = float((difference > 1).mean()) if np.isfinite(difference).all() else np.inf
    return float(difference.max()), share


def volumes(
    variant: Variant,
    loaded: networks.Networks,
    engine: sampler.RunModel,
    asked: dict[str, Array],
    device: str = "cpu",
) -> tuple[Array, Array]:
    """Return the grey levels [X, Y, Z] that our code makes with `engine`, and those of MONAI.

    `device` is where the networks of `loaded` are.
    """
    config = repository.configs(variant, {}, "onnx", "fp32")[variant.name]
    table = json.loads(config.parameters["variant"].string_value)  # as the server reads it
    plan = complete(table, asked)
    noise = conditioning.noise(table, plan, None)
    steered = conditioning.rows(table, plan)
    conditions: dict[str, Any] = dict(steered)
    if plan.masked:
        labels = conditioning.labels(table, plan, asked["mask"])
        (conditions["embedding"],) = engine("mask_encoder", {"labels": labels}, ["embedding"])
    latent = sampler.sample(table, plan, noise, conditions, engine)
    ours = decoder.decode(table, plan, latent, asked.get("mask"), engine)
    truth = _monai(variant, loaded, plan, noise, steered, asked, device)
    return ours.astype(np.float64), truth


def _monai(
    variant: Variant,
    loaded: networks.Networks,
    plan: Plan,
    noise: Array,
    steered: Mapping[str, Array],
    asked: Mapping[str, Array],
    device: str,
) -> Array:
    """Return grey levels [X, Y, Z] as MONAI's networks and schedulers make them of `noise`."""
    rows: dict[str, Any] = {"spacing_tensor": plan.spacing}
    if "class_labels" in steered:
        rows["class_labels"] = [plan.class_label]
    for name in ("top_region_index", "bottom_region_index"):
        if name in steered:
            rows[f"{name}_tensor"] = steered[name][0] / 100
    fresh = reference.fresh_noise(plan.seed, noise.shape) if plan.solver == "ddpm" else None
    mask = asked.get("mask")
    guided = (plan.steps, plan.guidance, fresh)
    image = reference.volume(loaded, noise, rows, *guided, mask, mask, device)
    scale = variant.serving["intensity"]
    low, high = scale["min"], scale["max"]
    image = image.clip(0, 1 if scale["clip_above"] else None) * (high - low) + low
    return image if mask is None else np.where(mask == 0, low, image)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | size | against | largest | relative | allowed | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = f"{row.largest:.1e} | {row.relative:.1e} | {row.allowed:.0e}"
        verdict = "holds" if row.holds else "FAILS"
        lines.append(f"| {row.what} | {row.size} | {row.against} | {numbers} | {verdict} |")
    return "\n".join(lines)


def as_json(variant: Variant, rows: list[Row]) -> str:
    """Return the rows as JSON, with `holds` for each and for all."""
    found = [{**asdict(row), "holds": row.holds} for row in rows]
    holds = all(row.holds for row in rows)
    return json.dumps({"variant": variant.name, "holds": holds, "rows": found})
