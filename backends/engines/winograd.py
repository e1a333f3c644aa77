"""Convolutions of 3 x 3 x 3 with an eighth of the products, after Winograd.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (1509.09308): m outputs of a
convolution with three taps need m + 2 products, not 3 m, of sums of the inputs and of the taps.
Along all three axes that is 216 products for 64 outputs with m = 4, where there were 1728; with
m = 2, 64 for 8 instead of 216. The products of all channels are matrix products. Rounding grows: to
1e-5 of the output's spread (m = 4), 1e-6 (m = 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .channels_last import FIRST, LAST, turn

Array = npt.NDArray[Any]

# m -> the taps' transform G [m + 2, 3], in the paper's notation.
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
_NARROW = 64  # channels, below which the sums cost more than the products they save
_FEW = 32  # rows of a matrix product, below which reading its weights costs more
_TILE = 4096  # voxels whose sums stay in a core's cache


def factor(sides: Sequence[int], channels: Sequence[int]) -> int:
    """Return the largest m that pays for an output of `sides` [X, Y, Z], 0 where none does."""
    if min(channels) < _NARROW:
        return 0
    rows = {m: math.prod(-(-side // m) for side in sides) for m in (4, 2)}
    return next((m for m, count in rows.items() if count >= _FEW), 0)


def convolve(x: Any, weight: Array, node: Any) -> Any:
    """Return what the convolution `node` makes of `x` [R, X, Y, Z, C], in channels last, too."""
    from openvino import opset13 as op

    how = node.get_attributes()
    before, after = how["pads_begin"], how["pads_end"]
    plain = weight.shape[2:] == (3, 3, 3) and set(how["strides"]) == set(how["dilations"]) == {1}
    sides = [side + a + b - 2 for side, a, b in zip(x.get_shape()[1:4], before, after, strict=True)]
    most = factor(sides, weight.shape[:2]) if plain else 0
    if most:
        return _convolve(x, weight.astype(np.float32), before, after, most)
    turned = op.convolution(
        turn(x, FIRST), op.constant(weight), how["strides"], before, after, how["dilations"]
    )
    return turn(turned.output(0), LAST)


def _convolve(x: Any, weight: Array, before: Sequence[int], after: Sequence[int], most: int) -> Any:
    """Convolve with 3 x 3 x 3 taps, at most `most` outputs an axis at a time."""
    from openvino import opset13 as op

    rows, *sides, _ = x.get_shape()
    sides = [a + b + c - 2 for a, b, c in zip(sides, before, after, strict=True)]
    steps = [most if side % most == 0 or side > 2 * most else 2 for side in sides]
    full = [-(-side // m) * m for side, m in zip(sides, steps, strict=True)]
    after = [b + c - a for a, b, c in zip(sides, after, full, strict=True)]
    if any(before) or any(after):
        zero = op.constant(np.float32(0))
        ends = (op.constant(np.array([0, *ends, 0])) for ends in (before, after))
        x = op.pad(x, *ends, "constant", zero).output(0)
    taps = _transform(weight, steps)
    lines = _lines(full, steps[1])
    if lines == full[1]:
        y = _whole(x, taps, steps)
    else:
        y = _looped(x, taps, steps, lines, full)
    if full != sides:
        ends = [op.constant(np.array(a)) for a in ([0] * 3, sides, [1] * 3, [1, 2, 3])]
        y = op.slice(y, *ends).output(0)
    return y


def _lines(sides: Sequence[int], step: int) -> int:
    """Return how many lines along y are worked on at a time; they divide the side."""
    x, y, z = sides
    fit = [n for n in range(step, y + 1, step) if y % n == 0 and x * n * z <= _TILE]
    return max(fit, default=step)


def _looped(x: Any, taps: Array, steps: Sequence[int], lines: int, sides: Sequence[int]) -> Any:
    """Work on some lines along y after the others, so that sums stay in the cache."""
    import openvino
    from openvino import opset13 as op

    number = op.parameter([], np.int64)
    whole = op.parameter(x.get_shape(), np.float32)
    first = op.multiply(number, op.constant(np.int64(lines)))
    seen = op.add(first, op.constant(np.arange(lines + 2)))
    part = _whole(op.gather(whole, seen, op.constant(np.int64(2))).output(0), taps, steps)
    made = op.unsqueeze(part, op.constant(np.array([2])))
    body = openvino.Model([made.output(0), op.constant(True).output(0)], [number, whole], "tile")
    loop = op.loop(op.constant(np.int64(sides[1] // lines)), op.constant(True))
    loop.set_function(body)
    loop.set_special_body_ports([0, 1])
    loop.set_invariant_input(whole, x)
    y = loop.get_concatenated_slices(body.get_results()[0].output(0), 0, 1, 1, -1, 2)
    shape = [x.get_shape()[0], *sides, taps.shape[-1]]
    return op.reshape(y, op.constant(np.array(shape)), False).output(0)


def _transform(weight: Array, steps: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the taps' sums, [products, C, O]; the last axis' products are outermost."""
    x, y, z = (_TAPS[m] for m in steps)
    kernel = np.einsum("cz,by,ax->cbaxyz", z, y, x).reshape(-1, 27).astype(np.float32)
    outputs, channels = weight.shape[:2]
    taps = weight.transpose(2, 3, 4, 1, 0).reshape(27, -1)
    return (kernel @ taps).reshape(-1, channels, outputs)


