"""Winograd's convolutions of 3 x 3 x 3 with an eighth of the products.

The source is Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (1509.09308). For m
outputs of a convolution with three taps, m + 2 products of sums of the inputs and of the taps are
enough, instead of 3 m. Along all three axes, 64 outputs (m = 4) need 216 products instead of 1728,
and 8 outputs (m = 2) need 64 instead of 216. The products of all channels are matrix products. The
rounding error increases to 1e-5 (m = 4) or 1e-6 (m = 2) of the output's spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import Array, channels_last

# The transforms of the paper by m: G of the taps, B^T of the inputs, A^T of the products.
_TAPS = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}
_INPUTS = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float32,
    ),
}
_PRODUCTS = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32),
    4: np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        np.float32,
    ),
}
_MIN_CHANNELS = 64  # with fewer, the sums take longer than the products that they save
_MIN_ROWS = 32  # rows of a matrix product; with fewer, reading the weights takes longer
# Voxels of the largest convolution; with as many or fewer, the sums of the weights take longer to
# compile than 30 steps with them save.
_FEW_VOXELS = 16**3
_TILE = 4096  # voxels whose sums fit into a core's cache


def helps(model: Any) -> bool:
    """Return whether a model has the channels to be faster, also at its full resolution."""
    weights = [
        node.get_input_shape(1)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution" and node.get_input_partial_shape(1).is_static
    ]
    cubes = [w[:2] for w in weights if list(w[2:]) == [3, 3, 3]]
    wide = any(min(channels) >= _MIN_CHANNELS for channels in cubes)
    return wide and all(max(channels) >= _MIN_CHANNELS for channels in cubes)


def is_large(model: Any) -> bool:
    """Return whether a model of fixed shapes has the voxels to be faster."""
    outputs = [
        node.get_output_shape(0)[2:]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
    ]
    return max(map(math.prod, outputs), default=0) > _FEW_VOXELS


def factor(sides: Sequence[int], channels: Sequence[int]) -> int:
    """Return the largest m that is faster for an output of `sides` [X, Y, Z]; 0 if none is."""
    if min(channels) < _MIN_CHANNELS:
        return 0
    rows = {m: math.prod(-(-side // m) for side in sides) for m in (4, 2)}
    return next((m for m, count in rows.items() if count >= _MIN_ROWS), 0)


def convolve(x: Any, weight: Array, node: Any) -> Any:
    """Return the convolution `node` of `x` [R, X, Y, Z, C], also in channels last."""
    attributes = node.get_attributes()
    before, after = attributes["pads_begin"], attributes["pads_end"]
    strides, dilations = attributes["strides"], attributes["dilations"]
    plain = weight.shape[2:] == (3, 3, 3) and set(strides) == set(dilations) == {1}
    sides = [side + a + b - 2 for side, a, b in zip(x.get_shape()[1:4], before, after, strict=True)]
    m = factor(sides, weight.shape[:2]) if plain else 0
    if m:
        element_type = x.get_element_type()  # a CPU computes float16 graphs in float32
        y = _convolve(_cast(x, np.float32), weight.astype(np.float32), before, after, m)
        return _cast(y, element_type.to_dtype())
    return channels_last.convolve(x, weight, node)


def _cast(x: Any, dtype: Any) -> Any:
    from openvino import opset13 as op

    return x if x.get_element_type().to_dtype() == dtype else op.convert(x, dtype).output(0)


def _convolve(x: Any, weight: Array, before: Sequence[int], after: Sequence[int], m: int) -> Any:
    """Return the convolution with 3 x 3 x 3 taps, with `m` or 2 outputs at a time along an axis."""
    from openvino import opset13 as op

    sides = [a + b + c - 2 for a, b, c in zip(x.get_shape()[1:4], before, after, strict=True)]
    steps = [m if side % m == 0 or side > 2 * m else 2 for side in sides]
    full = [-(-side // step) * step for side, step in zip(sides, steps, strict=True)]
    after = [b + c - a for a, b, c in zip(sides, after, full, strict=True)]
    if any(before) or any(after):
        zero = op.constant(np.float32(0))
        pads = (op.constant(np.array([0, *ends, 0])) for ends in (before, after))
        x = op.pad(x, *pads, "constant", zero).output(0)
    taps = _transform(weight, steps)
    lines = _lines(full, steps[1])
    y = _whole(x, taps, steps) if lines == full[1] else _looped(x, taps, steps, lines, full)
    if full != sides:
        bounds = (op.constant(np.array(a)) for a in ([0] * 3, sides, [1] * 3, [1, 2, 3]))
        y = op.slice(y, *bounds).output(0)
    return y


def _lines(sides: Sequence[int], step: int) -> int:
    """Return the number of lines along y to compute at a time, a divisor of the side."""
    x, y, z = sides
    fit = [n for n in range(step, y + 1, step) if y % n == 0 and x * n * z <= _TILE]
    return max(fit, default=step)


def _looped(x: Any, taps: Array, steps: Sequence[int], lines: int, sides: Sequence[int]) -> Any:
    """Return the convolution, `lines` lines along y at a time, so that the sums fit into cache."""
    import openvino
    from openvino import opset13 as op

    number = op.parameter([], np.int64)
    whole = op.parameter(x.get_shape(), np.float32)
    first = op.multiply(number, op.constant(np.int64(lines)))
    planes = op.add(first, op.constant(np.arange(lines + 2)))
    part = _whole(op.gather(whole, planes, op.constant(np.int64(2))).output(0), taps, steps)
    output = op.unsqueeze(part, op.constant(np.array([2])))
    body = openvino.Model([output.output(0), op.constant(True).output(0)], [number, whole], "tile")
    loop = op.loop(op.constant(np.int64(sides[1] // lines)), op.constant(True))
    loop.set_function(body)
    loop.set_special_body_ports([0, 1])
    loop.set_invariant_input(whole, x)
    y = loop.get_concatenated_slices(body.get_results()[0].output(0), 0, 1, 1, -1, 2)
    shape = [x.get_shape()[0], *sides, taps.shape[1]]
    return channels_last.reshape(y, shape)


def _transform(weight: Array, steps: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the sums of the taps, [products, O, C]; those of the last axis are outermost."""
    x, y, z = (_TAPS[m] for m in steps)
    kernel = np.einsum("cz,by,ax->cbaxyz", z, y, x).reshape(-1, 27).astype(np.float32)
    outputs, channels = weight.shape[:2]
    sums: npt.NDArray[np.float32] = kernel @ weight.reshape(-1, 27).T
    return sums.reshape(-1, outputs, channels)


