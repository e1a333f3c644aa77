"""Step `parity`: compare every graph, and whole volumes, with MONAI on the same device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from bench.acceptance import loading, machine, weights
from bench.acceptance.steps import Case, NotDone, Setting, TableRows
from export import graphs, networks, onnx_export, variant, verify
from export.graphs import NEEDS, Graph
from export.variant import PRECISIONS, Variant

Latent = tuple[tuple[int, int, int], int]
# Sides of the latent and number of rows; the last latent is that of a volume of 128^3 voxels.
_LATENTS: tuple[Latent, ...] = (*onnx_export.CHECKED, ((32, 32, 32), 2))
_VOLUMES = {
    "cuda": ((128, 128, 128), (256, 256, 128), (256, 256, 256)),
    "cpu": ((32, 32, 32), (64, 32, 64), (64, 64, 64)),
}


def cases(setting: Setting) -> list[Case]:
    """Return the cases: first the graphs, then the volumes, of each engine and precision."""
    runs = [
        (name, engine, precision)
        for name in setting.variants
        for engine in machine.engine_names(setting)
        for precision in PRECISIONS
    ]
    listed = []
    for run in runs:
        roles = set(variant.load(run[0]).networks)
        for graph in (graph for graph, needs in NEEDS.items() if set(needs) <= roles):
            listed.append(Case(_title(run, graph), partial(_graph, setting, *run, graph)))
    for run in runs:
        for size in _VOLUMES[setting.device]:
            what = "x".join(map(str, size))
            listed.append(Case(_title(run, what), partial(_volumes, setting, *run, size)))
    if not listed:
        listed = [Case("engines", no_engine)]
    return listed


def no_engine() -> TableRows:
    """Raise NotDone, because no engine loads on the GPU."""
    raise NotDone("no engine loads on this GPU; the step machine has the reasons")


def _title(run: Sequence[str], what: str) -> str:
    name, engine, precision = run
    return f"{name} {what}, {engine} {precision}"


@cache
def _loaded(setting: Setting, name: str) -> tuple[Variant, networks.Networks, dict[str, Graph]]:
    """Return a variant, its networks on the device, and its graphs."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    subject, folder = variant.load(name), weights.checkpoints(setting, name)
    if not all((folder / file).is_file() for file in subject.checkpoints.values()):
        raise NotDone(f"{name} has no weights yet; the step export writes them")
    loaded = networks.load(subject, folder)
    for role in subject.networks:
        getattr(loaded, role).to(setting.device)
    return subject, loaded, {graph.name: graph for graph in graphs.graphs(subject, loaded)}


def _graph(setting: Setting, name: str, engine: str, precision: str, what: str) -> TableRows:
    torch.cuda.empty_cache()  # does nothing without a GPU
    folder = weights.version_folder(setting, name, what, engine, precision)
    graph, run = _loaded(setting, name)[2][what], loading.load(folder, engine)
    tolerance, rows = onnx_export.TOLERANCE[precision], []
    module = graph.module.to(setting.device)
    latents = _LATENTS if setting.gpu else onnx_export.CHECKED
    for seed, latent in enumerate(latents):
        inputs = onnx_export.random_inputs(graph, *latent, seed)
        feeds = {k: x.to(graph.dtype(k, precision)).numpy() for k, x in inputs.items()}
        outputs = {name: loading.host(x) for name, x in run(feeds).items()}
        expected = _monai(module, inputs, setting.device)
        pairs = list(zip((outputs[name] for name in graph.outputs), expected, strict=True))
        worst = max(onnx_export.difference(a, b) for a, b in pairs)
        rows.append(_row("x".join(map(str, latent[0])), worst, tolerance))
    return _within_tolerance(rows)


def _monai(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], device: str
) -> list[np.ndarray[Any, Any]]:
    with torch.no_grad():
        outputs = module(**{name: x.to(device) for name, x in inputs.items()})
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [output.cpu().numpy() for output in outputs]


def _row(size: str, difference: float, allowed: float) -> dict[str, Any]:
    return {"of": size, "difference": difference, "allowed": allowed}


def _within_tolerance(rows: TableRows) -> TableRows:
    """Return the rows; raise ValueError if a difference is larger than allowed."""
    for row in rows:
        if not row["difference"] <= row["allowed"]:
            raise ValueError(
                f"{row['of']}: the difference from MONAI is {row['difference']:.1e}; at most"
                f" {row['allowed']:.0e} is expected"
            )
    return rows


def _volumes(
    setting: Setting, name: str, engine: str, precision: str, size: tuple[int, int, int]
) -> TableRows:
    subject, loaded, _ = _loaded(setting, name)
    runs: dict[str, loading.Run] = {}

    def run(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        if model not in runs:
            folder = weights.version_folder(setting, name, model, engine, precision)
            runs[model] = loading.load(folder, engine)
        results = runs[model](inputs)
        return [np.array(loading.host(results[output])) for output in outputs]

    rows = []
    for what, request in verify.requests(subject, size).items():
        torch.cuda.empty_cache()
        try:
            both = verify.volumes(subject, loaded, run, request, setting.device)
        except torch.OutOfMemoryError:
            raise NotDone("the GPU has too little memory for MONAI's whole decode") from None
        rows.append(_row(what, verify.volume_difference(*both)[1], verify.SHARE[precision]))
    return _within_tolerance(rows)
