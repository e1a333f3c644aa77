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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from bench import ROOT, page, servers
from bench.launcher import Server

_SIDES = (64, 80, 96)  # voxels
_ORDER = 5  # seed of the random order of the rows in the plan
# Contenders of this revision, and the options of their server.
_OPTIONS = {"this": [], "this, bfloat16": ["--bfloat16"]}


@dataclass(frozen=True)
class Run:
    """A dataset: the time, and a digest for each row."""

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


def make(root: Path, options: Sequence[str], plan: Path, to: Path, log: Path) -> Run:
    """Make the dataset of a plan with the revision in `root`; return its time and digests.

    `options` are those of the server. The time does not include its start.
    """
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'client' / 'src'}"}
    with Server(
        root / "model_repository", log, "--models=mini", *options, cwd=root, env=env
    ) as server:
        words = [sys.executable, "-m", "maisi_client", "dataset", plan, "--to", to]
        words += ["--url", server.grpc]
        start = time.monotonic()
        subprocess.run(list(map(str, words)), cwd=root, env=env, check=True)
        seconds = time.monotonic() - start
    reports = (json.loads(path.read_text()) for path in to.rglob("reports/*.json"))
    return Run(seconds, {report["name"]: report["sha256"]["image"] for report in reports})


def text(options: argparse.Namespace, rounds: Sequence[Mapping[str, Run]]) -> str:
    """Return the section of the page; each round has a run of every contender."""
    rows = [
        [name, f"{run.seconds:.0f} s", f"{3600 * options.rows / run.seconds:.0f}"]
        for runs in rounds
        for name, run in runs.items()
    ]
    return "\n\n".join(
        [
            f"`maisi dataset` with {options.rows} masks of {options.sizes} sizes in random order,"
            f" {options.steps} steps of `mini`, {_SIDES[0]} to {_SIDES[-1]} voxels per side. Runs"
            " alternate between this revision and the other one. Each run starts a server of its"
            " revision, so that no size is compiled before the run.",
            page.table(["revision", "time", "volumes/h"], rows),
            *(_ratios(name, options.against, rounds) for name in rounds[0] if name in _OPTIONS),
        ]
    )


def _ratios(name: str, other: str, rounds: Sequence[Mapping[str, Run]]) -> str:
    ratios = [runs[other].seconds / runs[name].seconds for runs in rounds]
    equal = all(runs[other].digests == runs[name].digests for runs in rounds)
    return (
        f"Rate of *{name}* divided by the rate of *{other}*, by rounds:"
        f" {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {statistics.median(ratios):.2f}."
        f" The volumes are {'' if equal else 'not '}the same, byte for byte."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="dataset-") as path:
        folder = Path(path)
        plan = write_plan(folder, options.rows, options.sizes, options.steps)
        roots = {name: ROOT for name in _OPTIONS if options.bfloat16 or name == "this"}
        roots[options.against] = checkout(options.against, folder / "other")
        rounds: list[dict[str, Run]] = []
        for number in range(options.runs):
            rounds.append({})
            for name in sorted(roots, reverse=number % 2 == 0):
                to = folder / f"set-{number}-{len(rounds[-1])}"
                server = _OPTIONS.get(name, [])
                run = make(roots[name], server, plan, to, to.with_suffix(".log"))
                rounds[-1][name] = run
                print(f"{name}: {run.seconds:.0f} s", file=sys.stderr, flush=True)
    section = text(options, rounds)
    if options.write:
        page.write("Dataset", shlex.join(["scripts/bench", "dataset", *words]), section)
    print(section)
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
        "--bfloat16", action="store_true", help="measure this revision in bfloat16, too"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