def _whole(x: Any, taps: Array, steps: Sequence[int]) -> Any:
    """Return the convolution, with all lines at once."""
    from openvino import opset13 as op

    def shaped(x: Any, *shape: int) -> Any:
        return channels_last.reshape(x, shape)

    rows, *sides, channels = x.get_shape()
    outputs = taps.shape[1]
    counts = [(side - 2) // m for side, m in zip(sides, steps, strict=True)]
    outer = rows
    for axis, (m, count) in enumerate(zip(steps, counts, strict=True)):
        planes = np.arange(m + 2)[:, None] + m * np.arange(count)  # of each sum
        x = op.gather(shaped(x, outer, sides[axis], -1), op.constant(planes), op.constant(1))
        x = op.matmul(op.constant(_INPUTS[m]), shaped(x, outer, m + 2, -1), False, False)
        outer *= (m + 2) * count
    pairs = [n for m, count in zip(steps, counts, strict=True) for n in (m + 2, count)]
    x = op.transpose(shaped(x, rows, *pairs, channels), op.constant([5, 3, 1, 0, 2, 4, 6, 7]))
    y = op.matmul(
        shaped(x, len(taps), -1, channels), op.constant(taps, shared_memory=True), False, True
    )
    outer = 1
    for m in reversed(steps):
        y = op.matmul(op.constant(_PRODUCTS[m]), shaped(y, outer, m + 2, -1), False, False)
        outer *= m
    y = shaped(y, *reversed(steps), rows, *counts, outputs)
    y = op.transpose(y, op.constant([3, 4, 2, 5, 1, 6, 0, 7]))
    full = [m * count for m, count in zip(steps, counts, strict=True)]
    return shaped(y, rows, *full, outputs)
