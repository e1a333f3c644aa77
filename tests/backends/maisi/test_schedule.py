"""Schedules equal MONAI's, and solvers converge with their order."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from backends.maisi.request import complete
from backends.maisi.sampler import calls
from backends.maisi.schedule import Step, steps
from export import variant

RFLOW = {"kind": "rflow", "train_timesteps": 1000, "base_numel": 32768}
DDPM = {"kind": "ddpm", "train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195}


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
    ends = torch.cat((times[1:], torch.tensor([0], dtype=times.dtype)))
    return [(float(t), float(t - int(n)) / 1000) for t, n in zip(times, ends, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 7, 30, 50, 137, 1000])
def test_euler_is_monai_bit_for_bit(count: int) -> None:
    random = np.random.default_rng(count)
    shapes = [(8, 8, 8), (24, 28, 24), (64, 64, 64), (128, 128, 192)]
    shapes += [tuple((4 * random.integers(2, 33, 3)).tolist()) for _ in range(30)]
    for shape in shapes:
        ours = steps(RFLOW, math.prod(shape), count, "euler")
        assert [(step.timestep, step.b) for step in ours] == monai(shape, count), shape
        assert all(step.a == 1 and step.c == 0 for step in ours)


def numels(name: str) -> set[int]:
    """Return the elements of one channel of a latent, of all sizes that a variant takes."""
    serving = variant.load(name).serving
    size, factor = serving["size"], serving["latent"]["factor"]
    sides = [
        [padded // factor for padded in range(size["multiple"], most + 1, size["multiple"])]
        for most in (-(-side // size["multiple"]) * size["multiple"] for side in size["max"])
    ]
    return {math.prod(shape) for shape in itertools.product(*sides)}


@pytest.mark.parametrize("name", variant.names())
def test_the_first_call_is_not_before_the_time_of_pure_noise_at_any_size(name: str) -> None:
    serving = variant.load(name).serving
    schedule, sizes = serving["schedule"], numels(name)
    assert len(sizes) > 100
    for solver in serving["solvers"]:
        first = [steps(schedule, numel, 2, solver)[0].timestep for numel in sizes]
        noise = schedule["train_timesteps"] - (schedule["kind"] == "ddpm")
        assert min(first) > noise * (1 - 1e-12) and max(first) <= noise, solver


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_the_first_call_of_a_whole_interval_is_guided(mini: dict[str, Any], solver: str) -> None:
    for size in itertools.product(range(32, 257, 16), repeat=3):
        if math.prod(size) <= mini["size"]["max_voxels"]:
            inputs = {"size": size, "guidance": [2.0], "steps": [2], "solver": [solver.encode()]}
            plan = complete(mini, {key: np.array(value) for key, value in inputs.items()})
            assert plan.guides(calls(mini, plan)[0].timestep / 1000), size


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
    """Integrate with 20000 midpoint steps."""
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


def monai_ddpm(count: int) -> DDPMScheduler:
    """Return upstream's scheduler of ddpm-ct, set to `count` steps."""
    beta = {"beta_start": 0.0015, "beta_end": 0.0195}
    scheduler = DDPMScheduler(1000, "scaled_linear_beta", clip_sample=False, **beta)
    scheduler.set_timesteps(count)
    return scheduler


@pytest.mark.parametrize("count", [*range(1, 40), 250, 333, 667, 998, 999, 1000])
def test_ddpm_has_monais_times(count: int) -> None:
    ours = steps(DDPM, 512, count, "ddpm")
    assert [step.timestep for step in ours] == monai_ddpm(count).timesteps.tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_ddpm_step_is_monais(count: int) -> None:
    scheduler = monai_ddpm(count)
    draw = torch.Generator().manual_seed(count)
    for step in steps(DDPM, 512, count, "ddpm"):
        x, output = torch.randn(2, 1, 4, 64, generator=draw)
        theirs, _ = scheduler.step(output, int(step.timestep), x, torch.Generator().manual_seed(3))
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        a, b, c = np.array([step.a, step.b, step.c], np.float32).tolist()
        ours = a * x + b * output + c * z
        assert (ours - theirs).abs().max() < 1e-6 * theirs.abs().max(), step
        assert step.fresh == (step.timestep > 0) == (c > 0)


def test_a_thousand_ddpm_steps_end_where_monais_do() -> None:
    def network(x: torch.Tensor, time: float) -> torch.Tensor:
        # Depends on the time, and nonlinearly on x, as a trained network does.
        return torch.tanh(x) * (0.2 + time / 1250)

    scheduler, draw = monai_ddpm(1000), torch.Generator().manual_seed(0)
    ours = theirs = torch.randn((1, 4, 8, 8, 8), generator=draw)
    for step in steps(DDPM, 512, 1000, "ddpm"):
        state = draw.get_state()
        output = network(theirs, step.timestep)
        theirs, _ = scheduler.step(output, int(step.timestep), theirs, draw)
        draw.set_state(state)
        z = torch.randn(ours.shape, generator=draw) if step.fresh else 0 * ours
        ours = step.a * ours + step.b * network(ours, step.timestep) + step.c * z
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_unknown_schedule_and_solver_are_named() -> None:
    with pytest.raises(ValueError, match="'ddim' is not one of rflow, ddpm"):
        steps({**RFLOW, "kind": "ddim"}, 512, 10, "euler")
    with pytest.raises(ValueError, match="'rk4' is not one of euler, heun, ab2"):
        steps(RFLOW, 512, 10, "rk4")
    with pytest.raises(ValueError, match="'euler' is not one of ddpm"):
        steps(DDPM, 512, 10, "euler")


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
@pytest.mark.parametrize("count", [7, 30])
def test_strength_omits_the_first_steps(solver: str, count: int) -> None:
    whole = steps(RFLOW, 24**3, count, solver)
    for strength in (0.2, 0.55, 0.9):
        part = steps(RFLOW, 24**3, count, solver, strength)
        times = [step.timestep for step in part]
        assert times == [step.timestep for step in whole[len(whole) - len(part) :]]
        assert times[0] <= 1000 * strength
        # A constant velocity is integrated from that time to 0.
        assert run(part, lambda time, x: 1.0) == pytest.approx(times[0] / 1000, abs=0.03)
        assert part[0].c == 0  # there is no velocity before it
    assert steps(RFLOW, 24**3, count, solver, 1.0) == whole
    assert steps(RFLOW, 24**3, count, solver, 0.0) == []


def test_strength_of_ddpm() -> None:
    whole = steps(DDPM, 512, 1000, "ddpm")
    assert steps(DDPM, 512, 1000, "ddpm", 0.25) == whole[-251:]
    assert steps(DDPM, 512, 1000, "ddpm", 0.0) == []
