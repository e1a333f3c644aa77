"""Flow schedules as numbers: when to ask the network, and how to move the latent after it.

Every move is `next = a*x + b*v + c*z` with v the network's velocity and z the one before it, so a
solver is a list of `Step` and knows no tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """One call of the network at `timestep` (0..train_timesteps), then `a*x + b*v + c*z`."""

    timestep: float
    a: float
    b: float
    c: float


def steps(schedule: Mapping[str, Any], numel: int, count: int, solver: str) -> list[Step]:
    """Return the calls that carry noise to a latent of `numel` = x*y*z elements in `count` steps.

    `euler` repeats MONAI's RFlowScheduler bit for bit, its rounding of times to float16 included.
    `heun` and `ab2` (Adams-Bashforth, second order) keep exact times. Heun calls the network twice
    a step except in the last, which would ask it at time zero.
    Raises ValueError for a schedule or a solver that is not known here.
    """
    if schedule["kind"] != "rflow":
        raise ValueError(f"schedule: {schedule['kind']!r} is not one of rflow")
    if solver == "euler":
        return _euler(schedule, numel, count)
    if solver == "heun":
        return _heun(schedule, numel, count)
    if solver == "ab2":
        return _ab2(schedule, numel, count)
    raise ValueError(f"solver: {solver!r} is not one of euler, heun, ab2")


def _euler(schedule: Mapping[str, Any], numel: int, count: int) -> list[Step]:
    train = schedule["train_timesteps"]
    one, total = np.float32(1), np.float32(train)
    relative = np.float32(numel) / np.float32(schedule["base_numel"])
    ratio = np.float32(float(relative) ** (1 / 3))  # PyTorch takes the root in double precision
    even = [np.float32((1.0 - i / count) * train / train) for i in range(count)]
    slow = ratio - one
    times = [np.float16(ratio * u / (one + slow * u) * total) for u in even]
    # The next time is cut to an integer, so the steps do not sum to one exactly.
    after = [np.float16(int(time)) for time in times[1:]] + [np.float16(0)]
    deltas = [float(np.float16(a - b)) / train for a, b in zip(times, after, strict=True)]
    return [Step(float(t), 1.0, dt, 0.0) for t, dt in zip(times, deltas, strict=True)]


def _times(schedule: Mapping[str, Any], numel: int, count: int) -> list[float]:
    """Return `count` + 1 times from 1 to 0, denser near 1 the larger the latent is."""
    ratio = (numel / schedule["base_numel"]) ** (1 / 3)
    even = [1.0 - i / count for i in range(count + 1)]
    return [ratio * u / (1 + (ratio - 1) * u) for u in even]


def _heun(schedule: Mapping[str, Any], numel: int, count: int) -> list[Step]:
    train, times = schedule["train_timesteps"], _times(schedule, numel, count)
    plan: list[Step] = []
    for now, after in pairwise(times):
        dt = now - after
        plan.append(Step(now * train, 1.0, dt, 0.0))
        if after > 0:
            # The guess went dt*z ahead: take half of it back and go half a step along v.
            plan.append(Step(after * train, 1.0, dt / 2, -dt / 2))
    return plan


def _ab2(schedule: Mapping[str, Any], numel: int, count: int) -> list[Step]:
    train, times = schedule["train_timesteps"], _times(schedule, numel, count)
    plan, previous = [], None
    for now, after in pairwise(times):
        dt = now - after
        # Steps differ in length: the weights are those of a line through the last two velocities.
        bend = 0.0 if previous is None else dt * dt / (2 * previous)
        plan.append(Step(now * train, 1.0, dt + bend, -bend))
        previous = dt
    return plan
