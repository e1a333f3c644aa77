"""Step `speed`: compare the seconds per step and per decode with upstream and PyTorch."""

from __future__ import annotations

from functools import partial

from bench.acceptance import machine, weights
from bench.acceptance.loading import TARGETS
from bench.acceptance.steps import Case, NotDone, Setting, TableRows
from bench.trial import ContenderFailed, run_trial
from bench.workload import Workload

_STEPS = 3
_VOLUMES = 4  # the first is not counted
_SIZES = {  # voxels along x and y, and along z
    "cuda": ((128, 128), (256, 256), (512, 128), (512, 512)),
    "cpu": ((32, 32), (64, 32), (64, 64)),
}


def cases(setting: Setting) -> list[Case]:
    """Return the cases: each contender at each size; the cases of a size are a group."""
    listed = []
    for side, depth in _SIZES[setting.device]:
        size = f"{side}x{side}x{depth}"
        engines = [name for name in machine.engine_names(setting) if name != "onnxruntime"]
        # torch.compile takes longest and comes last, because the step may reach its deadline.
        for name in ("upstream", "eager", *engines, "compile"):
            run = partial(_contender, setting, name, side, depth)
            listed.append(Case(f"{size} {name}", run, size))
    return listed


def _contender(setting: Setting, name: str, side: int, depth: int) -> TableRows:
    if name == "upstream" and not setting.upstream:
        raise NotDone("the option --upstream PATH is missing")
    if name == "upstream" and not setting.gpu:
        raise NotDone("no NVIDIA GPU: upstream's networks of full size are too slow on a CPU")
    if name == "compile" and not setting.gpu:
        raise NotDone("no NVIDIA GPU: torch.compile takes minutes on a CPU")
    engine = name if name in TARGETS else ""
    variant, target = setting.variants[0], TARGETS[engine] if engine else "onnx"
    precision = "fp16" if setting.gpu else "fp32"
    if engine:
        weights.version_folder(setting, variant, "flow_masked", engine, precision)
    workload = Workload(
        variant,
        side,
        _STEPS,
        setting.device,
        str(weights.checkpoints(setting, variant)),
        str(weights.models(setting, variant, target, precision)),
        target,
        setting.upstream,
        depth=depth,
    )
    folder = setting.folder / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        trial = run_trial("engines" if engine else name, workload, folder, _VOLUMES)
    except ContenderFailed as error:
        if "out of memory" in str(error).lower():
            raise NotDone("the GPU has too little memory") from None
        raise
    trial.image.unlink()
    sampler, decoder, total = (trial.warm[stage] for stage in ("sampler", "decoder", "total"))
    row = {
        "size": f"{side}x{side}x{depth}",
        "s per step": sampler / _STEPS if sampler is not None else None,
        "s per decode": decoder,
        "s in total": total,
        "memory, GB": trial.memory / 1e9,
    }
    return [row | ({"GPU, GB": trial.gpu / 1e9} if trial.gpu is not None else {})]
