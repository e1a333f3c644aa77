"""Estimate the time of a request from the volumes that this process has made."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from .inputs import Variant
from .request import Plan
from .sampler import rows_of_calls

_HISTORY = 5  # volumes; the median of a few volumes follows changes of the machine's load
_SURE = 2  # least volumes for a minimum; the first one of a shape may include a compilation
_FARTHEST = 4  # most work with a minimum, in multiples of the largest work so far


@dataclass
class Pace:
    """The seconds of each stage per unit of work, in the last volumes.

    A unit is a voxel, and for the sampler a voxel of one row of conditioning in one call of the
    network. Networks with attention need more time per unit for a larger volume, so the estimate is
    too low for a volume that is much larger than earlier ones.

    `history` maps a stage to (seconds per unit, units) of each of the last attempts.
    """

    history: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)

    def note(self, variant: Variant, plan: Plan, seconds: dict[str, float]) -> None:
        """Record the seconds of an attempt's stages."""
        for stage, units in _units(variant, plan).items():
            if stage in seconds:
                paces = self.history.setdefault(stage, deque(maxlen=_HISTORY))
                paces.append((seconds[stage] / units, units))

    def expect(self, variant: Variant, plan: Plan) -> float | None:
        """Return the likely seconds of one attempt; None before the first with the same stages."""
        work = _units(variant, plan)
        # Copied, here as below: other threads may record meanwhile.
        history = {stage: sorted(self.history.get(stage, ())) for stage in work}
        if not all(history.values()):
            return None
        return sum(paces[len(paces) // 2][0] * work[stage] for stage, paces in history.items())

    def minimum(self, variant: Variant, plan: Plan) -> float | None:
        """Return the least seconds of one attempt; None if they are unknown.

        Requests are refused because of it, so it must not be too high.
        """
        seconds = 0.0
        for stage, units in _units(variant, plan).items():
            paces = tuple(self.history.get(stage, ()))
            if len(paces) < _SURE or units > _FARTHEST * max(work for _, work in paces):
                return None
            seconds += min(paces)[0] * units
        return seconds


def _units(variant: Variant, plan: Plan) -> dict[str, float]:
    """Return the units of work of one attempt, by stage."""
    voxels = math.prod(plan.padded_size)
    rows = sum(rows_of_calls(variant, plan))
    masked = {"mask_encoder": float(voxels * plan.rows)} if plan.masked else {}
    sampling = {"sampler": float(voxels * rows)} if rows else {}
    return {**masked, **sampling, "decoder": float(voxels)}
