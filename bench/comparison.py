"""Compare the trials of all contenders: differences, ratios, the table and the JSON line."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import page
from bench.trial import Trial
from bench.workload import Array, Workload
from export import random_weights

STAGES = ("mask_encoder", "sampler", "decoder", "total")
TITLES = {
    "upstream": "NV-Generate-CTMR",
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "engines": "our engines, no Triton",
    "service": "our service",
    "service-bfloat16": "our service, bfloat16",
}


@dataclass(frozen=True)
class Difference:
    """Differences between two volumes in grey levels (HU for CT).

    `share` is the share of voxels that differ by more than 1.
    """

    largest: float
    mean: float
    share: float


@dataclass(frozen=True)
class ContenderResult:
    """The measurements of a contender, one number per trial, or the error that ended its trials.

    The keys of `seconds` are start, first_request and first_volume, and, for the warm volume,
    mask_encoder, sampler, step, decoder and total. A list is empty if the stage cannot be measured
    separately. `memory` and `gpu` are peaks in bytes.
    """

    name: str
    seconds: dict[str, list[float]]
    memory: int = 0
    gpu: int | None = None
    difference: Difference | None = None
    notes: str = ""
    error: str = ""


def result(name: str, trials: Sequence[Trial], steps: int) -> ContenderResult:
    """Return the measurements of one contender from its trials.

    The time of the first request is the time to start the process plus the time of the first
    volume. For a service, which already runs, it is the time of the first volume only.
    """
    warm = {stage: _present(trial.warm[stage] for trial in trials) for stage in STAGES}
    first = _present(trial.first["total"] for trial in trials)
    start = [trial.start for trial in trials]
    first_request = (
        first if name.startswith("service") else [a + b for a, b in zip(start, first, strict=True)]
    )
    seconds = {
        "start": start,
        "first_volume": first,
        "first_request": first_request,
        "step": [value / steps for value in warm["sampler"]],
        **warm,
    }
    gpus = [trial.gpu for trial in trials if trial.gpu is not None]
    memory = max(trial.memory for trial in trials)
    return ContenderResult(name, seconds, memory, max(gpus, default=None), notes=trials[-1].notes)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def difference(image: Array, base: Array) -> Difference:
    """Return the differences between two volumes `[X, Y, Z]` of whole grey levels.

    Raises ValueError if their shapes differ.
    """
    if image.shape != base.shape:
        raise ValueError(f"the shape {list(image.shape)} differs from {list(base.shape)}")
    differences = np.abs(image.astype(np.int32) - base)
    return Difference(
        int(differences.max()), float(differences.mean()), float((differences > 1).mean())
    )


def table(results: Sequence[ContenderResult]) -> str:
    """Return the results as a Markdown table; ratios are to the first contender without error."""
    base = next((result for result in results if not result.error), None)
    with_gpu = any(result.gpu is not None for result in results)
    head = ["contender", "start, s", "first request, s", "mask encoder, s", "per step, s"]
    head += ["decoder, s", "total, s", "peak memory, GB"] + ["GPU, GB"] * with_gpu
    head += ["faster", "first request faster", "difference: largest, mean, share > 1"]
    rows = []
    for result in results:
        if result.error or base is None:
            rows.append([TITLES[result.name], "failed", *["-"] * (len(head) - 2)])
            continue
        keys = ("start", "first_request", "mask_encoder", "step", "decoder", "total")
        difference = result.difference
        cell = (
            f"{difference.largest:.0f}, {difference.mean:.2g}, {difference.share:.2g}"
            if difference
            else "-"
        )
        gpu = [f"{result.gpu / 1e9:.1f}" if result.gpu is not None else "-"] * with_gpu
        ratios = ratio(base, result)
        rows.append(
            [
                TITLES[result.name],
                *(_spread(result.seconds[key]) for key in keys),
                f"{result.memory / 1e9:.1f}",
                *gpu,
                f"{ratios['total']:.2f}x",
                f"{ratios['first_request']:.2f}x",
                "-" if result is base else cell,
            ]
        )
    return page.table(head, rows)


def ratio(base: ContenderResult, result: ContenderResult) -> dict[str, float]:
    """Return how many times faster `result` is than `base`, by the medians of two times.

    The keys are `total` and `first_request`.
    """
    return {
        key: statistics.median(base.seconds[key]) / statistics.median(result.seconds[key])
        for key in ("total", "first_request")
    }


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    median = f"{statistics.median(values):.3g}"
    return f"{median} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else median


def text(workload: Workload, results: Sequence[ContenderResult], repeat: int) -> str:
    """Return the section of the page: the workload, the table and the meaning of its columns."""
    kind = (
        "float32 on the CPU"
        if workload.device == "cpu"
        else f"float16 on the GPU, {workload.target}"
    )
    weights = ", random weights" if _is_random(workload) else ""
    subject = (
        f"from a mask, {workload.steps} steps, no guidance"
        if workload.masked
        else f"without a mask, {workload.steps} steps, guidance scale {workload.guidance:g}"
    )
    lines = [
        f"`{workload.load().name}`{weights}, {workload.size}^3 voxels {subject}, {kind}. Medians of"
        f" {repeat} (smallest to largest).",
        "",
        table(results),
        "",
        "- Start: the time from the start of the process until it accepts a mask. It includes "
        "imports, weights, and the readiness of the service. First request: start and first volume "
        "together, because upstream's scripts load everything for each call. For the service, "
        "which already runs, it is the first call of a client. All other times are of the second "
        "volume.",
        *(
            [
                "- Upstream and PyTorch encode the mask in every step. Their mask encoder time is "
                "the sum over the steps, and is also a part of the time of the steps."
            ]
            if workload.masked
            else []
        ),
        "- No time includes reading the file of the mask or writing the file of the volume. The "
        "total of the service includes its transfers.",
        "- Peak memory: resident memory of all processes of a contender, with shared pages "
        "counted once; for the service, also the process of the client.",
        "- Difference: from the first row, in grey levels (HU for CT), with both volumes rounded "
        "to whole grey levels.",
        *(f"- {TITLES[r.name]}: {r.error or r.notes}." for r in results if r.error or r.notes),
    ]
    if compiled := next((r for r in results if r.name == "compile" and not r.error), None):
        first, warm = (
            statistics.median(compiled.seconds[key]) for key in ("first_volume", "total")
        )
        lines.append(f"- torch.compile: {first - warm:.0f} s of its first volume are compilation.")
    return "\n".join(lines)


def as_json(workload: Workload, results: Sequence[ContenderResult], repeat: int) -> dict[str, Any]:
    """Return all numbers as a dict for JSON."""
    base = next((result for result in results if not result.error), None)
    contenders: dict[str, Any] = {}
    for result in results:
        if result.error or base is None or result.difference is None:
            contenders[result.name] = {"error": result.error}
            continue
        contenders[result.name] = {
            "seconds": {key: _summary(values) for key, values in result.seconds.items() if values},
            "memory_bytes": result.memory,
            "gpu_bytes": result.gpu,
            "difference": vars(result.difference),
            "faster": ratio(base, result),
            "notes": result.notes,
        }
    workload_fields = {
        "variant": workload.load().name,
        "size": workload.size,
        "steps": workload.steps,
        "repeat": repeat,
    }
    workload_fields |= {
        "device": workload.device,
        "target": workload.target,
        "random_weights": _is_random(workload),
    }
    surroundings = {"machine": page.machine(), "base": base.name if base else None}
    return {"benchmark": "compare", **workload_fields, **surroundings, "contenders": contenders}


def _summary(values: Sequence[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, 4) for key, value in figures.items()}


def _is_random(workload: Workload) -> bool:
    return Path(workload.checkpoints, random_weights.MARK).exists()
