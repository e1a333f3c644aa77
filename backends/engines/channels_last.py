"""Graphs whose channels lie innermost, [R, X, Y, Z, C], which is what a CPU convolves fastest.

OpenVINO turns activations over before and after a convolution, unless it finds them in that order.
So a graph written for [R, C, X, Y, Z] is changed here, node by node, once it has fixed shapes.
What cannot be changed, as attention, gets its input turned back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import Array

LAST = (0, 2, 3, 4, 1)  # [R, C, X, Y, Z] -> [R, X, Y, Z, C]
FIRST = (0, 4, 1, 2, 3)
_PLACE = dict(enumerate(FIRST))  # an axis of the former -> where it is in the latter

_ELEMENTWISE = {
    *("Abs", "Add", "Convert", "Divide", "Exp", "Floor", "Multiply", "Power", "Sigmoid", "Sqrt"),
    *("Subtract", "Swish"),
}

# Convolves [R, X, Y, Z, C] in channels last: (input, weight [O, C, 3, 3, 3], the node) -> output.
Convolve = Callable[[Any, Array, Any], Any]


def constant(output: Any) -> Array | None:
    """Return the value of a constant, or None for what is none."""
    node = output.get_node()
    if node.get_type_name() == "Constant":
        data: Array = node.data
        return data
    if node.get_type_name() != "Convert":
        return None
    inner = constant(node.input_value(0))
    return None if inner is None else inner.astype(node.get_element_type().to_dtype())


def turn(output: Any, order: tuple[int, ...]) -> Any:
    """Return an output with its axes in another order."""
    from openvino import opset13 as op

    return op.transpose(output, op.constant(np.array(order))).output(0)


def change(model: Any, convolve: Convolve, outside: bool) -> Any:
    """Return a model of fixed shapes in channels last; `model` is used up.

    `convolve` makes convolutions with constant weights. `outside`: inputs and outputs of five axes
    are channels last, too; else they stay as they are.
    """
    import openvino
    from openvino import opset13 as op

    turned: set[str] = set()  # names of nodes whose output is channels last
    parameters = list(model.get_parameters())

    def is_last(output: Any) -> bool:
        return output.get_node().get_name() in turned

    def last(output: Any) -> Any:
        """Return an operand in channels last, whatever its number of axes."""
        shape = list(output.get_shape())
        if is_last(output) or not shape:
            return output
        if len(shape) < 5:
            output = op.reshape(output, op.constant([1] * (5 - len(shape)) + shape), False).output(
                0
            )
        return turn(output, LAST)

    def replace(node: Any, by: Any) -> None:
        node.output(0).replace(by)
        turned.add(by.get_node().get_name())

    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Parameter":
            if outside and len(node.get_output_shape(0)) == 5:
                shape = [node.get_output_shape(0)[axis] for axis in LAST]
                fresh = op.parameter(shape, node.get_element_type())
                fresh.output(0).set_names(node.output(0).get_names())
                parameters[parameters.index(node)] = fresh
                replace(node, fresh.output(0))
            continue
        inputs = node.input_values()
        if kind == "Result" and outside and len(inputs[0].get_shape()) == 5:
            node.set_arguments([last(inputs[0])])
            continue
        if kind == "Convolution" and len(inputs[0].get_shape()) == 5:
            weight = constant(inputs[1])
            if weight is not None:
                replace(node, convolve(last(inputs[0]), weight, node))
                continue
        if not any(map(is_last, inputs)):
            continue
        if kind == "Interpolate" and (doubled := _doubled(node)):
            made = inputs[0]
            for axis in doubled:
                made = _double(made, _PLACE[axis])
            replace(node, made)
            continue
        if kind in _ELEMENTWISE:
            node.set_arguments([last(found) for found in inputs])
        elif kind == "Concat" and all(map(is_last, inputs)):
            axis = _PLACE[node.get_attributes()["axis"] % 5]
            replace(node, op.concat(inputs, axis).output(0))
            continue
        elif kind in ("ReduceMean", "Slice") and is_last(inputs[0]):
            axes = constant(inputs[-1])
            if axes is None or not node.get_attributes().get("keep_dims", True):
                node.set_arguments(
                    [turn(found, FIRST) if is_last(found) else found for found in inputs]
                )
                continue
            axes = np.array([_PLACE[int(axis) % 5] for axis in axes.reshape(-1)])
            node.set_arguments([*inputs[:-1], op.constant(axes).output(0)])
        else:
            node.set_arguments(
                [turn(found, FIRST) if is_last(found) else found for found in inputs]
            )
            continue
        node.validate_and_infer_types()
        turned.add(node.get_name())
    return openvino.Model(model.get_results(), parameters)


def _doubled(node: Any) -> list[int]:
    """Return the axes along which a node doubles its input linearly, if it does nothing else."""
    how, (_, factors, *axes) = node.get_attributes(), node.input_values()
    scales = constant(factors)
    linear = how["mode"].startswith("linear") and not how["antialias"]
    linear = linear and how["coordinate_transformation_mode"] == "half_pixel"
    exact = how["shape_calculation_mode"] == "scales" and not any(
        how["pads_begin"] + how["pads_end"]
    )
    if not linear or not exact or axes or scales is None or not set(scales.tolist()) <= {1, 2}:
        return []
    return [axis for axis, scale in enumerate(scales) if scale == 2]


def _double(x: Any, axis: int) -> Any:
    """Interpolate linearly: each half takes a quarter of the neighbour on its side."""
    from openvino import opset13 as op

    def part(begin: int, end: int) -> Any:
        return op.slice(x, *(op.constant(np.array([n])) for n in (begin, end, 1, axis)))

    def times(number: float, what: Any) -> Any:
        return op.multiply(what, op.constant(np.float32(number)))

    shape = list(x.get_shape())
    before = op.concat([part(0, 1), part(0, -1)], axis) if shape[axis] > 1 else x
    behind = op.concat([part(1, 2**31 - 1), part(-1, 2**31 - 1)], axis) if shape[axis] > 1 else x
    own = times(0.75, x)
    halves = [op.add(own, times(0.25, before)), op.add(own, times(0.25, behind))]
    both = op.concat([op.unsqueeze(half, op.constant([axis + 1])) for half in halves], axis + 1)
    shape[axis] *= 2
    return op.reshape(both, op.constant(np.array(shape)), False).output(0)
