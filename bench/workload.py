"""Define the workload of `bench.compare`: the volume that every contender makes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from export import variant
from export.variant import Variant

Array = npt.NDArray[Any]

SEED = 0
# mm, from configs/config_infer.json of NV-Generate-CTMR. Upstream rounds the spacing in units of
# 0.01 mm to float16, and these values are exact.
SPACING = (1.5, 1.5, 2.0)
# The guidance scale without a mask, from configs/config_maisi_diff_model_rflow-mr-brain.json.
GUIDANCE = 2.0
_BLOCK = 8  # voxels per side of a block with one label


class TimedVolume(NamedTuple):
    """Grey levels, int16 `[X, Y, Z]`, and the seconds of each stage, None if not measured."""

    image: Array
    seconds: dict[str, float | None]


@dataclass(frozen=True)
class Workload:
    """A volume, its weights and its device.

    `size` is the number of voxels per side; `depth`, if not 0, is the number of voxels along z.
    `device` is cpu or cuda. `checkpoints` and `repository` have the same weights, as official files
    and as models for `target`. `upstream` is a checkout of NV-Generate-CTMR. `config` is a file in
    its folder `configs` with the settings of the decoder.
    """

    variant: str
    size: int
    steps: int
    device: str
    checkpoints: str
    repository: str
    target: str = "onnx"
    upstream: str = ""
    config: str = "config_infer.json"
    depth: int = 0

    @property
    def sides(self) -> tuple[int, int, int]:
        """The number of voxels along x, y and z."""
        return self.size, self.size, self.depth or self.size

    def load(self) -> Variant:
        """Return the variant."""
        return variant.load(self.variant)

    @cached_property
    def masked(self) -> bool:
        """Whether the volume is made from a mask, which needs a ControlNet."""
        return "controlnet" in self.load().networks

    @property
    def guidance(self) -> float:
        """The guidance scale; 0 means no guidance."""
        return 0.0 if self.masked else GUIDANCE

    @property
    def models(self) -> Path:
        """The folder of the model repository."""
        return Path(self.repository)

    def mask(self) -> npt.NDArray[np.uint8]:
        """Return a mask, uint8 `[X, Y, Z]`: an ellipsoid of blocks with all labels of the variant.

        The mask is 0 outside the ellipsoid.
        """
        ids = [int(label) for label in self.load().serving["labels"] if int(label)]
        blocks = np.random.default_rng(SEED).choice(
            np.array(ids, np.uint8), [-(-side // _BLOCK) for side in self.sides]
        )
        labels = blocks.repeat(_BLOCK, 0).repeat(_BLOCK, 1).repeat(_BLOCK, 2)
        axes = tuple(map(slice, self.sides))
        labels = labels[axes]
        x, y, z = (
            (line - (side - 1) / 2) / (0.48 * side)
            for line, side in zip(np.ogrid[axes], self.sides, strict=True)
        )
        labels[x**2 + y**2 + z**2 > 1] = 0
        return np.ascontiguousarray(labels)

    def noise(self) -> npt.NDArray[np.float32]:
        """Return the first latent, float32 `[1, C, x, y, z]`, rounded to float16 as in upstream."""
        latent = self.load().serving["latent"]
        sides = [side // latent["factor"] for side in self.sides]
        noise = np.random.Generator(np.random.Philox(SEED)).standard_normal(
            (1, latent["channels"], *sides), np.float32
        )
        return noise.astype(np.float16).astype(np.float32)

    def request(self) -> dict[str, Array]:
        """Return the input tensors of the request."""
        subject = {"mask": self.mask()} if self.masked else {"size": np.array(self.sides, np.int32)}
        return {
            **subject,
            "spacing": np.array(SPACING, np.float32),
            "seed": np.array([SEED]),
            "steps": np.array([self.steps], np.int32),
            "guidance": np.array([self.guidance], np.float32),
            "latent": self.noise(),
        }


def grey_levels(
    serving: dict[str, Any], image: Array, labels: Array | None
) -> npt.NDArray[np.int16]:
    """Return grey levels `[X, Y, Z]` from the autoencoder's `image` of values from 0 to 1.

    With `labels`, voxels without a label are background. The levels are those of upstream, but
    rounded.
    """
    scale = serving["intensity"]
    low, high = scale["min"], scale["max"]
    levels = np.clip(image.astype(np.float32), 0, 1 if scale["clip_above"] else None)
    levels = levels * (high - low) + low
    if labels is not None:
        levels[labels == 0] = low
    return round_to_int16(levels)


def round_to_int16(levels: Array) -> npt.NDArray[np.int16]:
    """Return grey levels, rounded and clipped to int16."""
    return np.clip(np.rint(levels), -32768, 32767).astype(np.int16)
