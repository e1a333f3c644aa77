"""How thick a slab may be, and how much memory is ours."""

from __future__ import annotations

import os
from pathlib import Path

from ..engines import cgroup
from .chain import Chain, Stage

# An engine at work holds a few times what goes in and comes out.
_ENGINE = 5
THICKEST = 16


def available() -> int:
    """Return the bytes of memory still to be had, by the system and by control groups."""
    free = _meminfo("MemAvailable")
    left = cgroup.memory()
    return max(free if left is None else min(free, left), 0)


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def thinner(thickness: int, near: int) -> list[tuple[int, int]]:
    """Return what to try, one after the other, as memory runs out: (thickness, bytes near).

    First activations go to where memory is not short, which changes no bit; then slabs get thinner.
    """
    attempts = [(thickness, near), (thickness, 0)] if near else [(thickness, 0)]
    while thickness > 1:
        thickness //= 2
        attempts.append((thickness, 0))
    return attempts


def divide(chain: Chain, shape: tuple[int, ...], budget: int, enough: float) -> tuple[int, int]:
    """Return how many latent planes a slab has, and how many bytes activations may take.

    `shape` [R, C, X, Y, Z] of the chain's input; `budget`: bytes for all, of which an engine at
    work has its share; `enough`: bytes beyond which a slab is no faster. Slabs are all about as
    thick as each other.
    """
    rows, _, *sides = shape
    x, y, z = (side / chain.planes[chain.input] for side in sides)

    def plane(name: str) -> float:
        """Return the bytes of an activation in one plane of the latent."""
        return rows * chain.channels[name] * chain.planes[name] ** 3 * y * z * chain.itemsize

    def through(stage: Stage) -> float:
        skip = plane(stage.skip) if stage.skip else 0
        return plane(stage.input) * (8 if stage.up else 1) + plane(stage.output) + skip

    widest = max(through(stage) for stage in chain.stages)
    most = max(1, min(THICKEST, int(min(enough, budget / 2 / _ENGINE) / widest)))
    slabs = -(-x // most)
    thickness = int(-(-x // slabs))
    return thickness, max(0, int(budget - _ENGINE * thickness * widest))
