"""`python -m training all`: data, networks of images and of masks, checkpoints, quality."""

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

from . import (
    autoencoder,
    data,
    decoder,
    evaluate,
    flow,
    image_only,
    mask_autoencoder,
    mask_data,
    mask_flow,
    mask_quality,
)
from .heads import heads
from .sources import ORIGIN, SHAPE
from .synthesis import MODALITIES, SPACING, example

STAGES = (
    "data",
    "autoencoder",
    "latents",
    "flow",
    "decoder",
    "mask-data",
    "mask-autoencoder",
    "mask-flow",
    "save",
    "evaluate",
    "evaluate-masks",
    "example",
)
# Stage -> the networks that it trains, each with the prefix of its weights in the stage's state.
_ROLES = {
    "autoencoder": {"autoencoder": ""},
    "decoder": {"autoencoder": "autoencoder."},
    "flow": {"diffusion_unet": "unet.", "controlnet": "controlnet."},
    "mask_autoencoder": {"mask_autoencoder": ""},
    "mask_flow": {"mask_diffusion": ""},
}
EXAMPLE = Path("examples/brain_mask.nii.gz")
HELD_OUT_MASKS = Path("tests/training")


def _autoencoder(cache: Path, device: str) -> Any:
    """Return the autoencoder with the averaged weights of its training."""
    network = networks.build(variant.load("mini"), "autoencoder")
    state = torch.load(cache / "autoencoder.pt", weights_only=True, map_location=device)
    network.load_state_dict(state["average"])
    return autoencoder.plain_norms(network).to(device).eval()


def _decoder(cache: Path, steps: int, device: str, half: torch.autocast) -> None:
    """Fine-tune the decoder on latents of the trained flow."""
    network = _autoencoder(cache, device)
    state = torch.load(cache / "flow.pt", weights_only=True, map_location=device)
    pair = flow.Pair().to(device).eval()
    pair.load_state_dict(state["average"])
    with half:
        decoder.regenerate(cache, pair, state["scale"], device)
        decoder.train(cache, steps, device, network)


def _scale(cache: Path, device: str, subjects: int) -> float:
    """Encode the subjects; return the scale factor of latents."""
    return flow.encode(cache, _autoencoder(cache, device), subjects)


def _save(cache: Path, folder: Path) -> None:
    """Write the averaged weights as fp16 safetensors; UNets' files hold the latent scale.

    Networks whose training is not in `cache` keep their files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stage, roles in _ROLES.items():
        if not (cache / f"{stage}.pt").exists():
            continue
        state = torch.load(cache / f"{stage}.pt", weights_only=True)
        for role, prefix in roles.items():
            half = {
                key.removeprefix(prefix): value.half().contiguous()
                for key, value in state["average"].items()
                if key.startswith(prefix)
            }
            is_unet = role in ("diffusion_unet", "mask_diffusion")
            metadata = {"scale_factor": str(state["scale"])} if is_unet else {}
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
    parser.add_argument("--decoder-steps", type=int, default=1000)
    parser.add_argument("--masks", type=int, default=269)
    parser.add_argument("--mask-autoencoder-steps", type=int, default=1200)
    parser.add_argument("--mask-flow-steps", type=int, default=4000)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="train in bfloat16, which is faster on a processor that has it",
    )
    parser.add_argument("--modalities", nargs="+", default=list(MODALITIES))
    args = parser.parse_args()
    stages = STAGES if args.stage == "all" else (args.stage,)
    start = networks.load(variant.load("mini"), args.start) if args.start else None
    cores = os.cpu_count() or 1
    # Weights change between steps, hence no cache of their casts.
    half = torch.autocast(args.device, torch.bfloat16, enabled=args.bfloat16, cache_enabled=False)
    if "data" in stages:
        data.make(args.cache, args.subjects, args.held_out, cores)
    if "autoencoder" in stages:
        with half:
            autoencoder.train(args.cache, args.autoencoder_steps, args.device, start)
    if "latents" in stages:
        print(f"latent scale {_scale(args.cache, args.device, args.subjects):.4f}")
    if "flow" in stages:
        scale = _scale(args.cache, args.device, args.subjects)
        with half:
            flow.train(args.cache, args.flow_steps, args.device, scale, start)
    if "decoder" in stages:
        _decoder(args.cache, args.decoder_steps, args.device, half)
    if "mask-data" in stages:
        mask_data.make(args.cache, args.masks, cores)
    if "mask-autoencoder" in stages:
        with half:
            mask_autoencoder.train(args.cache, args.mask_autoencoder_steps, args.device)
    if "mask-flow" in stages:
        masks, scale = mask_flow.encode(args.cache)
        with half:
            mask_flow.train(args.cache, args.mask_flow_steps, args.device, masks, scale)
    if "save" in stages:
        _save(args.cache, args.checkpoints / "mini")
    if "evaluate" in stages:
        table = evaluate.measure(args.cache, args.checkpoints, args.held_out, args.modalities)
        alone = evaluate.measure_alone(args.cache, args.checkpoints)
        results = json.dumps({"masked": table, "alone": alone}, indent=1)
        (args.cache / "quality.json").write_text(results)
        print(evaluate.markdown(table), image_only.table(alone), sep="\n\n")
    if "evaluate-masks" in stages:
        draw = mask_flow.drawing(args.checkpoints)
        files = [mask_data.paths(args.cache, held_out) for held_out in (False, True)]
        training, held_out = ([data.load_mask(path) for path in paths] for paths in files)
        quality = mask_quality.measure(draw, training, held_out)
        (args.cache / "mask_quality.json").write_text(json.dumps(quality, indent=1))
        print(mask_quality.markdown(quality))
    if "example" in stages:
        _example(args.cache)


if __name__ == "__main__":
    main()
