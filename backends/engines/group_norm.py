"""Replace each GroupNorm of a graph by OpenVINO's operation, which takes half of the compile time.

Graphs have means along one axis after another (`MomentsGroupNorm` of export/networks.py), because
other libraries sum a whole group in one float32. OpenVINO 2026.4.1 keeps the digits: over 8 million
elements, whose mean is 30 times their spread, its relative error is 2e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .channels_last import constant

# The nodes of a mean over groups, from its output to its input: the mean over each axis of a
# channel, then over the channels of a group, whose mean each channel gets.
_GROUP_MEAN = ("Reshape", "Broadcast", "ReduceMean", "Reshape", *["ReduceMean"] * 3)


def fuse(model: Any) -> int:
    """Replace the norms of a graph in place; return their number."""
    count = 0
    for node in model.get_ordered_ops():
        norm = _norm(node)
        if norm is not None:
            node.output(0).replace(norm.output(0))
            count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _norm(node: Any) -> Any:
    """Return the operation that replaces `node`; None unless it is the last one of a norm.

    The last one is `x * scale + (bias - mean * scale)`.
    """
    from openvino import opset13 as op

    scaled, shift = _inputs(node.output(0), "Add", 2)
    x, scale = _inputs(scaled, "Multiply", 2)
    bias, moved = _inputs(shift, "Subtract", 2)
    mean, same_scale = _inputs(moved, "Multiply", 2)
    weight, inverse = _inputs(scale, "Multiply", 2)
    one, deviation = _inputs(inverse, "Divide", 2)
    (biased,) = _inputs(deviation, "Sqrt", 1)
    variance, eps = _inputs(biased, "Add", 2)
    squares = _ancestor(variance, _GROUP_MEAN)
    centred, two = _inputs(squares, "Power", 2)
    same_x, same_mean = _inputs(centred, "Subtract", 2)
    pairs = (x, same_x), (x, _ancestor(mean, _GROUP_MEAN)), (mean, same_mean), (scale, same_scale)
    if not all(_same(*pair) for pair in pairs) or (_number(one), _number(two)) != (1, 2):
        return None
    weights, biases, epsilon = constant(weight), constant(bias), _number(eps)
    if weights is None or biases is None or epsilon is None:
        return None
    groups = _ancestor(mean, _GROUP_MEAN[:3]).get_partial_shape()[1].get_length()
    affine = (op.constant(np.asarray(value, np.float32).ravel()) for value in (weights, biases))
    return op.group_normalization(x, *affine, groups, epsilon)


def _inputs(output: Any, kind: str, count: int) -> Sequence[Any]:
    """Return the inputs of the node of an output; Nones if it is not of this kind."""
    if output is None or output.get_node().get_type_name() != kind:
        return [None] * count
    values: list[Any] = output.get_node().input_values()
    return values


def _ancestor(output: Any, kinds: Sequence[str]) -> Any:
    """Return the output from which nodes of these kinds compute `output`; None for others."""
    for kind in kinds:
        output, *_ = _inputs(output, kind, 1)
    return output


def _number(output: Any) -> float | None:
    """Return a constant of one element; None for any other output."""
    value = None if output is None else constant(output)
    return None if value is None or value.size != 1 else float(value.ravel()[0])


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    nodes = [(output.get_node().get_name(), output.get_index()) for output in (one, other)]
    return nodes[0] == nodes[1]
