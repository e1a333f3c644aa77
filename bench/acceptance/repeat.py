"""Step `repeat`: check that a decode returns equal bytes each time, with any number of slabs."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import numpy as np

from backends.slabs import chain
from bench.acceptance import loading, machine, weights
from bench.acceptance.parity import no_engine
from bench.acceptance.steps import Case, Setting, TableRows
from bench.workload import Array
from export import onnx_export
from export.variant import PRECISIONS

TIMES = 20
_SIDE = {"cuda": 32, "cpu": 8}  # voxels per side of the latent
_MANY = 8  # slabs


def cases(setting: Setting) -> list[Case]:
    """Return the cases; they leave out ONNX Runtime on the CPU, where no server runs chains."""
    name = setting.variants[0]
    listed = [
        Case(f"{name}, {engine} {precision}", partial(_decode, setting, name, engine, precision))
        for engine in machine.engine_names(setting)
        if engine != "onnxruntime"
        for precision in PRECISIONS
    ]
    return listed or [Case("engines", no_engine)]


def _decode(setting: Setting, name: str, engine: str, precision: str) -> TableRows:
    folder = weights.version_folder(setting, name, "vae_decoder", engine, precision)
    runner, side = loading.chain_runner(folder, engine), _SIDE[setting.device]
    random, channels = np.random.default_rng(0), runner.chain.channels[runner.chain.input]
    latent = random.standard_normal((1, channels, side, side, side), np.float32)
    rows: TableRows = []
    whole: Array | None = None
    for slabs, far in ((1, False), (2, False), (_MANY, False), (_MANY, True)):
        volumes = set()
        for _ in range(TIMES):
            image = decode(runner, latent, slabs, far)
            volumes.add(hashlib.sha256(image.tobytes()).hexdigest())
        whole = image if whole is None else whole
        difference = onnx_export.difference(image, whole)
        where = "in other memory" if far else "in the device's memory"
        rows.append(
            {
                "slabs": slabs,
                "activations": where,
                "decodes": TIMES,
                "different volumes": len(volumes),
                "difference to one slab": difference,
            }
        )
        allowed = onnx_export.TOLERANCE[precision]
        if len(volumes) > 1 or not difference <= allowed:
            raise ValueError(
                f"{slabs} slabs, activations {where}: {TIMES} decodes returned {len(volumes)}"
                f" different volumes with a difference of {difference:.1e} from one slab; one"
                f" volume within {allowed:.0e} is expected"
            )
    return rows


def decode(runner: Any, latent: Array, slabs: int, far: bool) -> Array:
    """Return the image of a latent, decoded in `slabs` slabs.

    If `far` is true, the activations are outside the device's memory.
    """
    thickness = -(-latent.shape[2] // slabs)
    try:
        memory = runner.device.arena(0 if far else 1 << 62)
        return loading.host(chain.run(runner.chain, latent, thickness, memory))
    finally:
        runner.device.end()
