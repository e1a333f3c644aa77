"""Train a UNet for brain tissue on volumes that a server makes during training.

The training set is synthetic: `mini` makes T1 and T2 volumes from crops of `brain_mask.nii.gz`. The
test volume is real: the ICBM152 2009a template (an average of many T1 scans) with its maps of grey
and white matter, which nilearn ships. See docs/how-to/training-loop.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from maisi_client.torch import SyntheticPairs
from monai import transforms
from monai.data import DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import set_determinism

MODALITIES = ("mri_t1_skull_stripped", "mri_t2_skull_stripped")
TISSUES = ("fluid", "grey", "white")  # classes 1 to 3; 0 is the background
HEAD = (120, 156, 157, 168)  # MAISI's ids of skull, muscle, fat and skin, absent in the template
CLASS_OF = torch.full((256,), 2)
CLASS_OF[[131, 214, 215, 233, 234]] = 1
CLASS_OF[[220, 225, 226, 227, 228]] = 3
CLASS_OF[[0, *HEAD]] = 0

scale = transforms.ScaleIntensityRangePercentiles(0, 99.5, 0, 1, clip=True)
criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)


def rows(side: int, steps: int, epoch: int) -> Iterator[dict[str, Any]]:
    """Yield a request for each contrast: a random crop of the mask, which the server augments."""
    mask = nib.load(Path(__file__).with_name("brain_mask.nii.gz"))
    labels = np.asarray(mask.dataobj)
    labels = np.where(np.isin(labels, HEAD), np.uint8(0), labels)
    brain = np.argwhere(labels)
    first, last = brain.min(0), np.maximum(brain.max(0) - side, brain.min(0))
    rng = np.random.default_rng(epoch)
    for modality in rng.permutation(MODALITIES):
        crop = tuple(slice(at, at + side) for at in rng.integers(first, last + 1))
        image = nib.Nifti1Image(np.ascontiguousarray(labels[crop]), mask.affine)
        yield {"mask": image, "modality": modality, "steps": steps, "augment": True}


def classes(label: torch.Tensor) -> torch.Tensor:
    """Return the classes of this task, 0 to 3, for MAISI's label ids; shapes are equal."""
    return CLASS_OF[label.long()]


def template() -> dict[str, torch.Tensor]:
    """Return the image and the label of the real test volume at 2 mm, `[1, 1, X, Y, Z]` each."""
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None and spec.origin is not None, "pip install nilearn, for the template"
    folder = Path(spec.origin).parent / "datasets/data"
    maps = []
    for kind in ("t1", "gm", "wm"):
        image = nib.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        maps.append(torch.from_numpy(image.get_fdata(dtype=np.float32))[None])
    t1, grey, white = (torch.nn.functional.avg_pool3d(fine, 2) for fine in maps)
    share = torch.cat([255 - grey - white, grey, white])
    label = torch.where(t1 > 0, 1 + share.argmax(0, keepdim=True), 0)
    pad = transforms.DivisiblePad(8)
    return {"image": pad(scale(t1))[None], "label": pad(label)[None]}


@torch.no_grad()
def test(network: torch.nn.Module, pair: dict[str, torch.Tensor]) -> tuple[float, dict[str, float]]:
    """Return the loss on a pair, and the Dice of each tissue."""
    network.eval()
    scores = network(pair["image"])
    network.train()
    predicted, dice = scores.argmax(1, keepdim=True), {}
    for number, name in enumerate(TISSUES, 1):
        mask, truth = predicted == number, pair["label"] == number
        dice[name] = round(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())), 3)
    return float(criterion(scores, pair["label"])), dice


def main() -> None:
    """Train a UNet and print the losses; the last line of the output is JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", help="HOST:PORT of the server [$MAISI_URL, else localhost:8001]")
    parser.add_argument("--steps", type=int, default=100, help="training steps and volumes [100]")
    parser.add_argument("--side", type=int, default=64, help="voxels per side of a volume [64]")
    parser.add_argument("--sampler-steps", type=int, default=4, help="solver steps of a volume [4]")
    parser.add_argument("--workers", type=int, default=0, help="processes that load volumes [0]")
    args = parser.parse_args()
    set_determinism(0)
    both = ["image", "label"]
    augment = transforms.Compose(
        [
            transforms.Lambdad("label", classes),
            transforms.Lambdad("image", scale),
            transforms.RandSpatialCropSamplesd(both, (32, 32, 32), num_samples=8),
            transforms.RandFlipd(both, prob=0.5, spatial_axis=0),
            transforms.RandAdjustContrastd("image", prob=0.9, gamma=(0.4, 1.5)),
            transforms.RandGaussianNoised("image", prob=0.5, std=0.03),
        ]
    )
    epoch_rows = partial(rows, args.side, args.sampler_steps)
    pairs = SyntheticPairs(epoch_rows, args.url, transform=augment, endless=True)
    batches = iter(DataLoader(pairs, num_workers=args.workers))
    shape = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2), "num_res_units": 1}
    network = UNet(3, 1, 1 + len(TISSUES), **shape, norm="BATCH")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    real, start = template(), time.monotonic()
    before, _ = test(network, real)
    print(f"step   0: loss on the real template {before:.3f}", flush=True)
    for step, batch in enumerate(itertools.islice(batches, args.steps), 1):
        loss = criterion(network(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 10 == 0 or step == args.steps:
            after, dice = test(network, real)
            print(f"step {step:3}: loss {loss:.3f}, on the real template {after:.3f}", flush=True)
    result = {"volumes": args.steps, "seconds": round(time.monotonic() - start, 1)}
    print(json.dumps({**result, "before": before, "after": after, "dice": dice}))


if __name__ == "__main__":
    main()
