"""The optimization profiles of engines: smallest, usual and largest shape of every input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.slabs import budget, chain
from export.graphs import Graph, SymbolicShape
from export.onnx_export import axes, resolve
from export.variant import Variant

# Name of an input -> its smallest, usual and largest shape.
Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
# Name of an axis -> its size.
Sizes = Mapping[str, int]

# Latent planes in a slab that engines are tuned for.
_USUAL_PLANES = 4
_NO_ENGINE: Any = None  # in a chain that is measured and not run


def sizes(variant: Variant, graph: Graph) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return the smallest, usual and largest sizes of the graph's axes.

    They follow from the variant's smallest size, its default and its largest size in voxels
    [X, Y, Z], padded as the server pads.
    """
    low, usual, high = (axes(graph, *latent) for latent in _latents(variant))
    return low, usual, high


def subgraph_sizes(
    variant: Variant, description: Mapping[str, Any], inputs: Mapping[str, SymbolicShape]
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return the smallest, usual and largest sizes of the axes of a chain's subgraphs.

    `description` is the content of `chain.json`, `inputs` are the graph's: where they have the axis
    `rows`, guidance doubles it. Raises ValueError where a slab of one plane is too large at the
    largest size.
    """
    rows = 2 if any("rows" in shape for shape in inputs.values()) else 1
    latents = _latents(variant)
    (_, y, z), _ = latents[-1]
    thickest = budget.thickest(chain.assemble(description, lambda _: _NO_ENGINE), rows, y, z)
    low, usual, high = (
        {"rows": min(guided, rows), "t": thickness, "y": y, "z": z}
        for ((_, y, z), guided), thickness in zip(
            latents, (1, min(_USUAL_PLANES, thickest), thickest), strict=True
        )
    )
    return low, usual, high


def _latents(variant: Variant) -> list[tuple[tuple[int, int, int], int]]:
    """Return latent voxels [x, y, z] and rows of the smallest, the default, the largest size."""
    size, default = variant.serving["size"], variant.serving["defaults"]
    factor = variant.serving["latent"]["factor"]
    step = variant.multiple * factor

    def padded(voxels: Sequence[int]) -> tuple[int, int, int]:
        x, y, z = (-(-value // step) * step // factor for value in voxels)
        return x, y, z

    usual = [min(pair) for pair in zip(default["size"], size["max"], strict=True)]
    usual_rows = 2 if default["guidance"] else 1
    return [(padded(size["min"]), 1), (padded(usual), usual_rows), (padded(size["max"]), 2)]


def profile(inputs: Mapping[str, SymbolicShape], sizes: tuple[Sizes, Sizes, Sizes]) -> Profile:
    """Return the shapes, at smallest, usual and largest `sizes`, of every input that has an axis.

    `inputs` are a graph's: name -> shape with axes such as `rows` or `8*x`.
    """
    low, usual, high = (dict(size) for size in sizes)
    return {
        name: (resolve(shape, low), resolve(shape, usual), resolve(shape, high))
        for name, shape in inputs.items()
        if any(isinstance(size, str) for size in shape)
    }
