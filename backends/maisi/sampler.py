"""The sampler's loop: from noise to a latent, one call of the flow network a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import conditioning, schedule, stopping
from .inputs import Variant
from .request import Plan

# Runs a network of the variant: its short name, inputs, names of outputs -> the outputs. A tensor
# is a numpy array or an output of an earlier call.
RunModel = Callable[[str, Mapping[str, Any], Sequence[str]], list[Any]]


def _first_row(name: str, rows: Any) -> Any:
    return rows[:1]


def network(plan: Plan) -> str:
    """Return the network that `sample` calls."""
    return "flow_masked" if plan.masked else "flow"


def calls(variant: Variant, plan: Plan) -> list[schedule.Step]:
    """Return the plan's calls of the network."""
    numel = math.prod(plan.latent_shape(variant)[2:])
    return schedule.steps(variant["schedule"], numel, plan.steps, plan.solver, plan.strength)


def rows_of_calls(variant: Variant, plan: Plan) -> list[int]:
    """Return the rows of conditioning in each of the plan's calls.

    Outside of the guidance interval a call has the conditional row alone, at half the cost.
    """
    return [_rows(variant, plan, step) for step in calls(variant, plan)]


def _rows(variant: Variant, plan: Plan, step: schedule.Step) -> int:
    time = step.timestep / variant["schedule"]["train_timesteps"]
    return plan.rows if plan.guides(time) else 1


def sample(
    variant: Variant,
    plan: Plan,
    noise: Any,
    conditions: Mapping[str, Any],
    run_model: RunModel,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    first_row: Callable[[str, Any], Any] = _first_row,
    attempt: int = 0,
) -> Any:
    """Carry `noise` [1, C, x, y, z] along the flow and return the latent of the same shape.

    `noise` may be a noised image, where the plan has a strength below 1.

    `conditions`: the conditioning by name, such as `spacing_mm100`, and for a masked plan
    `embedding`. `on_step(done, total)` is called after every call and ends the loop by raising.
    `first_row(name, condition)` returns the conditional row, for calls with one row. Raises
    Stopping when the server's deadline is over.
    """
    model = network(plan)
    guidance = np.array([plan.guidance], np.float32)
    steps = calls(variant, plan)
    rows = [_rows(variant, plan, step) for step in steps]
    conditional = (
        conditions
        if all(count == plan.rows for count in rows)
        else {name: first_row(name, value) for name, value in conditions.items()}
    )
    fresh = conditioning.fresh_noise(variant, plan, attempt)
    latent = velocity = noise
    for done, (step, count) in enumerate(zip(steps, rows, strict=True), start=1):
        stopping.check_deadline(plan.seed)
        inputs = {
            **(conditions if count == plan.rows else conditional),
            "guidance": guidance,
            "latent": latent,
            "z": next(fresh) if step.fresh else velocity,
            "timestep": np.array([step.timestep], np.float32),
            "coefficients": np.array([step.a, step.b, step.c], np.float32),
        }
        # Without its velocity, the last latent comes in the memory of the CPU (inner_models.py).
        outputs = ["next_latent"] if done == len(steps) else ["next_latent", "velocity"]
        latent, *velocities = run_model(model, inputs, outputs)
        velocity = velocities[0] if velocities else None
        on_step(done, len(steps))
    return latent
