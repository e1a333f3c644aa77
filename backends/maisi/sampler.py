"""The loop: noise to latent, one call of the flow graph a step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import conditioning, schedule
from .request import Plan, Variant

# Runs a model of the variant: its short name, inputs, names of outputs -> the outputs. A tensor is
# a numpy array or whatever an earlier call gave back.
Engine = Callable[[str, Mapping[str, Any], Sequence[str]], list[Any]]


def _first_row(name: str, rows: Any) -> Any:
    return rows[:1]


def sample(
    variant: Variant,
    plan: Plan,
    noise: Any,
    conditions: Mapping[str, Any],
    engine: Engine,
    after: Callable[[int, int], None] = lambda done, total: None,
    first_row: Callable[[str, Any], Any] = _first_row,
) -> Any:
    """Carry `noise` [1, C, x, y, z] along the flow and return the latent of the same shape.

    `conditions`: what the flow is steered by, such as `spacing_mm100`, and for a masked plan
    `embedding`. `after` hears of every call (calls done, calls in all) and stops the loop by
    raising. `first_row` gives the conditional row of a named condition where those are no arrays:
    outside of the plan's guidance interval the network sees that row alone, at half the cost.
    """
    model = "flow_masked" if plan.masked else "flow"
    guidance = np.array([plan.guidance], np.float32)
    numel = math.prod(plan.latent_shape(variant)[2:])
    calls = schedule.steps(variant["schedule"], numel, plan.steps, plan.solver)
    guided = [plan.guides(call.timestep / variant["schedule"]["train_timesteps"]) for call in calls]
    alone = (
        conditions
        if plan.rows == 1 or all(guided)
        else {name: first_row(name, rows) for name, rows in conditions.items()}
    )
    fresh = conditioning.fresh_noise(variant, plan)
    latent = velocity = noise
    for done, (call, both) in enumerate(zip(calls, guided, strict=True), start=1):
        inputs = {
            **(conditions if both else alone),
            "guidance": guidance,
            "latent": latent,
            "z": next(fresh) if call.fresh else velocity,
            "timestep": np.array([call.timestep], np.float32),
            "coefficients": np.array([call.a, call.b, call.c], np.float32),
        }
        latent, velocity = engine(model, inputs, ["next_latent", "velocity"])
        after(done, len(calls))
    return latent
