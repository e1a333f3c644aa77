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

from ..engines import Array, Target, channels_last
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


Convert = Callable[[Array, npt.NDArray[np.int16]], None]


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
        slabs: dict[str, _Slabs] = {chain.input: _cut(x, step, count, arena)}
        moments: dict[str, list[tuple[int, Array, Array]]] = {}
        for index, subgraph in enumerate(chain.subgraphs):
            norm = {}
            if subgraph.groups:
                arena.wait()
                norm = merge(moments.pop(subgraph.input), subgraph.groups)
            outputs: _Slabs | _Integers
            if convert is not None and subgraph.output == chain.output:
                outputs = _Integers(_output_shape(chain, x.shape), convert, arena)
            else:
                outputs = _Slabs(count, subgraph.output in haloed, arena)
            shortcuts = _Slabs(count, False, arena)
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
            if isinstance(outputs, _Integers):
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
    subgraph: Subgraph, slabs: Mapping[str, _Slabs], number: int, count: int, arena: Arena
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
    outputs: _Slabs | _Integers,
    shortcuts: _Slabs,
    moments: list[tuple[int, Array, Array]],
    arena: Arena,
) -> None:
    """Run a subgraph on a slab, and copy its outputs into `outputs`, `shortcuts` and `moments`."""

    def target(name: str, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        slabs = {"y": outputs, "shortcut": shortcuts}.get(name)
        if not isinstance(slabs, _Slabs):
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


class _Slabs:
    """An activation in slabs; `haloed` ones also have one plane of each neighbour.

    Beyond the volume, this plane repeats the last one, which interpolation needs. Convolutions
    multiply it by 0; see `inside`.
    """

    def __init__(self, count: int, haloed: bool, arena: Arena) -> None:
        self.slabs: list[Any] = [None] * count
        self.haloed, self.arena = haloed, arena
        self.written: Any = None  # the own planes of a slab, if an engine writes to them

    def target(self, number: int, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        """Allocate a slab with own planes of `shape` [R, C, p, Y, Z], and return these planes.

        Returns None if they are not near the engine, or not contiguous in memory.
        """
        own = self._allocate(number, shape, dtype, innermost)
        memory = channels_last.in_memory(own, channels_last.is_innermost(own))
        if not self.arena.is_near(self.slabs[number]) or not memory.flags.c_contiguous:
            return None
        self.written = own
        return own

    def _allocate(self, number: int, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        """Allocate a slab, and return its own planes."""
        rows, channels, planes, *sides = shape
        full = (rows, channels, planes + 2, *sides) if self.haloed else shape
        self.slabs[number] = slab = self.arena.empty(full, dtype, innermost)
        return slab[:, :, 1:-1] if self.haloed else slab

    def put(self, number: int, core: Any) -> None:
        """Copy a slab's own planes [R, C, p, Y, Z], unless they are written already.

        Call this in the order of the slabs.
        """
        if self.slabs[number] is None:
            self._allocate(number, core.shape, core.dtype, channels_last.is_innermost(core))
        slab = self.slabs[number]
        if core is not self.written:
            self.arena.copy(slab[:, :, 1:-1] if self.haloed else slab, core)
        self.written = None
        if not self.haloed:
            return
        before = self.slabs[number - 1] if number else None
        self.arena.copy(slab[:, :, 0], core[:, :, 0] if before is None else before[:, :, -2])
        self.arena.copy(slab[:, :, -1], core[:, :, -1])
        if before is not None:
            self.arena.copy(before[:, :, -1], core[:, :, 0])

    def drop(self, number: int) -> None:
        """Free a slab."""
        slab, self.slabs[number] = self.slabs[number], None
        self.arena.free(slab)

    def whole(self) -> Any:
        """Return all slabs in one array, and free each."""
        planes = sum(slab.shape[2] for slab in self.slabs)
        rows, channels, _, *sides = self.slabs[0].shape
        first = self.slabs[0]
        shape, innermost = (rows, channels, planes, *sides), channels_last.is_innermost(first)
        whole = self.arena.new(shape, first.dtype, innermost)
        start = 0
        for number, slab in enumerate(self.slabs):
            self.arena.copy(whole[:, :, start : start + slab.shape[2]], slab)
            start += slab.shape[2]
            self.drop(number)
        return whole


class _Integers:
    """The output of a chain as integers on the host.

    A slab is converted while the engine computes the next one.
    """

    def __init__(self, shape: tuple[int, ...], convert: Convert, arena: Arena) -> None:
        self.levels, self.start = np.empty(shape, np.int16), 0
        self.convert, self.arena = convert, arena
        self.copied: tuple[Array, Callable[[], None]] | None = None

    def put(self, number: int, core: Any) -> None:
        """Copy a slab's own planes [R, C, p, Y, Z]; called in the order of the slabs."""
        values = self.arena.read(core)
        wait = self.arena.mark()
        self.convert_copied()
        self.copied = values, wait

    def convert_copied(self) -> None:
        """Convert the slab that was copied last, if there is one."""
        if self.copied is None:
            return
        (values, wait), self.copied = self.copied, None
        wait()
        end = self.start + values.shape[2]
        for row, channel in np.ndindex(values.shape[:2]):
            self.convert(values[row, channel], self.levels[row, channel, self.start : end])
        self.start = end


def _cut(x: Any, step: int, count: int, arena: Arena) -> _Slabs:
    slabs = _Slabs(count, True, arena)
    for number in range(count):
        slabs.put(number, x[:, :, number * step : (number + 1) * step])
    return slabs
