"""How thick a slab may be, and how much memory is ours."""

from __future__ import annotations

import os
from pathlib import Path

from ..engines import cgroup
from .chain import Chain, Stage

# An engine at work holds a few times what goes in and comes out.
_ENGINE = 5
THICKEST = 16
# What a tensor of a convolution on a GPU may have at most. TensorRT's does not take more
# (github.com/NVIDIA/TensorRT/issues/4123), nor does cuDNN's, which is ONNX Runtime's on CUDA
# (its manual, cudnnSetTensorNdDescriptor: 2 Giga-elements).
MOST_ELEMENTS = 2**31 - 1


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


def elements(chain: Chain, rows: int, y: int, z: int, thickness: int) -> int:
    """Return how many elements the largest tensor of any stage has, or a few more.

    `y` and `z` are sides of the latent, `thickness` is in its planes.
    """

    def slab(name: str, scale: int = 1) -> int:
        n = scale * chain.planes[name]
        planes = n * thickness + 2 * scale  # one of either neighbour
        return rows * chain.channels[name] * planes * n * n * y * z

    # A stage that doubles its input has the planes of its neighbours doubled, too.
    doubled = [slab(stage.input, 2) for stage in chain.stages if stage.up]
    return max(*doubled, *map(slab, chain.channels))


def thickest(chain: Chain, rows: int, y: int, z: int) -> int:
    """Return the most latent planes that a slab may have.

    `y` and `z` are sides of the latent. Raises ValueError where even one is too many.
    """
    most = chain.thickest or THICKEST
    while most and elements(chain, rows, y, z, most) > MOST_ELEMENTS:
        most -= 1
    if not most:
        raise ValueError(
            f"{chain.input}: {rows} x {y} x {z} latent voxels in a plane make a tensor of"
            f" {elements(chain, rows, y, z, 1)} elements, and at most {MOST_ELEMENTS} are possible"
        )
    return most


def divide(chain: Chain, shape: tuple[int, ...], budget: int, enough: float) -> tuple[int, int]:
    """Return how many latent planes a slab has, and how many bytes activations may take.

    `shape` [R, C, X, Y, Z] of the chain's input; `budget`: bytes for all, of which an engine at
    work has its share; `enough`: bytes beyond which a slab is no faster. Slabs are all about as
    thick as each other, and as thin as `thickest` says, whose errors it raises.
    """
    rows, _, *sides = shape
    x, y, z = (side // chain.planes[chain.input] for side in sides)

    def plane(name: str) -> int:
        """Return the bytes of an activation in one plane of the latent."""
        return rows * chain.channels[name] * chain.planes[name] ** 3 * y * z * chain.itemsize

    def through(stage: Stage) -> int:
        skip = plane(stage.skip) if stage.skip else 0
        return plane(stage.input) * (8 if stage.up else 1) + plane(stage.output) + skip

    widest = max(through(stage) for stage in chain.stages)
    useful = max(1, int(min(enough, budget / 2 / _ENGINE) / widest))
    slabs = -(-x // min(thickest(chain, rows, y, z), useful))
    thickness = -(-x // slabs)
    return thickness, max(0, int(budget - _ENGINE * thickness * widest))
