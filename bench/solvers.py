"""Compare solvers at equal network calls by their distance to the converged volume.

    scripts/bench solvers [--quick] [--write]

Two of the solvers cache velocities: a step without a network call reuses the last velocity, or
extrapolates the last two velocities. Such a step is a linear combination of known tensors, so it is
merged with the step before it into one longer `schedule.Step`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import nibabel as nib
import numpy as np

from backends.maisi import decoder, sampler, schedule
from backends.maisi.sampler import RunModel
from backends.maisi.schedule import Step
from bench import ROOT, in_process, page
from bench.in_process import PreparedRequest
from bench.workload import Array
from training.fidelity import tissue_dice

CALLS = (5, 8, 10, 15, 20, 30, 50)
CONVERGED = 200
TRUTH = "ab2"  # its result with `CONVERGED` steps counts as converged
CASES = (
    ("examples/brain_mask.nii.gz", "mri_t1", 1),
    ("tests/training/held_out_100000.nii.gz", "mri_t2", 2),
    ("tests/training/held_out_100001.nii.gz", "mri_flair", 3),
)
MEASURES = {
    "latent": "Latent: relative L2 distance to the converged latent.",
    "grey": "Volume: mean absolute distance to the converged volume, in grey levels of 0 to 1000.",
    "features": (
        "Features: relative L2 distance between the latents that the encoder computes from the "
        "volume and from the converged volume."
    ),
    "dice": (
        "Dice: the mean Dice between the mask and the fluid, grey matter and white matter that "
        "k-means finds in the volume."
    ),
}
Schedule = Mapping[str, Any]


def exact_times(rflow: Schedule, numel: int, count: int) -> list[float]:
    """Return `count` + 1 times from 1 to 0 that are not rounded."""
    train = rflow["train_timesteps"]
    return [step.timestep / train for step in schedule.steps(rflow, numel, count, "ab2")] + [0.0]


def exact_euler(rflow: Schedule, numel: int, calls: int) -> list[Step]:
    """Return Euler's steps without MONAI's rounding of times."""
    times = exact_times(rflow, numel, calls)
    return [
        Step(now * rflow["train_timesteps"], 1.0, now - after, 0.0)
        for now, after in pairwise(times)
    ]


def heun(rflow: Schedule, numel: int, calls: int) -> list[Step]:
    """Return Heun's steps with `calls` network calls, or one call less if `calls` is even."""
    return schedule.steps(rflow, numel, (calls + 1) // 2, "heun")


def cached(rflow: Schedule, numel: int, calls: int, extrapolated: bool) -> list[Step]:
    """Return Euler's steps; every second step in the middle half makes no network call.

    A step without a call reuses the last velocity or, if `extrapolated`, extrapolates the last two.
    """
    count = calls
    while len(calling(count)) < calls:
        count += 1
    times = exact_times(rflow, numel, count)
    steps: list[Step] = []
    for now, after in pairwise([*calling(count), count]):
        own, ahead = times[now] - times[now + 1], times[now + 1] - times[after]
        gap = steps[-1].timestep / rflow["train_timesteps"] - times[now] if steps else 0.0
        second = own * ahead / gap if extrapolated and steps else 0.0
        time = times[now] * rflow["train_timesteps"]
        steps.append(Step(time, 1.0, own + ahead + second, -second))
    return steps


def calling(count: int) -> list[int]:
    """Return the indices of the steps, out of `count`, that call the network."""
    start, end = count // 4, count - count // 4
    return [i for i in range(count) if not (start < i < end and (i - start) % 2)]


SOLVERS: dict[str, Callable[[Schedule, int, int], list[Step]]] = {
    "euler": lambda rflow, numel, calls: schedule.steps(rflow, numel, calls, "euler"),
    "euler, exact times": exact_euler,
    "heun": heun,
    "ab2": lambda rflow, numel, calls: schedule.steps(rflow, numel, calls, "ab2"),
    "euler, velocity reused": lambda rflow, numel, calls: cached(rflow, numel, calls, False),
    "euler, velocity extrapolated": lambda rflow, numel, calls: cached(rflow, numel, calls, True),
}
OWN = "euler, to euler with many steps"
CACHED = ("euler, velocity reused", "euler, velocity extrapolated")
SERVED = ("euler", "heun", "ab2")


def follow(steps: Sequence[Step], request: PreparedRequest, run: RunModel) -> Array:
    """Return the latent, float32 `[1, C, x, y, z]`, that `steps` make from the request's noise."""
    latent = velocity = request.noise
    model = sampler.network(request.plan)
    for step in steps:
        inputs = {
            **request.conditions,
            "guidance": np.array([request.plan.guidance], np.float32),
            "latent": latent,
            "z": velocity,
            "timestep": np.array([step.timestep], np.float32),
            "coefficients": np.array([step.a, step.b, step.c], np.float32),
        }
        latent, velocity = run(model, inputs, ["next_latent", "velocity"])
    return latent


def apart(latent: Array, expected: Array) -> float:
    """Return the L2 norm of the difference, divided by the norm of `expected`."""
    a, b = latent.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class SolverCase:
    """A request with a mask, a modality and a seed, which all solvers answer."""

    def __init__(self, variant: Mapping[str, Any], inputs: dict[str, Array], run: RunModel) -> None:
        self.variant, self.run = variant, run
        self.request = in_process.prepare(variant, inputs, run)
        self.numel = math.prod(self.request.plan.latent_shape(variant)[2:])

    def solve(self, solver: str, calls: int) -> tuple[Array, Array, Array]:
        """Return the latent, the volume, and the features of a volume made with `calls` calls."""
        steps = SOLVERS[solver](self.variant["schedule"], self.numel, calls)
        latent = follow(steps, self.request, self.run)
        plan, mask = self.request.plan, self.request.mask
        served = decoder.in_grey_levels(self.variant, self.run)
        image = decoder.decode(self.variant, plan, latent, mask, served)
        scale = self.variant["intensity"]
        scaled = (image.astype(np.float32) - scale["min"]) / (scale["max"] - scale["min"])
        (features,) = self.run("vae_encoder", {"image": scaled[None, None]}, ["latent"])
        return latent, image, features

    def measure(self, counts: Sequence[int], converged: int) -> dict[str, dict[str, list[float]]]:
        """Return a number for each measure, solver and number of calls in `counts`."""
        expected, own = self.solve(TRUTH, converged), self.solve("euler", converged)
        table: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURES}

        def add(row: str, result: tuple[Array, ...], reference: tuple[Array, ...]) -> None:
            numbers = {
                "latent": apart(result[0], reference[0]),
                "grey": float(np.abs(result[1].astype(int) - reference[1]).mean()),
                "features": apart(result[2], reference[2]),
            }
            for measure, number in numbers.items():
                table[measure].setdefault(row, []).append(number)

        for solver in SOLVERS:
            for count in counts:
                result = self.solve(solver, count)
                add(solver, result, expected)
                if solver == "euler":
                    add(OWN, result, own)
                table["dice"].setdefault(solver, []).append(self.dice(result[1]))
        table["dice"]["converged"] = [self.dice(expected[1])] * len(counts)
        return table

    def dice(self, image: Array) -> float:
        """Return the mean Dice between the tissues of a volume and of the mask."""
        assert self.request.mask is not None
        scores = tissue_dice(image, self.request.mask, self.request.plan.modality)
        return float(np.mean(list(scores.values())))


