"""`python -m training all`: data, autoencoder, latents, flow, checkpoints, table of quality."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads must not spin

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file

from export import networks, variant

from . import autoencoder, data, evaluate, flow, image_only
from .heads import heads
from .sources import ORIGIN, SHAPE
from .synthesis import MODALITIES, SPACING, example

STAGES = ("data", "autoencoder", "latents", "flow", "save", "evaluate", "example")
EXAMPLE = Path("examples/brain_mask.nii.gz")
HELD_OUT_MASKS = Path("tests/training")


def _autoencoder(cache: Path, device: str) -> Any:
    """Return the autoencoder with the averaged weights of its training."""
    network = networks.build(variant.load("mini"), "autoencoder")
    state = torch.load(cache / "autoencoder.pt", weights_only=True, map_location=device)
    network.load_state_dict(state["average"])
    return autoencoder.plain_norms(network).to(device).eval()


def _scale(cache: Path, device: str, subjects: int) -> float:
    """Encode the subjects; return the scale factor of latents."""
    return flow.encode(cache, _autoencoder(cache, device), subjects)


def _save(cache: Path, folder: Path) -> None:
    """Write the averaged weights as fp16 safetensors; the UNet's file holds the latent scale."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"autoencoder": torch.load(cache / "autoencoder.pt", weights_only=True)["average"]}
    state = torch.load(cache / "flow.pt", weights_only=True)
    for role, prefix in (("diffusion_unet", "unet."), ("controlnet", "controlnet.")):
        parts[role] = {
            key.removeprefix(prefix): value
            for key, value in state["average"].items()
            if key.startswith(prefix)
        }
    for role, tensors in parts.items():
        half = {key: value.half().contiguous() for key, value in tensors.items()}
        metadata = {"scale_factor": str(state["scale"])} if role == "diffusion_unet" else {}
        save_file(half, folder / f"{role}.safetensors", metadata=metadata)


def _example(cache: Path) -> None:
    """Write the example mask, Colin27 with lesions, and two held-out heads for the tests."""
    mask = example(heads(cache)[0].labels, seed=25)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = [
        origin + (SPACING - 1) / 2 - (SPACING * n - head) // 2
        for origin, n, head in zip(ORIGIN, mask.shape, SHAPE, strict=True)
    ]
    EXAMPLE.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(mask, affine), EXAMPLE)
    for path in data.paths(cache, held_out=True)[:2]:
        mask, _, spacing = data.load(path)
        image = nib.Nifti1Image(mask, np.diag([spacing, spacing, spacing, 1.0]))
        nib.save(image, HELD_OUT_MASKS / f"held_out_{path.stem}.nii.gz")


def main() -> None:
    """Run one stage or all of them; interrupted stages are resumable."""
    parser = argparse.ArgumentParser(prog="train-mini", description=__doc__)
    parser.add_argument("stage", choices=("all", *STAGES), nargs="?", default="all")
    parser.add_argument("--cache", type=Path, default=Path("build/mini"))
    parser.add_argument("--checkpoints", type=Path, default=Path("export/checkpoints"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of checkpoints with the initial weights, which steps with a mask follow"
        " [random weights]",
    )
    parser.add_argument("--subjects", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=4)
    parser.add_argument("--autoencoder-steps", type=int, default=2000)
    parser.add_argument("--flow-steps", type=int, default=3500)
    parser.add_argument("--modalities", nargs="+", default=list(MODALITIES))
    args = parser.parse_args()
    stages = STAGES if args.stage == "all" else (args.stage,)
    start = networks.load(variant.load("mini"), args.start) if args.start else None
    if "data" in stages:
        data.make(args.cache, args.subjects, args.held_out, os.cpu_count() or 1)
    if "autoencoder" in stages:
        autoencoder.train(args.cache, args.autoencoder_steps, args.device, start)
    if "latents" in stages:
        print(f"latent scale {_scale(args.cache, args.device, args.subjects):.4f}")
    if "flow" in stages:
        scale = _scale(args.cache, args.device, args.subjects)
        flow.train(args.cache, args.flow_steps, args.device, scale, start)
    if "save" in stages:
        _save(args.cache, args.checkpoints / "mini")
    if "evaluate" in stages:
        table = evaluate.measure(args.cache, args.checkpoints, args.held_out, args.modalities)
        alone = evaluate.measure_alone(args.cache, args.checkpoints)
        results = json.dumps({"masked": table, "alone": alone}, indent=1)
        (args.cache / "quality.json").write_text(results)
        print(evaluate.markdown(table), image_only.table(alone), sep="\n\n")
    if "example" in stages:
        _example(args.cache)


if __name__ == "__main__":
    main()