def _whole(x: Any, taps: Array, steps: Sequence[int]) -> Any:
    """Convolve all of it at once; the sums of an axis lie behind each other, as more rows."""
    from openvino import opset13 as op

    for axis, m in enumerate(steps, start=1):
        last = [op.constant(np.array([k])) for k in (m, axis)]
        parts = [
            op.slice(x, op.constant(np.array([k])), op.constant(np.array([_end(k, m)])), *last)
            for k in range(m + 2)
        ]
        x = op.concat(_SUMS[m](parts), 0).output(0)
    rows, *sides, channels = x.get_shape()
    flat = op.reshape(x, op.constant(np.array([len(taps), -1, channels])), False)
    y = op.matmul(flat, op.constant(taps, shared_memory=True), False, False)
    y = op.reshape(y, op.constant(np.array([rows, *sides, taps.shape[-1]])), False).output(0)
    for axis, m in reversed(list(enumerate(steps, start=1))):
        parts = op.split(y, op.constant(np.int64(0)), m + 2)
        found = _OUTPUTS[m](parts.outputs())
        shape = list(found[0].get_output_shape(0))
        shape[axis] *= m
        y = op.concat([op.unsqueeze(part, op.constant([axis + 1])) for part in found], axis + 1)
        y = op.reshape(y, op.constant(np.array(shape)), False).output(0)
    return y


def _end(k: int, m: int) -> int:
    """Return where the slice of every m-th plane from `k` ends, so that all are as long."""
    return k - m - 1 if k < m + 1 else 2**31 - 1


def _times(x: Any, number: float) -> Any:
    from openvino import opset13 as op

    return op.multiply(x, op.constant(np.float32(number)))


def _sums_of_4(d: Sequence[Any]) -> list[Any]:
    """Return B^T d of the paper's F(4, 3)."""
    from openvino import opset13 as op

    add, less = op.add, op.subtract
    a, b = less(d[4], _times(d[2], 4)), less(d[3], _times(d[1], 4))
    e, f = less(d[4], d[2]), _times(less(d[3], d[1]), 2)
    first = add(less(_times(d[0], 4), _times(d[2], 5)), d[4])
    final = add(less(_times(d[1], 4), _times(d[3], 5)), d[5])
    return [first, add(a, b), less(a, b), add(e, f), less(e, f), final]


def _outputs_of_4(m: Sequence[Any]) -> list[Any]:
    """Return A^T m of the paper's F(4, 3)."""
    from openvino import opset13 as op

    add, less = op.add, op.subtract
    a, b, c, d = add(m[1], m[2]), less(m[1], m[2]), add(m[3], m[4]), less(m[3], m[4])
    return [
        add(add(m[0], a), c),
        add(b, _times(d, 2)),
        add(a, _times(c, 4)),
        add(add(b, _times(d, 8)), m[5]),
    ]


def _sums_of_2(d: Sequence[Any]) -> list[Any]:
    """Return B^T d of the paper's F(2, 3)."""
    from openvino import opset13 as op

    add, less = op.add, op.subtract
    return [less(d[0], d[2]), add(d[1], d[2]), less(d[2], d[1]), less(d[1], d[3])]


def _outputs_of_2(m: Sequence[Any]) -> list[Any]:
    """Return A^T m of the paper's F(2, 3)."""
    from openvino import opset13 as op

    add, less = op.add, op.subtract
    return [add(add(m[0], m[1]), m[2]), less(less(m[1], m[2]), m[3])]


_SUMS = {2: _sums_of_2, 4: _sums_of_4}
_OUTPUTS = {2: _outputs_of_2, 4: _outputs_of_4}
