"""The loop: noise to latent, one call of the flow graph a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import conditioning, schedule, stopping
from .inputs import Variant
from .request import Plan

# Runs a model of the variant: its short name, inputs, names of outputs -> the outputs. A tensor is
# a numpy array or whatever an earlier call gave back.
RunModel = Callable[[str, Mapping[str, Any], Sequence[str]], list[Any]]


def _first_row(name: str, rows: Any) -> Any:
    return rows[:1]


def calls(variant: Variant, plan: Plan) -> list[schedule.Step]:
    """Return the calls of the network that the plan asks for."""
    numel = math.prod(plan.latent_shape(variant)[2:])
    return schedule.steps(variant["schedule"], numel, plan.steps, plan.solver, plan.strength)


def sample(
    variant: Variant,
    plan: Plan,
    noise: Any,
    conditions: Mapping[str, Any],
    run_model: RunModel,
    after: Callable[[int, int], None] = lambda done, total: None,
    first_row: Callable[[str, Any], Any] = _first_row,
    attempt: int = 0,
) -> Any:
    """Carry `noise` [1, C, x, y, z] along the flow and return the latent of the same shape.

    `noise` may be a noised image, where the plan has a strength below 1.

    `conditions`: what the flow is steered by, such as `spacing_mm100`, and for a masked plan
    `embedding`. `after` hears of every call (calls done, calls in all) and stops the loop by
    raising. `first_row` gives the conditional row of a named condition where those are no arrays:
    outside of the plan's guidance interval the network sees that row alone, at half the cost.
    Raises Stopping when the server's time is over.
    """
    model = "flow_masked" if plan.masked else "flow"
    guidance = np.array([plan.guidance], np.float32)
    steps = calls(variant, plan)
    guided = [plan.guides(step.timestep / variant["schedule"]["train_timesteps"]) for step in steps]
    alone = (
        conditions
        if plan.rows == 1 or all(guided)
        else {name: first_row(name, rows) for name, rows in conditions.items()}
    )
    fresh = conditioning.fresh_noise(variant, plan, attempt)
    latent = velocity = noise
    for done, (step, both) in enumerate(zip(steps, guided, strict=True), start=1):
        stopping.check_deadline(plan.seed)
        inputs = {
            **(conditions if both else alone),
            "guidance": guidance,
            "latent": latent,
            "z": next(fresh) if step.fresh else velocity,
            "timestep": np.array([step.timestep], np.float32),
            "coefficients": np.array([step.a, step.b, step.c], np.float32),
        }
        latent, velocity = run_model(model, inputs, ["next_latent", "velocity"])
        after(done, len(steps))
    return latent
