"""Choose the thickness of slabs within a budget of memory."""

from __future__ import annotations

from .chain import Chain, Subgraph

_ENGINE = 5  # memory of a running engine, in multiples of its inputs and outputs
THICKEST = 16  # latent planes
# The most elements of a tensor of a convolution on a GPU, for TensorRT
# (github.com/NVIDIA/TensorRT/issues/4123) and for cuDNN, which ONNX Runtime uses with CUDA
# (cudnnSetTensorNdDescriptor in its manual: 2 Giga-elements).
MOST_ELEMENTS = 2**31 - 1


def attempts(thickness: int, near: int) -> list[tuple[int, int]]:
    """Return the attempts (thickness, bytes near) of a run; each is for when memory runs out.

    First all activations go far, which does not change the result; then slabs get thinner.
    """
    plans = [(thickness, near), (thickness, 0)] if near else [(thickness, 0)]
    while thickness > 1:
        thickness //= 2
        plans.append((thickness, 0))
    return plans


def elements(chain: Chain, rows: int, y: int, z: int, thickness: int) -> int:
    """Return an upper bound of the elements of the largest tensor of any subgraph.

    `y` and `z` are sides of the latent, `thickness` is in its planes.
    """

    def slab(name: str, scale: int = 1) -> int:
        n = scale * chain.planes[name]
        planes = n * thickness + 2 * scale  # and one of each neighbour
        return rows * chain.channels[name] * planes * n * n * y * z

    # A subgraph that doubles its input also doubles the planes of the neighbours.
    doubled = [slab(subgraph.input, 2) for subgraph in chain.subgraphs if subgraph.up]
    return max(*doubled, *map(slab, chain.channels))


def thickest(chain: Chain, rows: int, y: int, z: int) -> int:
    """Return the largest number of latent planes of a slab.

    `y` and `z` are sides of the latent. Raises ValueError if one plane is too large.
    """
    thickness = chain.thickest or THICKEST
    while thickness and elements(chain, rows, y, z, thickness) > MOST_ELEMENTS:
        thickness -= 1
    if not thickness:
        raise ValueError(
            f"{chain.input}: {rows} x {y} x {z} latent voxels in a plane make a tensor of"
            f" {elements(chain, rows, y, z, 1)} elements, and at most {MOST_ELEMENTS} are possible"
        )
    return thickness


def engine_bytes(chain: Chain, shape: tuple[int, ...]) -> int:
    """Return the bytes of a running engine per latent plane of a slab.

    `shape` [R, C, X, Y, Z] is that of the chain's input.
    """
    rows, _, *sides = shape
    _, y, z = (side // chain.planes[chain.input] for side in sides)

    def plane(name: str) -> int:
        """Return the bytes of an activation per plane of the latent."""
        return rows * chain.channels[name] * chain.planes[name] ** 3 * y * z * chain.itemsize

    def in_and_out(subgraph: Subgraph) -> int:
        """Return the bytes of a subgraph's inputs and output per plane of the latent."""
        skip = plane(subgraph.skip) if subgraph.skip else 0
        return plane(subgraph.input) * (8 if subgraph.up else 1) + plane(subgraph.output) + skip

    return _ENGINE * max(in_and_out(subgraph) for subgraph in chain.subgraphs)


def divide(chain: Chain, shape: tuple[int, ...], budget: float, enough: float) -> int:
    """Return the latent planes of a slab for a budget of memory.

    `shape` [R, C, X, Y, Z] is that of the chain's input. `budget` are the bytes for activations and
    the running engine, which may take half of them. A slab of more than `enough` bytes is not
    faster. Slabs have about the same thickness, at most `thickest`. Raises the errors of
    `thickest`.
    """
    rows, _, *sides = shape
    x, y, z = (side // chain.planes[chain.input] for side in sides)
    useful = max(1, int(min(_ENGINE * enough, budget / 2) / engine_bytes(chain, shape)))
    slabs = -(-x // min(thickest(chain, rows, y, z), useful))
    return -(-x // slabs)
