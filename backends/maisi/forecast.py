"""What a request would take, learnt from the volumes that this process has made."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from .inputs import Variant
from .request import Plan
from .sampler import calls

_KEPT = 5  # volumes remembered; the median of so few follows a machine that gets busier
_SURE = 2  # volumes without which nothing is refused: the first of a shape may have compiled
_FARTHEST = 4  # how many times the work of what was made one can tell of


@dataclass
class Pace:
    """Seconds for each unit of work, by stage.

    A unit is a voxel and, for the sampler, a call of the network and a row of conditioning. Work
    grows a little faster than that where a network has attention, so expect more for a volume much
    larger than those made before.
    """

    seen: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)

    def note(self, variant: Variant, plan: Plan, seconds: dict[str, float]) -> None:
        """Remember how long the stages of an attempt took."""
        for stage, units in _units(variant, plan).items():
            if stage in seconds:
                kept = self.seen.setdefault(stage, deque(maxlen=_KEPT))
                kept.append((seconds[stage] / units, units))

    def expect(self, variant: Variant, plan: Plan) -> float | None:
        """Return the seconds of one attempt; None where nothing like it was made yet."""
        work = _units(variant, plan)
        if not work.keys() <= self.seen.keys():
            return None
        # Other threads may note meanwhile, here as below.
        seen = {stage: tuple(kept) for stage, kept in tuple(self.seen.items())}
        middle = {stage: sorted(kept)[len(kept) // 2][0] for stage, kept in seen.items()}
        return sum(middle[stage] * units for stage, units in work.items())

    def least(self, variant: Variant, plan: Plan) -> float | None:
        """Return the seconds that an attempt takes even on a good day; None where that is unsure.

        Requests are refused by it, so it has to be no more than it is.
        """
        seconds = 0.0
        for stage, units in _units(variant, plan).items():
            kept = tuple(self.seen.get(stage, ()))
            if len(kept) < _SURE or units > _FARTHEST * max(work for _, work in kept):
                return None
            seconds += min(kept)[0] * units
        return seconds


def _units(variant: Variant, plan: Plan) -> dict[str, float]:
    voxels = math.prod(plan.padded_size)
    steps = calls(variant, plan)
    times = [step.timestep / variant["schedule"]["train_timesteps"] for step in steps]
    rows = sum(plan.rows if plan.guides(time) else 1 for time in times)
    masked = {"mask_encoder": float(voxels * plan.rows)} if plan.masked else {}
    sampling = {"sampler": float(voxels * rows)} if rows else {}
    return {**masked, **sampling, "decoder": float(voxels)}
