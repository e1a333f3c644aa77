"""Convert graphs to channels last, [R, X, Y, Z, C], in which a CPU computes convolutions fastest.

OpenVINO transposes activations of another layout before and after each convolution. This module
therefore converts a graph with fixed shapes for [R, C, X, Y, Z] node by node. A node that cannot be
converted, for example in attention, gets transposed inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import Array

LAST = (0, 2, 3, 4, 1)  # [R, C, X, Y, Z] -> [R, X, Y, Z, C]
FIRST = (0, 4, 1, 2, 3)
_AXIS = dict(enumerate(FIRST))  # an axis of [R, C, X, Y, Z] -> its index in [R, X, Y, Z, C]

_ELEMENTWISE = {
    *("Abs", "Add", "Convert", "Divide", "Exp", "Floor", "Multiply", "Power", "Sigmoid", "Sqrt"),
    *("Subtract", "Swish"),
}

# Convolves [R, X, Y, Z, C] in channels last: (input, weight [O, C, 3, 3, 3], the node) -> output.
Convolve = Callable[[Any, Array, Any], Any]


def in_memory(array: Any, innermost: bool) -> Any:
    """Return an array [R, C, X, Y, Z] as a view with its axes in the order in memory."""
    return array.transpose(LAST) if innermost and array.ndim == 5 else array


def empty(
    allocate: Callable[[tuple[int, ...], Any], Any],
    shape: tuple[int, ...],
    dtype: Any,
    innermost: bool,
) -> Any:
    """Return an array of `allocate(shape, dtype)`, if `innermost` with C innermost in memory."""
    if not innermost or len(shape) != 5:
        return allocate(shape, dtype)
    return allocate(tuple(shape[axis] for axis in LAST), dtype).transpose(FIRST)


def is_innermost(array: Any) -> bool:
    """Return whether C is innermost in the memory of an array [R, C, X, Y, Z]."""
    if array.ndim != 5 or array.shape[1] == 1:
        return False
    return bool(array.strides[1] == array.dtype.itemsize)


def constant(output: Any) -> Array | None:
    """Return the value of an output that is a constant, else None."""
    node = output.get_node()
    if node.get_type_name() == "Constant":
        data: Array = node.data
        return data
    if node.get_type_name() != "Convert":
        return None
    inner = constant(node.input_value(0))
    return None if inner is None else inner.astype(node.get_element_type().to_dtype())


def transpose(output: Any, order: tuple[int, ...]) -> Any:
    """Return an output with its axes in another order."""
    from openvino import opset13 as op

    return op.transpose(output, op.constant(np.array(order))).output(0)


def reshape(output: Any, shape: Sequence[int]) -> Any:
    """Return an output with the same elements in another shape."""
    from openvino import opset13 as op

    return op.reshape(output, op.constant(np.array(shape)), False).output(0)


def convolve(x: Any, weight: Array, node: Any) -> Any:
    """Return the convolution `node` of `x` [R, X, Y, Z, C], also in channels last, by OpenVINO."""
    from openvino import opset13 as op

    names = ("strides", "pads_begin", "pads_end", "dilations")
    attributes = node.get_attributes()
    parameters = (attributes[name] for name in names)
    y = op.convolution(transpose(x, FIRST), op.constant(weight), *parameters)
    return transpose(y.output(0), LAST)


def convert(model: Any, convolve: Convolve, with_ports: bool) -> Any:
    """Return a model of fixed shapes in channels last; `model` is no longer usable.

    `convolve` builds convolutions with constant weights. With `with_ports`, the model's inputs and
    outputs with five axes are also converted, otherwise they keep their layout.
    """
    import openvino
    from openvino import opset13 as op

    converted: set[str] = set()  # names of nodes whose output is in channels last
    parameters = list(model.get_parameters())

    def is_last(output: Any) -> bool:
        return output.get_node().get_name() in converted

    def to_last(output: Any) -> Any:
        """Return an operand of at most five axes in channels last."""
        shape = list(output.get_shape())
        if is_last(output) or not shape:
            return output
        if len(shape) < 5:
            output = reshape(output, [1] * (5 - len(shape)) + shape)
        return transpose(output, LAST)

    def to_first(output: Any) -> Any:
        return transpose(output, FIRST) if is_last(output) else output

    def replace(node: Any, output: Any) -> None:
        node.output(0).replace(output)
        converted.add(output.get_node().get_name())

    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Parameter":
            if with_ports and len(node.get_output_shape(0)) == 5:
                shape = [node.get_output_shape(0)[axis] for axis in LAST]
                parameter = op.parameter(shape, node.get_element_type())
                parameter.output(0).set_names(node.output(0).get_names())
                parameters[parameters.index(node)] = parameter
                replace(node, parameter.output(0))
            continue
        inputs = node.input_values()
        if kind == "Result" and with_ports and len(inputs[0].get_shape()) == 5:
            node.set_arguments([to_last(inputs[0])])
            continue
        if kind == "Convolution" and len(inputs[0].get_shape()) == 5:
            weight = constant(inputs[1])
            if weight is not None:
                replace(node, convolve(to_last(inputs[0]), weight, node))
                continue
        if not any(map(is_last, inputs)):
            continue
        if kind == "Interpolate" and (axes := _doubled_axes(node)):
            output = inputs[0]
            for axis in axes:
                output = _double(output, _AXIS[axis])
            replace(node, output)
            continue
        if kind in _ELEMENTWISE:
            operands = [to_last(operand) for operand in inputs]
            if any(map(_is_convolved, operands)):
                converted.add(_with_six_axes(node, operands).get_name())
                continue
            node.set_arguments(operands)
        elif kind == "Concat" and all(map(is_last, inputs)):
            axis = _AXIS[node.get_attributes()["axis"] % 5]
            replace(node, op.concat(inputs, axis).output(0))
            continue
        elif kind in ("ReduceMean", "Slice") and is_last(inputs[0]):
            indices = constant(inputs[-1])
            if indices is None or not node.get_attributes().get("keep_dims", True):
                node.set_arguments([to_first(operand) for operand in inputs])
                continue
            indices = np.array([_AXIS[int(axis) % 5] for axis in indices.reshape(-1)])
            node.set_arguments([*inputs[:-1], op.constant(indices).output(0)])
        else:
            node.set_arguments([to_first(operand) for operand in inputs])
            continue
        node.validate_and_infer_types()
        converted.add(node.get_name())
    return openvino.Model(model.get_results(), parameters)


def _is_convolved(output: Any) -> bool:
    """Return whether an output is the transposed output of a convolution of OpenVINO."""
    node = output.get_node()
    if node.get_type_name() != "Transpose":
        return False
    kind: str = node.input_value(0).get_node().get_type_name()
    return kind == "Convolution"


def _with_six_axes(node: Any, operands: list[Any]) -> Any:
    """Compute `node`, a function of each element, with an axis more; return the node after it.

    With five axes, OpenVINO 2026.4.1 lets such a node after a convolution keep the layout of the
    convolution in memory, as if C were the second axis. It then reorders the result by a loop
    that takes longer than the convolution. A tensor of six axes has only one layout.
    """
    output, shape = node.output(0), [node.output(0).get_shape()[axis] for axis in LAST]
    users, names = output.get_target_inputs(), output.get_names()
    node.set_arguments(
        [
            reshape(operand, [1, *operand.get_shape()]) if _is_convolved(operand) else operand
            for operand in operands
        ]
    )
    node.validate_and_infer_types()
    output.set_names(set())
    replacement = reshape(output, shape)
    replacement.set_names(names)
    for user in users:
        user.replace_source_output(replacement)
    return replacement.get_node()


def _doubled_axes(node: Any) -> list[int]:
    """Return the axes that an Interpolate doubles linearly; [] if it does anything else."""
    attributes, (_, factors, *axes) = node.get_attributes(), node.input_values()
    scales = constant(factors)
    linear = attributes["mode"].startswith("linear") and not attributes["antialias"]
    linear = linear and attributes["coordinate_transformation_mode"] == "half_pixel"
    exact = attributes["shape_calculation_mode"] == "scales" and not any(
        attributes["pads_begin"] + attributes["pads_end"]
    )
    if not linear or not exact or axes or scales is None or not set(scales.tolist()) <= {1, 2}:
        return []
    return [axis for axis, scale in enumerate(scales) if scale == 2]


def _double(x: Any, axis: int) -> Any:
    """Return `x` with an axis doubled by linear interpolation.

    Each element becomes two elements: 3/4 of it plus 1/4 of the previous or of the next element.
    """
    from openvino import opset13 as op

    def part(begin: int, end: int) -> Any:
        return op.slice(x, *(op.constant(np.array([n])) for n in (begin, end, 1, axis)))

    def times(factor: float, operand: Any) -> Any:
        return op.multiply(operand, op.constant(np.float32(factor)))

    shape = list(x.get_shape())
    before = op.concat([part(0, 1), part(0, -1)], axis) if shape[axis] > 1 else x
    behind = op.concat([part(1, 2**31 - 1), part(-1, 2**31 - 1)], axis) if shape[axis] > 1 else x
    own = times(0.75, x)
    halves = [op.add(own, times(0.25, before)), op.add(own, times(0.25, behind))]
    both = op.concat([op.unsqueeze(half, op.constant([axis + 1])) for half in halves], axis + 1)
    shape[axis] *= 2
    return reshape(both, shape)
