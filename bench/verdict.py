"""What the lives of all contenders amount to: differences, ratios, the table and the JSON line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import page
from bench.life import Life
from bench.task import Array, Task
from export import random_weights

STAGES = ("mask_encoder", "sampler", "decoder", "total")
_TELLS = {
    "upstream": "NV-Generate-CTMR",
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "engines": "our engines, no Triton",
    "service": "our service",
}


@dataclass(frozen=True)
class Difference:
    """How far two volumes are apart: grey levels (HU for CT), and the share of voxels beyond 1."""

    largest: float
    mean: float
    share: float


@dataclass(frozen=True)
class Result:
    """What a contender's lives took, one number a life; or the sentence why it has none.

    `seconds`: start, first_request, first_volume, and of the warm volume mask_encoder, sampler,
    step, decoder and total; empty where a stage cannot be told apart. `memory` and `gpu` in bytes.
    """

    name: str
    seconds: dict[str, list[float]]
    memory: int = 0
    gpu: int | None = None
    difference: Difference | None = None
    notes: str = ""
    error: str = ""


def result(name: str, lives: Sequence[Life], steps: int) -> Result:
    """Gather the lives of one contender.

    The first request is waited for from the start of the process; by a client of the service, from
    the call, as the server runs.
    """
    warm = {stage: _known(life.warm[stage] for life in lives) for stage in STAGES}
    first = _known(life.first["total"] for life in lives)
    start = [life.start for life in lives]
    waited = first if name == "service" else [a + b for a, b in zip(start, first, strict=True)]
    seconds = {
        "start": start,
        "first_volume": first,
        "first_request": waited,
        "step": [value / steps for value in warm["sampler"]],
        **warm,
    }
    gpus = [life.gpu for life in lives if life.gpu is not None]
    memory = max(life.memory for life in lives)
    return Result(name, seconds, memory, max(gpus, default=None), notes=lives[-1].notes)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def difference(image: Array, base: Array) -> Difference:
    """Compare two volumes of whole grey levels; raises ValueError where their shapes differ."""
    if image.shape != base.shape:
        raise ValueError(f"a volume of {list(image.shape)} voxels, and one of {list(base.shape)}")
    apart = np.abs(image.astype(np.int32) - base)
    return Difference(int(apart.max()), float(apart.mean()), float((apart > 1).mean()))


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table; ratios are to its first contender that has some."""
    base = next((found for found in results if not found.error), None)
    with_gpu = any(found.gpu is not None for found in results)
    head = ["contender", "start, s", "first request, s", "mask encoder, s", "per step, s"]
    head += ["decoder, s", "total, s", "peak memory, GB"] + ["GPU, GB"] * with_gpu
    head += ["faster", "first request faster", "difference: largest, mean, share > 1"]
    rows = []
    for found in results:
        if found.error or base is None:
            rows.append([_TELLS[found.name], "failed", *["-"] * (len(head) - 2)])
            continue
        keys = ("start", "first_request", "mask_encoder", "step", "decoder", "total")
        apart = found.difference
        told = f"{apart.largest:.0f}, {apart.mean:.2g}, {apart.share:.2g}" if apart else "-"
        gpu = [f"{found.gpu / 1e9:.1f}" if found.gpu is not None else "-"] * with_gpu
        ratios = ratio(base, found)
        rows.append(
            [
                _TELLS[found.name],
                *(_spread(found.seconds[key]) for key in keys),
                f"{found.memory / 1e9:.1f}",
                *gpu,
                f"{ratios['total']:.2f}x",
                f"{ratios['first_request']:.2f}x",
                "-" if found is base else told,
            ]
        )
    return page.table(head, rows)


def ratio(base: Result, found: Result) -> dict[str, float]:
    """Return how many times faster than `base` it is, by medians: `total` and `first_request`."""
    return {
        key: statistics.median(base.seconds[key]) / statistics.median(found.seconds[key])
        for key in ("total", "first_request")
    }


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.3g}"
    return f"{middle} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else middle


def text(task: Task, results: Sequence[Result], repeat: int) -> str:
    """Return the section of the page: what was done, the table, what its words mean."""
    kind = "float32 on the CPU" if task.device == "cpu" else f"float16 on the GPU, {task.target}"
    weights = ", random weights" if _is_random(task) else ""
    lines = [
        f"`{task.load().name}`{weights}, {task.size}^3 voxels from a mask, {task.steps} steps, no "
        f"guidance, {kind}. Medians of {repeat} (smallest to largest).",
        "",
        table(results),
        "",
        "- Start: from the start of the process until it can take a mask: imports, weights, and "
        "the service's own readiness. First request: start and first volume together, as "
        "upstream's scripts load everything for each call; of the service, which runs already, a "
        "client's first call. All other times are of a second volume.",
        "- Upstream and PyTorch encode the mask in every step: there the mask encoder is the sum "
        "over the steps, and a part of them.",
        "- Reading the mask's file and writing the volume's are in no time. The service's total "
        "has its transfers.",
        "- Peak memory: resident, all processes of a contender together, shared pages once for "
        "each; the service's has the client's process, too.",
        "- Difference: grey levels (HU for CT), both volumes rounded to whole ones, to the first "
        "row.",
        *(f"- {_TELLS[r.name]}: {r.error or r.notes}." for r in results if r.error or r.notes),
    ]
    if compiled := next((r for r in results if r.name == "compile" and not r.error), None):
        first, warm = (
            statistics.median(compiled.seconds[key]) for key in ("first_volume", "total")
        )
        lines.append(f"- torch.compile: {first - warm:.0f} s of its first volume are compiling.")
    return "\n".join(lines)


def as_json(task: Task, results: Sequence[Result], repeat: int) -> str:
    """Return one line with all numbers."""
    base = next((found for found in results if not found.error), None)
    contenders: dict[str, Any] = {}
    for found in results:
        if found.error or base is None or found.difference is None:
            contenders[found.name] = {"error": found.error}
            continue
        contenders[found.name] = {
            "seconds": {key: _summary(values) for key, values in found.seconds.items() if values},
            "memory_bytes": found.memory,
            "gpu_bytes": found.gpu,
            "difference": vars(found.difference),
            "faster": ratio(base, found),
            "notes": found.notes,
        }
    asked = {"variant": task.load().name, "size": task.size, "steps": task.steps, "repeat": repeat}
    asked |= {"device": task.device, "target": task.target, "random_weights": _is_random(task)}
    where = {"machine": page.machine(), "base": base.name if base else None}
    return json.dumps({"benchmark": "compare", **asked, **where, "contenders": contenders})


def _summary(values: Sequence[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, 4) for key, value in figures.items()}


def _is_random(task: Task) -> bool:
    return Path(task.checkpoints, random_weights.MARK).exists()
