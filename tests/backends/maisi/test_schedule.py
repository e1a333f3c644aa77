"""The flow schedule against MONAI's, and against what solvers must integrate exactly."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from backends.maisi.schedule import Step, steps

RFLOW = {"kind": "rflow", "train_timesteps": 1000, "base_numel": 32768}


def monai(shape: tuple[int, ...], count: int) -> list[tuple[float, float]]:
    """Return MONAI's times and step lengths."""
    scheduler = RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        sample_method="uniform",
        scale=1.4,
    )
    numel: Any = torch.prod(torch.tensor(shape))  # a tensor, as upstream: it rounds otherwise
    scheduler.set_timesteps(count, input_img_size_numel=numel)
    times = scheduler.timesteps
    after = torch.cat((times[1:], torch.tensor([0], dtype=times.dtype)))
    return [(float(t), float(t - int(n)) / 1000) for t, n in zip(times, after, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 7, 30, 50, 137, 1000])
def test_euler_is_monai_bit_for_bit(count: int) -> None:
    random = np.random.default_rng(count)
    shapes = [(8, 8, 8), (24, 28, 24), (64, 64, 64), (128, 128, 192)]
    shapes += [tuple((4 * random.integers(2, 33, 3)).tolist()) for _ in range(30)]
    for shape in shapes:
        ours = steps(RFLOW, math.prod(shape), count, "euler")
        assert [(step.timestep, step.b) for step in ours] == monai(shape, count), shape
        assert all(step.a == 1 and step.c == 0 for step in ours)


def run(plan: list[Step], velocity: object) -> float:
    """Carry 0 along `velocity`(time 1..0, x) as the flow graph does."""
    x = z = 0.0
    for step in plan:
        v = velocity(step.timestep / 1000, x)  # type: ignore[operator]
        x, z = step.a * x + step.b * v + step.c * z, v
    return x


@pytest.mark.parametrize("solver", ["heun", "ab2"])
def test_higher_solvers_converge_with_second_order(solver: str) -> None:
    def velocity(time: float, x: float) -> float:
        return math.exp(2 * time) + x

    errors = [
        abs(run(steps(RFLOW, 24**3, n, solver), velocity) - truth(velocity)) for n in (20, 40, 80)
    ]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def truth(velocity: object) -> float:
    """Integrate the same with very many midpoint steps."""
    x, count = 0.0, 20000
    for i in range(count):
        time = 1 - i / count
        half = x + velocity(time, x) / (2 * count)  # type: ignore[operator]
        x += velocity(time - 0.5 / count, half) / count  # type: ignore[operator]
    return x


@pytest.mark.parametrize(("solver", "calls"), [("euler", 10), ("heun", 19), ("ab2", 10)])
def test_calls_a_solver_takes(solver: str, calls: int) -> None:
    plan = steps(RFLOW, 512, 10, solver)
    assert len(plan) == calls
    assert all(0 < step.timestep <= 1000 for step in plan)


def test_unknown_schedule_and_solver_are_named() -> None:
    with pytest.raises(ValueError, match="'ddim'"):
        steps({**RFLOW, "kind": "ddim"}, 512, 10, "euler")
    with pytest.raises(ValueError, match="'rk4'"):
        steps(RFLOW, 512, 10, "rk4")
