"""Schedules as numbers: the times of the network's calls, and the update of the latent after each.

Every update is `next = a*x + b*v + c*z`. In rectified flow, v is the network's velocity, and z the
velocity of the step before. In DDPM, v is the noise that the network predicts in x, and z is fresh
noise. A solver is therefore a list of `Step`, without tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """A call of the network at `timestep` (0..train_timesteps), and the update `a*x + b*v + c*z`.

    If `fresh`, z is new noise. Otherwise z is the network's output of the step before; if c is 0, z
    is not used.
    """

    timestep: float
    a: float
    b: float
    c: float
    fresh: bool = False


def steps(
    schedule: Mapping[str, Any], numel: int, count: int, solver: str, strength: float = 1.0
) -> list[Step]:
    """Return the calls that carry noise to a latent of `numel` = x*y*z elements in `count` steps.

    `strength` below 1 omits the steps that begin above this share of train_timesteps. The sampler
    then starts from an image with the noise of the first remaining step, as in SDEdit (Meng et al.,
    https://arxiv.org/abs/2108.01073). With 0 there are no steps.

    Rectified flow: `euler` repeats MONAI's RFlowScheduler bit for bit, including its rounding of
    times to float16. `heun` and `ab2` (Adams-Bashforth, second order) use exact times. Heun calls
    the network twice in each step except the last, whose second call would be at time zero.
    DDPM: `ddpm` repeats MONAI's DDPMScheduler.
    Raises ValueError for an unknown schedule or solver.
    """
    kind = schedule["kind"]
    if kind not in _SOLVERS:
        raise ValueError(f"schedule: {kind!r} is not one of {', '.join(_SOLVERS)}")
    if solver not in _SOLVERS[kind]:
        raise ValueError(f"solver: {solver!r} is not one of {', '.join(_SOLVERS[kind])}")
    if strength == 0:
        return []
    latest = strength * schedule["train_timesteps"]
    return _SOLVERS[kind][solver](schedule, numel, count, latest)


def noising_weights(schedule: Mapping[str, Any], timestep: float) -> tuple[float, float]:
    """Return the weights of image and noise in the sum that the network expects at `timestep`.

    They are those of `add_noise` in MONAI's RFlowScheduler and DDPMScheduler; the latter has whole
    timesteps.
    """
    if schedule["kind"] == "rflow":
        share = timestep / schedule["train_timesteps"]
        return 1 - share, share
    product = float(_ddpm_tables(schedule)[2][int(timestep)])
    return product**0.5, (1 - product) ** 0.5


def _euler(schedule: Mapping[str, Any], numel: int, count: int, latest: float) -> list[Step]:
    train = schedule["train_timesteps"]
    one, total = np.float32(1), np.float32(train)
    relative = np.float32(numel) / np.float32(schedule["base_numel"])
    ratio = np.float32(float(relative) ** (1 / 3))  # PyTorch takes the root in double precision
    even = [np.float32((1.0 - i / count) * train / train) for i in range(count)]
    slow = ratio - one
    times = [np.float16(ratio * u / (one + slow * u) * total) for u in even]
    # The next time is truncated to an integer, so the sum of the steps is not exactly one.
    ends = [np.float16(int(time)) for time in times[1:]] + [np.float16(0)]
    deltas = [float(np.float16(a - b)) / train for a, b in zip(times, ends, strict=True)]
    plan = [Step(float(t), 1.0, dt, 0.0) for t, dt in zip(times, deltas, strict=True)]
    return [step for step in plan if step.timestep <= latest]


def _times(schedule: Mapping[str, Any], numel: int, count: int, latest: float) -> list[float]:
    """Return the times of `count` steps from 1 to 0, denser near 1 for a larger latent."""
    ratio = (numel / schedule["base_numel"]) ** (1 / 3)
    even = [1.0 - i / count for i in range(count + 1)]
    # Rounding may put the first a little above 1, outside of every guidance interval.
    times = [min(1.0, ratio * u / (1 + (ratio - 1) * u)) for u in even]
    return [time for time in times if time * schedule["train_timesteps"] <= latest]


def _heun(schedule: Mapping[str, Any], numel: int, count: int, latest: float) -> list[Step]:
    train, times = schedule["train_timesteps"], _times(schedule, numel, count, latest)
    plan: list[Step] = []
    for start, end in pairwise(times):
        dt = start - end
        plan.append(Step(start * train, 1.0, dt, 0.0))
        if end > 0:
            # The first call moved x by dt*z: undo half of it and move half a step along v.
            plan.append(Step(end * train, 1.0, dt / 2, -dt / 2))
    return plan


def _ab2(schedule: Mapping[str, Any], numel: int, count: int, latest: float) -> list[Step]:
    train, times = schedule["train_timesteps"], _times(schedule, numel, count, latest)
    plan, previous = [], None
    for start, end in pairwise(times):
        dt = start - end
        # Steps differ in length: the weights are those of a line through the last two velocities.
        bend = 0.0 if previous is None else dt * dt / (2 * previous)
        plan.append(Step(start * train, 1.0, dt + bend, -bend))
        previous = dt
    return plan


def _ddpm(schedule: Mapping[str, Any], numel: int, count: int, latest: float) -> list[Step]:
    """Return the steps of MONAI's DDPMScheduler with a `scaled_linear_beta` schedule.

    These are its defaults: the network predicts noise, the estimate of the image is not clipped,
    and the variance is `fixed_small` (Ho et al., https://arxiv.org/abs/2006.11239, equations 6, 7
    and 15). MONAI always steps to the time one training step earlier. With `count` below
    train_timesteps, noise therefore remains, as in MONAI. The float32 tables are those of MONAI;
    all other computation is exact.
    """
    train = schedule["train_timesteps"]
    betas, alphas, products = _ddpm_tables(schedule)
    plan = []
    for time in np.rint(_linspace(train - 1, 0, count)).astype(int).tolist():
        beta, alpha, product = float(betas[time]), float(alphas[time]), float(products[time])
        before = float(products[time - 1]) if time > 0 else 1.0
        image = before**0.5 * beta / (1 - product)  # weight of the image estimate from x and v
        a = image / product**0.5 + alpha**0.5 * (1 - before) / (1 - product)
        b = -image * ((1 - product) / product) ** 0.5
        c = max((1 - before) / (1 - product) * beta, 1e-20) ** 0.5 if time > 0 else 0.0
        plan.append(Step(float(time), a, b, c, fresh=time > 0))
    return [step for step in plan if step.timestep <= latest]


def _ddpm_tables(schedule: Mapping[str, Any]) -> tuple[Table, Table, Table]:
    """Return beta, alpha and the product of alphas at every time."""
    train = schedule["train_timesteps"]
    roots = _linspace(schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5, train)
    betas = roots**2
    alphas = np.float32(1) - betas
    return betas, alphas, np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _linspace(start: float, end: float, count: int) -> Table:
    """Return torch.linspace in float32, whose second half is computed from the end."""
    first, last = float(np.float32(start)), float(np.float32(end))
    step = float(np.float32((last - first) / (count - 1))) if count > 1 else 0.0
    up, down = np.arange(count), np.arange(count)[::-1]
    first_half = (up < count // 2) | (count == 1)
    return np.where(first_half, first + step * up, last - step * down).astype(np.float32)


_SOLVERS = {
    "rflow": {"euler": _euler, "heun": _heun, "ab2": _ab2},
    "ddpm": {"ddpm": _ddpm},
}
