"""Compare the rate of `maisi dataset` with another revision: `scripts/bench dataset`.

Each run has the client and the server of its revision, with the packages of this environment.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib

from bench import ROOT, page, servers
from bench.launcher import Server

_SIDES = (64, 80, 96)  # voxels
_ORDER = 5  # seed of the random order of the rows in the plan


@dataclass(frozen=True)
class Run:
    """A dataset of one revision: the time, and a digest for each row."""

    revision: str
    seconds: float
    digests: dict[str, str]


def sizes(count: int) -> list[tuple[int, int, int]]:
    """Return the `count` smallest sizes `[X, Y, Z]` in voxels whose sides are in `_SIDES`."""
    x_y_z = sorted(
        itertools.product(_SIDES, _SIDES, _SIDES),
        key=lambda size: (size[0] * size[1] * size[2], size),
    )
    return x_y_z[:count]


def write_plan(folder: Path, rows: int, count: int, steps: int) -> Path:
    """Write `rows` masks of `count` sizes and a plan that lists them in random order.

    Return the path of the plan.
    """
    all_sizes = sizes(count)
    lines = []
    for number in range(rows):
        path = folder / f"mask-{number:02}.nii.gz"
        image = servers.picture(all_sizes[number % count])
        flipped = image.get_fdata().astype("uint8")[:: -1 if number // count % 2 else 1]
        nib.save(nib.Nifti1Image(flipped, image.affine), path)
        lines.append(f"case-{number:02},{path.name},{number},{steps}\n")
    random.Random(_ORDER).shuffle(lines)
    plan = folder / "plan.csv"
    plan.write_text("name,mask,seed,steps\n" + "".join(lines))
    return plan


def checkout(revision: str, folder: Path) -> Path:
    """Extract the files of a git revision to a folder; return the folder."""
    words = ["git", "archive", revision]
    archive = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def make(name: str, root: Path, plan: Path, to: Path, log: Path) -> Run:
    """Make the dataset of a plan with the revision in `root`; return its time and digests.

    The time does not include the start of the server.
    """
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'client' / 'src'}"}
    with Server(root / "model_repository", log, "--models=mini", cwd=root, env=env) as server:
        words = [sys.executable, "-m", "maisi_client", "dataset", plan, "--to", to]
        words += ["--url", server.grpc]
        start = time.monotonic()
        subprocess.run(list(map(str, words)), cwd=root, env=env, check=True)
        seconds = time.monotonic() - start
    reports = (json.loads(path.read_text()) for path in to.rglob("reports/*.json"))
    return Run(name, seconds, {report["name"]: report["sha256"]["image"] for report in reports})


def text(options: argparse.Namespace, runs: Sequence[Run]) -> str:
    """Return the section of the page."""
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    ratios = [_ratio(pair) for pair in pairs]
    equal = all(first.digests == second.digests for first, second in pairs)
    rows = [
        [run.revision, f"{run.seconds:.0f} s", f"{3600 * options.rows / run.seconds:.0f}"]
        for pair in pairs
        for run in pair
    ]
    return "\n\n".join(
        [
            f"`maisi dataset` with {options.rows} masks of {options.sizes} sizes in random order,"
            f" {options.steps} steps of `mini`, {_SIDES[0]} to {_SIDES[-1]} voxels per side. Runs"
            " alternate between this revision and the other one. Each run starts a server of its"
            " revision, so that no size is compiled before the run.",
            page.table(["revision", "time", "volumes/h"], rows),
            f"Rate of this revision divided by the rate of the other, by pairs of runs:"
            f" {', '.join(f'{ratio:.2f}' for ratio in ratios)};"
            f" median {statistics.median(ratios):.2f}. The volumes are"
            f" {'' if equal else 'not '}the same, byte for byte"
            f"{'' if equal else '; weights and rounding can differ'}.",
        ]
    )


def _ratio(pair: tuple[Run, Run]) -> float:
    here = next(run for run in pair if run.revision == "this")
    other = next(run for run in pair if run.revision != "this")
    return other.seconds / here.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="dataset-") as path:
        folder = Path(path)
        plan = write_plan(folder, options.rows, options.sizes, options.steps)
        roots = {"this": ROOT, options.against: checkout(options.against, folder / "other")}
        runs: list[Run] = []
        for number in range(options.runs):
            for name in sorted(roots, reverse=number % 2 == 0):
                to, log = folder / f"set-{len(runs)}", folder / f"server-{len(runs)}.log"
                runs.append(make(name, roots[name], plan, to, log))
                print(f"{name}: {runs[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    section = text(options, runs)
    if options.write:
        page.write("Dataset", shlex.join(["scripts/bench", "dataset", *words]), section)
    print(section, json.dumps([asdict(run) | {"digests": None} for run in runs]), sep="\n\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench dataset", description=__doc__)
    parser.add_argument(
        "--against", required=True, metavar="REVISION", help="the other git revision"
    )
    for name, default, meaning in (
        ("rows", 60, "rows of the plan"),
        ("sizes", 20, "different sizes of the masks"),
        ("steps", 10, "steps of the solver"),
        ("runs", 1, "runs of each revision"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} [%(default)s]")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
