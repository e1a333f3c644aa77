"""The loop over slabs: each subgraph of a chain runs on one slab after another along the x axis.

An activation is a list of slabs [R, C, p, Y, Z]. If it is the input of a convolution, each slab
also has one plane of each neighbour, so that an engine can read the slab without a copy. For a
norm, the mean and the variance of the whole volume are merged from those of all slabs (Chan, Golub,
LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979). The
result therefore does not depend on the thickness, up to rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..engines import Array, Target
from .activations import Convert, Integers, Slabs
from .arena import Arena


class SubgraphEngine(Protocol):
    """The engine of a subgraph, with the interface that a chain calls."""

    def __call__(self, feeds: Mapping[str, Any], target: Target | None = None) -> Mapping[str, Any]:
        """Return the outputs by name.

        The engine may write an output to its array of `target`, and then returns this array. The
        next call may overwrite the others.
        """

    def release(self) -> None:
        """Free the memory of earlier calls."""


@dataclass(frozen=True)
class Subgraph:
    """A graph of a chain, which `export/subgraph_onnx.py` describes.

    `input`, `output`, `skip` and `shortcut` are names of activations. `groups` are the groups of
    the norm of its input, or 0 without a norm. If `up`, it doubles the sides.
    """

    engine: SubgraphEngine
    input: str
    output: str
    skip: str | None
    shortcut: str | None
    groups: int
    up: bool


@dataclass(frozen=True)
class Chain:
    """Subgraphs from the activation `input` to `output`.

    `planes` maps an activation to its planes per plane of the latent, which is also the factor of
    its rows and columns. `channels` maps an activation to its channels. `itemsize` is the number of
    bytes of an element. `thickest` is the largest number of latent planes that the engines were
    built for, or None for any number.
    """

    input: str
    output: str
    planes: Mapping[str, int]
    channels: Mapping[str, int]
    itemsize: int
    subgraphs: tuple[Subgraph, ...]
    thickest: int | None = None


def load(path: Path, engine: Callable[[Path], SubgraphEngine]) -> Chain:
    """Return the chain of a `chain.json`; `engine(path without suffix)` loads each subgraph.

    Raises OSError, ValueError or KeyError for a file that is missing or damaged.
    """
    description = json.loads(path.read_bytes())
    return assemble(description, lambda file: engine(path.with_name(file)))


def assemble(description: Mapping[str, Any], engine: Callable[[str], SubgraphEngine]) -> Chain:
    """Return the chain with the description of a `chain.json`; `engine(file)` loads a subgraph.

    Raises KeyError or TypeError for a damaged description.
    """
    activations = description["activations"]
    subgraphs = [
        Subgraph(
            engine(subgraph["file"]),
            subgraph["input"],
            subgraph["output"],
            subgraph["skip"],
            subgraph["shortcut"],
            subgraph["groups"],
            subgraph["up"],
        )
        for subgraph in description["subgraphs"]
    ]
    return Chain(
        description["input"],
        description["output"],
        {name: activation["planes"] for name, activation in activations.items()},
        {name: activation["channels"] for name, activation in activations.items()},
        description["itemsize"],
        tuple(subgraphs),
        description.get("thickest"),
    )


def run(chain: Chain, x: Any, thickness: int, arena: Arena, convert: Convert | None = None) -> Any:
    """Return the chain's output [R, C, X, Y, Z] for its input `x` [R, C, X, Y, Z].

    `thickness`: planes of the latent in a slab; the last slab may be thinner. `arena` allocates
    activations. `convert(slab, levels)` writes a slab [X, Y, Z] of the output as integers: the
    output is then int16 on the host, and no array of the engines' type holds it as a whole. Raises
    what `convert` does.
    """
    step = thickness * chain.planes[chain.input]
    count = math.ceil(x.shape[2] / step)
    haloed = {subgraph.input for subgraph in chain.subgraphs}
    last_use = {
        name: index
        for index, subgraph in enumerate(chain.subgraphs)
        for name in (subgraph.input, subgraph.skip)
        if name is not None
    }
    with arena.ordered():
        slabs: dict[str, Slabs] = {chain.input: _cut(x, step, count, arena)}
        moments: dict[str, list[tuple[int, Array, Array]]] = {}
        for index, subgraph in enumerate(chain.subgraphs):
            norm = {}
            if subgraph.groups:
                arena.wait()
                norm = merge(moments.pop(subgraph.input), subgraph.groups)
            outputs: Slabs | Integers
            if convert is not None and subgraph.output == chain.output:
                outputs = Integers(_output_shape(chain, x.shape), convert, arena)
            else:
                outputs = Slabs(count, subgraph.output in haloed, arena)
            shortcuts = Slabs(count, False, arena)
            output_moments = moments.setdefault(subgraph.output, [])
            try:
                for number in range(count):
                    feeds = _feeds(subgraph, slabs, number, count, arena)
                    _compute(
                        subgraph,
                        number,
                        {**feeds, **norm},
                        outputs,
                        shortcuts,
                        output_moments,
                        arena,
                    )
                    del feeds  # referenced memory cannot be freed
                    for name in (subgraph.input, subgraph.skip):
                        if name is not None and last_use[name] == index:
                            slabs[name].drop(number)
            finally:
                subgraph.engine.release()
            if isinstance(outputs, Integers):
                outputs.convert_copied()
                return outputs.levels
            slabs[subgraph.output] = outputs
            if subgraph.shortcut is not None:
                slabs[subgraph.shortcut] = shortcuts
        return slabs[chain.output].whole()


def feed_shapes(
    chain: Chain, shape: tuple[int, ...], thickness: int
) -> Iterator[tuple[SubgraphEngine, dict[str, tuple[int, ...]]]]:
    """Yield the engines and the shapes of their inputs in `run`, by name, each set once.

    `shape` [R, C, X, Y, Z] is that of the chain's input.
    """
    rows, _, *sides = shape
    x, y, z = (side // chain.planes[chain.input] for side in sides)
    haloed = {subgraph.input for subgraph in chain.subgraphs}

    def slab(name: str, latent_planes: int) -> tuple[int, ...]:
        n = chain.planes[name]
        planes = latent_planes * n + 2 * (name in haloed)
        return rows, chain.channels[name], planes, y * n, z * n

    for subgraph in chain.subgraphs:
        for latent_planes in dict.fromkeys((min(thickness, x), x % thickness or thickness)):
            source = slab(subgraph.input, latent_planes)
            shapes = {"x": source, "inside": inside(source[2], 0, 1, subgraph.up).shape}
            if subgraph.skip is not None:
                shapes["skip"] = slab(subgraph.skip, latent_planes)
            if subgraph.groups:
                shapes["mean"] = shapes["variance"] = source[1:2]
            yield subgraph.engine, shapes


def _output_shape(chain: Chain, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape [R, C, X, Y, Z] of the output for an input of `shape` [R, C, X, Y, Z]."""
    rows, _, *sides = shape
    per_latent, planes = chain.planes[chain.input], chain.planes[chain.output]
    return (rows, chain.channels[chain.output], *(side // per_latent * planes for side in sides))


def _feeds(
    subgraph: Subgraph, slabs: Mapping[str, Slabs], number: int, count: int, arena: Arena
) -> dict[str, Any]:
    """Return the inputs of a subgraph for a slab, except those of the norm."""
    source = slabs[subgraph.input].slabs[number]
    feeds = {
        "x": arena.bring(source),
        "inside": inside(source.shape[2], number, count, subgraph.up),
    }
    if subgraph.skip is not None:
        feeds["skip"] = arena.bring(slabs[subgraph.skip].slabs[number])
    return feeds


def _compute(
    subgraph: Subgraph,
    number: int,
    feeds: Mapping[str, Any],
    outputs: Slabs | Integers,
    shortcuts: Slabs,
    moments: list[tuple[int, Array, Array]],
    arena: Arena,
) -> None:
    """Run a subgraph on a slab, and copy its outputs into `outputs`, `shortcuts` and `moments`."""

    def target(name: str, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        slabs = {"y": outputs, "shortcut": shortcuts}.get(name)
        if not isinstance(slabs, Slabs):
            return None
        return slabs.target(number, shape, dtype, innermost)

    results = subgraph.engine(feeds, target)
    outputs.put(number, results["y"])
    if "shortcut" in results:
        shortcuts.put(number, results["shortcut"])
    if "y_mean" in results:
        voxels = math.prod(results["y"].shape[2:])
        mean, variance = (arena.read(results[f"y_{m}"]) for m in ("mean", "variance"))
        moments.append((voxels, mean, variance))


def inside(planes: int, number: int, count: int, up: bool) -> npt.NDArray[np.float32]:
    """Return [p, 1, 1] for the planes of a slab with its halo: 0 beyond the volume, otherwise 1."""
    factors = np.ones((2 * planes - 2 if up else planes, 1, 1), np.float32)
    factors[0] = number > 0
    factors[-1] = number < count - 1
    return factors


def merge(parts: list[tuple[int, Array, Array]], groups: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return `mean` and `variance` [C] of each channel's group from the moments of all slabs.

    `parts` has the voxels, mean [C] and variance [C] of each slab. NaN and infinity propagate.
    """
    voxels = np.array([part[0] for part in parts], np.float64)[:, None, None]
    means = np.stack([part[1] for part in parts]).astype(np.float64)
    variances = np.stack([part[2] for part in parts]).astype(np.float64)
    channels = means.shape[1]
    means = means.reshape(len(parts), groups, -1)
    variances = variances.reshape(means.shape)
    total = voxels.sum() * means.shape[2]
    with np.errstate(invalid="ignore"):
        mean = (voxels * means).sum((0, 2), keepdims=True) / total
        variance = (voxels * (variances + (means - mean) ** 2)).sum((0, 2)) / total
    group_size = channels // groups
    return {
        "mean": np.repeat(mean[0, :, 0], group_size).astype(np.float32),
        "variance": np.repeat(variance, group_size).astype(np.float32),
    }


def _cut(x: Any, step: int, count: int, arena: Arena) -> Slabs:
    slabs = Slabs(count, True, arena)
    for number in range(count):
        slabs.put(number, x[:, :, number * step : (number + 1) * step])
    return slabs
