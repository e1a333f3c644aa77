"""What a request would take, learnt from the volumes that this process has made."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from .inputs import Variant
from .request import Plan
from .sampler import calls

_KEPT = 5  # volumes remembered; the median of so few follows a machine that gets busier


@dataclass
class Pace:
    """Seconds for each unit of work, by stage.

    A unit is a voxel and, for the sampler, a call of the network and a row of conditioning. Work
    grows a little faster than that where a network has attention, so expect more for a volume much
    larger than those made before.
    """

    seen: dict[str, deque[float]] = field(default_factory=dict)

    def note(self, variant: Variant, plan: Plan, seconds: dict[str, float]) -> None:
        """Remember how long the stages of an attempt took."""
        for stage, units in _units(variant, plan).items():
            if stage in seconds:
                kept = self.seen.setdefault(stage, deque(maxlen=_KEPT))
                kept.append(seconds[stage] / units)

    def expect(self, variant: Variant, plan: Plan) -> float | None:
        """Return the seconds of one attempt; None where nothing like it was made yet."""
        work = _units(variant, plan)
        if not work.keys() <= self.seen.keys():
            return None
        middle = {stage: sorted(kept)[len(kept) // 2] for stage, kept in self.seen.items()}
        return sum(middle[stage] * units for stage, units in work.items())


def _units(variant: Variant, plan: Plan) -> dict[str, float]:
    voxels = math.prod(plan.padded_size)
    steps = calls(variant, plan)
    times = [step.timestep / variant["schedule"]["train_timesteps"] for step in steps]
    rows = sum(plan.rows if plan.guides(time) else 1 for time in times)
    masked = {"mask_encoder": float(voxels * plan.rows)} if plan.masked else {}
    sampling = {"sampler": float(voxels * rows)} if rows else {}
    return {**masked, **sampling, "decoder": float(voxels)}