def read(path: str, modality: str, seed: int, side: int | None = None) -> dict[str, Array]:
    """Return the request for a mask file in RAS+, or for its central cube of `side` voxels."""
    image = nib.load(ROOT / path)
    mask = np.asarray(image.dataobj, np.uint8)
    if side is not None:
        low = [(n - side) // 2 for n in mask.shape]
        mask = mask[tuple(slice(a, a + side) for a in low)]
    return {
        "mask": np.ascontiguousarray(mask),
        "spacing": np.array(image.header.get_zooms(), np.float32),
        "modality": np.array([modality], object),
        "seed": np.array([seed]),
    }


def average(tables: Sequence[Any]) -> Any:
    """Return the elementwise mean of nested dicts and lists that have the same structure."""
    if isinstance(tables[0], dict):
        return {key: average([table[key] for table in tables]) for key in tables[0]}
    return np.mean(tables, axis=0).tolist()


def judge(table: Mapping[str, Mapping[str, Sequence[float]]], counts: Sequence[int]) -> str:
    """Return sentences that compare 15 with 30 calls, and cached velocities with the solvers."""
    sentences = []
    latent = table["latent"]
    if 15 in counts and 30 in counts:
        full = latent["euler"][counts.index(30)]
        for solver in ("ab2", "heun"):
            half = latent[solver][counts.index(15)]
            word = "nearer to" if half < full else "farther from"
            sentences.append(
                f"{solver} with 15 calls ({half:.4f}) is {word} the converged latent than euler "
                f"with 30 calls ({full:.4f})."
            )
    best = [min(latent[name][i] for name in SERVED) for i in range(len(counts))]
    better = [
        str(count)
        for i, count in enumerate(counts)
        if min(latent[name][i] for name in CACHED) < best[i]
    ]
    sentences.append(
        "The rows of reused and extrapolated velocity omit every second call of the middle half. "
        + (
            f"They are nearer than the best solver with {', '.join(better)} calls."
            if better
            else "They are farther than the best solver at every number of calls, so the sampler "
            "does not cache velocities. Reuse equals Euler with longer steps, and extrapolation "
            "equals ab2 with a smaller second-order term."
        )
    )
    return " ".join(sentences)


def render(
    table: Mapping[str, Any], counts: Sequence[int], cases: int, converged: int, distance: float
) -> str:
    """Return the tables in Markdown; `distance` is the sum of Euler's `converged` steps."""
    parts = [
        f"`mini`, means over {cases} {'volumes' if cases > 1 else 'volume'} of different masks, "
        "modalities and seeds, no guidance. The columns are numbers of network calls. heun needs "
        "an odd number of calls; for an even number it makes one call less. The converged latent "
        f"and volume are the result of {TRUTH} with {converged} steps at exact times. euler has "
        "the times of MONAI: each step ends at a time that is truncated to a whole number. The "
        f"steps are therefore too long: {converged} steps sum to {distance:.3f}, and euler does "
        "not converge. The row with exact times is Euler's method without this truncation."
    ]
    for measure, title in MEASURES.items():
        form = "{:.1f}" if measure == "grey" else "{:.3f}" if measure == "dice" else "{:.4f}"
        rows = [[row, *map(form.format, numbers)] for row, numbers in table[measure].items()]
        parts += [title, page.table(["solver", *map(str, counts)], rows)]
    return "\n\n".join([*parts, judge(table, counts)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench solvers", description="Compare solvers at equal network calls."
    )
    parser.add_argument("--quick", action="store_true", help="try with a small cube and few calls")
    parser.add_argument(
        "--write", action="store_true", help="write the section of docs/reference/benchmarks.md"
    )
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--write: the page has complete measurements; leave out --quick")
    counts, converged, side = ((5, 8), 16, 48) if options.quick else (CALLS, CONVERGED, None)
    cases = CASES[:1] if options.quick else CASES
    variant, run = in_process.published("mini"), in_process.engine("mini")
    tables = []
    for path, modality, seed in cases:
        print(f"{path}, {modality}, seed {seed}", file=sys.stderr, flush=True)
        case = SolverCase(variant, read(path, modality, seed, side), run)
        tables.append(case.measure(counts, converged))
    table = average(tables)
    distance = sum(step.b for step in SOLVERS["euler"](variant["schedule"], case.numel, converged))
    text = render(table, counts, len(cases), converged, distance)
    print(text + "\n")
    print(
        json.dumps(
            {"calls": counts, "cases": len(cases), "converged": converged, "way": distance, **table}
        )
    )
    if options.write:
        page.write("Solvers", "scripts/bench solvers --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
