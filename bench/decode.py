"""Compare decoding in slabs with a whole decode and with upstream's blended windows.

    scripts/bench decode [--variant mini] [--sizes 128 192 256] [--write]

MONAI's SlidingWindowInferer decodes the windows as in NV-Generate-CTMR: with Gaussian weights, and
with a side and an overlap from its config files. Every decode runs in its own process. Without
`--checkpoints`, an official network has random weights. Random weights change no time, but windows
differ more with them than with trained weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bench import ROOT, charts, page, processes
from bench.charts import way_title
from bench.workload import Array

# Side in latent voxels, and the overlap of diff_model_infer.py or of config_infer.json.
WINDOWS = ((48, 0.4), (48, 0.6666))
SECTION = "Decoding"
HEAD = (
    "volume",
    "method",
    "seconds",
    "of upstream's",
    "GB",
    "largest",
    "mean",
    "beyond 1",
    "seams",
)


def image(side: int) -> Array:
    """Return an image from 0 to 1, float32 `[1, 1, X, Y, Z]`: the example's labels with noise."""
    labels: Array = np.asarray(nib.load(ROOT / "examples" / "brain_mask.nii.gz").dataobj)
    indices = [np.arange(side) * length // side for length in labels.shape]
    grey = (labels[np.ix_(*indices)].astype(int) * 37 % 101 / 120).astype(np.float32)
    grey += np.random.default_rng(0).normal(0, 0.01, grey.shape).astype(np.float32) * (grey > 0)
    scan: Array = grey.clip(0, 1)[None, None]
    return scan


def latent(options: argparse.Namespace, side: int) -> Array:
    """Return the latent to decode, float32 `[1, C, x, y, z]`.

    For `mini`, whose encoder is trained, it is the latent of `image`. Otherwise it is noise.
    """
    if options.variant == "mini":
        runner = _chain_runner(options, "vae_encoder", 0)
        return np.array(runner(image(side)), np.float32)
    return np.random.default_rng(0).standard_normal((1, 4, *[side // 4] * 3), np.float32)


def _chain_runner(options: argparse.Namespace, name: str, gigabytes: float) -> Any:
    from backends.slabs.chain_runner import ChainRunner
    from backends.slabs.cpu import Cpu

    path = options.repository / f"{options.variant}.{name}" / "1" / "chain.json"
    return ChainRunner(path, Cpu(Path(tempfile.gettempdir()), 0), gigabytes)


def _pytorch(options: argparse.Namespace) -> Callable[[Any], Any]:
    """Return a function that decodes a scaled latent to an image with MONAI's own code."""
    import torch

    from export import networks, variant

    loaded = networks.load(variant.load(options.variant), options.checkpoints)
    torch.set_grad_enabled(False)
    return lambda x: loaded.autoencoder.decode_stage_2_outputs(x / loaded.scale_factor)


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Decode with the method `options.one` and save the image.

    Return the seconds, the memory in bytes, and the borders of slabs or windows in voxels.
    """
    x = np.load(options.folder / "latent.npy")
    side, (method, *numbers) = x.shape[2], options.one.split()
    borders: list[int] = []
    windows = 1  # windows per decode that is timed
    if method == "slabs":
        runner = _chain_runner(options, "vae_decoder", float(numbers[0]))
        thickness = runner.thickness(x.shape)
        borders = list(range(4 * thickness, 4 * side, 4 * thickness))
        decode: Callable[[], Array] = lambda: runner(x)  # noqa: E731
    else:
        import torch
        from monai.inferers import SlidingWindowInferer

        pytorch, tensor = _pytorch(options), torch.from_numpy(x)
        decode = lambda: pytorch(tensor).numpy()  # noqa: E731
        if method == "windows":
            roi, overlap = int(numbers[0]), float(numbers[1])
            starts = window_starts(side, roi, overlap)
            borders = sorted({4 * n for s in starts for n in (s, s + roi)} - {0, 4 * side})
            if options.one_window:
                windows, cut = len(starts) ** 3, tensor[:, :, :roi, :roi, :roi]
                decode = lambda: pytorch(cut).numpy()  # noqa: E731
            else:
                infer = SlidingWindowInferer([roi] * 3, 1, overlap, mode="gaussian")
                decode = lambda: infer(tensor, pytorch).numpy()  # noqa: E731
    pid = os.getpid()
    before, times = processes.private(pid), []
    with processes.peaks(lambda: processes.private(pid)) as peaks:
        for _ in range(options.repeat):
            begin = time.perf_counter()
            image = decode()
            times.append(windows * (time.perf_counter() - begin))
    if windows == 1:
        np.save(options.folder / f"{options.one}.npy", image[0, 0])
    seconds = statistics.median(times)
    return {"seconds": seconds, "memory": peaks[0] - before, "borders": borders}


def window_starts(side: int, roi: int, overlap: float) -> list[int]:
    """Return where MONAI's windows begin along one side of the latent."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    sides, rois = (side,) * 3, (min(roi, side),) * 3
    interval = _get_scan_interval(sides, rois, 3, (overlap,) * 3)
    return sorted({int(axes[0].start) for axes in dense_patch_slices(sides, rois, interval)})


def seams(volume: Array, borders: Sequence[int]) -> float:
    """Return the mean difference of neighbours along x across `borders`, relative to elsewhere.

    `volume` is `[X, Y, Z]`. A border n is between the planes n - 1 and n.
    """
    steps = np.abs(np.diff(volume.astype(np.float64), axis=0)).mean((1, 2))
    across = np.zeros(len(steps), bool)
    across[[border - 1 for border in borders]] = True
    return float(steps[across].mean() / steps[~across].mean())


def compare(options: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    """Decode a volume of `size` voxels per side with every method; return a row for each method.

    Differences are from the whole decode or, above `--whole-to`, from the first decode in slabs.
    """
    slabs = [f"slabs {budget:g}" for budget in options.budgets]
    whole = ["whole"] if size <= options.whole_to else []
    blended = [f"windows {roi} {overlap}" for roi, overlap in WINDOWS if size // 4 > roi]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        np.save(options.folder / "latent.npy", latent(options, size))
        for method in [*whole, *slabs, *blended]:
            rows.append({"size": size, "way": method, **_child(options, method)})
            seconds = rows[-1]["seconds"]
            print(f"{size} {method}: {seconds:.1f} s", file=sys.stderr, flush=True)
        truth = np.load(options.folder / f"{rows[0]['way']}.npy")
        for row in rows:
            path = options.folder / f"{row['way']}.npy"
            if not path.is_file():
                continue
            volume = np.load(path)
            differences = 1000 * np.abs(volume.astype(np.float64) - truth)
            row |= {"largest": differences.max(), "mean": differences.mean()}
            row["beyond"] = (differences > 1).mean()
            if row["borders"]:
                row["seams"] = seams(volume, row["borders"]) / seams(truth, row["borders"])
    return rows


def _child(options: argparse.Namespace, method: str) -> dict[str, Any]:
    words = ["--variant", options.variant, "--one", method, "--folder", str(options.folder)]
    words += ["--repository", str(options.repository), "--checkpoints", str(options.checkpoints)]
    words += ["--repeat", str(options.repeat), *(["--one-window"] if options.one_window else [])]
    child = subprocess.run(
        [sys.executable, "-m", "bench.decode", *words], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    row: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = []
    for row in rows:
        rival = [r for r in rows if r["size"] == row["size"] and r["way"] == "windows 48 0.6666"]
        rival = rival or [r for r in rows if r["size"] == row["size"] and r["way"] == "whole"]
        ratio = f"{row['seconds'] / rival[0]['seconds']:.2f}" if rival else ""
        numbers = [
            format(row[key], shape) if key in row else ""
            for key, shape in (
                ("largest", ".3g"),
                ("mean", ".2g"),
                ("beyond", ".3%"),
                ("seams", ".3f"),
            )
        ]
        memory = f"{row['memory'] / 1e9:.1f}"
        cells = [
            f"{row['size']}³",
            way_title(row["way"]),
            f"{row['seconds']:.1f}",
            ratio,
            memory,
            *numbers,
        ]
        lines.append(cells)
    return page.table(HEAD, lines)


TEXT = """Decoder of `{variant}`, {weights}; medians of {repeat}.

- *Of upstream's*: the seconds divided by upstream's seconds. Upstream decodes windows with overlap
  0.6666 or, if the latent fits into one window, the whole volume in PyTorch.
- *GB*: the largest private memory beyond the memory of the loaded network. It does not include the
  files of slabs with a budget, because the system can reclaim that memory.
- *Largest*, *mean*: the difference from the first row of the same size, in thousandths of the
  image's range. *Beyond 1*: the share of voxels whose difference is larger than 1.
- *Seams*: the difference between neighbours across the borders of slabs or windows, divided by the
  difference at the same voxels of the first row.{note}"""


def main() -> None:
    """Print the table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench decode", description=__doc__)
    add = parser.add_argument
    add("--variant", default="mini", help="variant whose decoder is measured [mini]")
    add("--sizes", type=int, nargs="+", default=[128, 256], help="voxels per side [128 256]")
    add("--budgets", type=float, nargs="+", default=[0, 1], help="GB for slabs; 0: not set [0 1]")
    add("--whole-to", type=int, default=256, help="largest size that is also decoded whole [256]")
    add("--one-window", action="store_true", help="time one window; multiply by their number")
    add("--repeat", type=int, default=5, help="decodes with each method [5]")
    add("--repository", type=Path, default=ROOT / "model_repository", help="model repository")
    add("--checkpoints", type=Path, default=ROOT / "export" / "checkpoints", help="weights")
    add("--write", action="store_true", help="write the section of docs/reference/benchmarks.md")
    add("--one", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options)))
        return
    words = sys.argv[1:]
    rows = [row for size in options.sizes for row in compare(options, size)]
    trained = "trained" if options.variant == "mini" else "full size, random weights"
    note = "\n- One window was timed; the time is multiplied by the number of windows."
    note = note if options.one_window else ""
    text = TEXT.format(variant=options.variant, weights=trained, repeat=options.repeat, note=note)
    text = f"{text}\n\n{table(rows)}"
    numbers = {
        "benchmark": "decode",
        "variant": options.variant,
        "machine": page.machine(),
        "rows": [{key: row[key] for key in row if key != "borders"} for row in rows],
    }
    if options.write:
        picture = charts.write(f"decode-{options.variant}", numbers)
        command = shlex.join(["scripts/bench", "decode", *words])
        page.write(f"{SECTION}: {options.variant}", command, f"{picture}\n\n{text}")
    print(text, json.dumps(numbers), sep="\n\n")


if __name__ == "__main__":
    main()
