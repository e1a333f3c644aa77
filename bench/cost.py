"""Count the network calls, decoded voxels and moved bytes of a volume, beside published times.

    scripts/bench cost [--write]

The times are from docs/performance.md of NV-Generate-CTMR (NVIDIA, one A100 with 80 GB). MONAI's
code counts the windows of upstream. The server's code counts our subgraphs and slabs. Nothing is
timed.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from backends.slabs import budget, chain
from backends.slabs.gpu import Gpu
from bench import ROOT, page, traffic
from export import chains, networks, subgraph_onnx, variant

PAGE = ROOT / "docs" / "reference" / "published.md"
STEPS = 30
MEMORY = 24 * 10**9  # bytes; the decoder uses half


class Published(NamedTuple):
    """A row of the published table: voxels, window in latent voxels, overlap, seconds, GB."""

    size: tuple[int, int, int]
    window: tuple[int, int, int]
    overlap: float
    vae: int
    rflow: int
    ddpm: int
    memory: float


PUBLISHED = (
    Published((256, 256, 128), (96, 96, 96), 0.25, 1, 2, 57, 15.0),
    Published((256, 256, 256), (48, 48, 64), 0.6666, 5, 3, 81, 15.4),
    Published((512, 512, 128), (64, 64, 32), 0.5, 8, 5, 138, 15.7),
    Published((256, 256, 256), (64, 64, 64), 0.25, 2, 3, 81, 22.7),
    Published((512, 512, 128), (80, 80, 32), 0.4, 6, 5, 138, 21.0),
    Published((512, 512, 512), (64, 64, 48), 0.4, 29, 19, 569, 22.8),
    Published((512, 512, 512), (80, 80, 48), 0.4, 30, 19, 569, 28.4),
    Published((512, 512, 512), (80, 80, 80), 0.4, 32, 19, 569, 45.3),
    Published((512, 512, 768), (80, 80, 96), 0.4, 57, 30, 904, 49.7),
)


def window_count(row: Published) -> int:
    """Return the number of windows that upstream decodes; 1 if the latent fits into one."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    latent = tuple(side // 4 for side in row.size)
    if math.prod(latent) <= math.prod(row.window):  # from dynamic_infer in scripts/utils.py
        return 1
    roi = tuple(map(min, row.window, latent))
    interval = _get_scan_interval(latent, roi, 3, (row.overlap,) * 3)
    return len(dense_patch_slices(latent, roi, interval))


def decoded(row: Published) -> float:
    """Return the number of voxels that upstream decodes, as a multiple of the volume's voxels."""
    count, latent = window_count(row), math.prod(row.size) // 64
    return 1.0 if count == 1 else count * math.prod(row.window) / latent


def cut_decoder() -> chains.Chain:
    """Return the official decoder, cut into subgraphs, without weights."""
    with torch.device("meta"):
        return chains.decoder(networks.build(variant.load("rflow-ct"), "autoencoder"), 1.0)


def official_decoder() -> chain.Chain:
    """Return the chain of the official decoder, without engines."""

    class Nothing:
        def __call__(self, feeds: object, target: object = None) -> dict[str, object]:
            raise NotImplementedError

        def release(self) -> None:
            """Do nothing."""

    description = subgraph_onnx.describe(cut_decoder(), "fp16")
    return chain.assemble(description, lambda file: Nothing())


def decoder_calls(row: Published, official: chain.Chain) -> tuple[int, int]:
    """Return the numbers of slabs and of subgraph calls of a decode in float16.

    The decoder uses half of `MEMORY`.
    """
    latent = [side // 4 for side in row.size]
    thickness = budget.divide(official, (1, 4, *latent), MEMORY // 2, Gpu.enough)
    slabs = math.ceil(latent[0] / thickness)
    return slabs, slabs * len(official.subgraphs)


def main() -> None:
    """Print the table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    official, lines, counts = official_decoder(), [], []
    for row in PUBLISHED:
        size = "x".join(map(str, row.size))
        slabs, subgraph_calls = decoder_calls(row, official)
        times = decoded(row)
        counts.append(
            {"size": size, "windows": window_count(row), "decoded": times, "slabs": slabs}
        )
        lines.append(
            [
                size,
                "x".join(map(str, row.window)),
                row.overlap,
                f"{row.vae} s",
                f"{row.rflow} s",
                f"{row.ddpm} s",
                f"{row.memory:.1f}",
                window_count(row),
                f"{times:.2f}",
                STEPS,
                "1.00",
                f"{slabs} x {len(official.subgraphs)} = {subgraph_calls}",
                1,
            ]
        )
    head = ["volume", "window", "overlap", "VAE", "rflow", "ddpm", "GB", "windows", "decoded"]
    head += ["mask embeddings", "decoded here", "subgraph calls here", "mask embeddings here"]
    cut = cut_decoder()
    text = "\n\n".join(
        [
            TEXT.format(steps=STEPS, memory=MEMORY // 10**9),
            page.table(head, lines),
            TRAFFIC.format(operations=traffic.operations(cut) / 1e6),
            page.table(["decoder", "bytes per voxel", "operations per byte"], traffic.rows(cut)),
        ]
    )
    if options.write:
        page.write(
            "Published times and counted work",
            shlex.join(["scripts/bench", "cost", *sys.argv[1:]]),
            text,
            Path(PAGE),
        )
    print(text, json.dumps(counts), sep="\n\n")


TEXT = """\
The last three columns describe this project. The others describe upstream on one A100 of 80 GB.

- *window*, *overlap*: the sliding window of upstream's decoder, in voxels of the latent.
- *VAE*, *rflow*, *ddpm*: upstream's published seconds of decoding, of {steps} steps of rectified
  flow, and of 1000 steps of DDPM.
- *GB*: upstream's published peak memory.
- *windows*: the number of windows that these settings give, counted by MONAI's code.
- *decoded*: the voxels of all windows together, in multiples of the volume. Voxels that are decoded
  more than once are blended.
- *mask embeddings*: how often the mask is encoded for {steps} steps.
- *decoded here*: slabs decode every voxel once.
- *subgraph calls here*: the number of slabs times the 16 subgraphs of the decoder. The slabs are
  the thickest that half of the {memory} GB of a GPU holds in float16.
- *mask embeddings here*: the mask is encoded once.

Both projects call the flow network once per step. The times of this project on a GPU have not been
measured yet."""

TRAFFIC = """\
The next table counts the bytes that the decoder here moves in a GPU's memory for each voxel of the
volume, in float16. Its convolutions take {operations:.2f} million additions and multiplications per
voxel. A GPU that does fewer operations per byte than the last column is limited by them, and not by
its memory. The H100 (SXM) does 295: 989 x 10^12 operations and 3.35 x 10^12 bytes per second, by
its data sheet.

- *usual layout, outputs copied into slabs*: TensorRT copies an activation into its kernels' layout
  and back, and a further copy puts it into its slab.
- *channels innermost, outputs written to slabs*: plans in float16 run in this way.
- *least*: each convolution reads its input and writes its output once. This is not built: at the
  border of a volume, doubling and a convolution with zeros beyond it are no transposed
  convolution."""


if __name__ == "__main__":
    main()
