"""A graph converted to channels last computes the same, with and without its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from backends.engines import channels_last, winograd
from backends.engines.channels_last import FIRST, LAST
from backends.engines.openvino import core

Array = np.ndarray[Any, Any]
SHAPE = (2, 4, 3, 5, 6)
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((4, 4, 3, 3, 3)).astype(np.float32)


def conv(x: Any) -> Any:
    return op.convolution(x, op.constant(WEIGHT), [1] * 3, [1] * 3, [1] * 3, [1] * 3)


def ints(*numbers: int) -> Any:
    return op.constant(np.array(numbers))


def mean(x: Any, axis: int) -> Any:
    return op.reduce_mean(x, ints(axis), True)


GRAPHS: dict[str, Callable[[Any], Any]] = {
    "a scale of four axes": lambda x: op.multiply(conv(x), op.constant(WEIGHT[:, :1, :1, 0, :1])),
    "a number": lambda x: op.add(op.constant(np.float32(3)), conv(x)),
    "planes": lambda x: op.multiply(
        conv(x), op.constant(WEIGHT[:3, 0, 0, 0].reshape(3, 3, 1)[:, :1])
    ),
    "the input beside": lambda x: op.add(x, conv(x)),
    "two convolutions": lambda x: op.add(conv(x), conv(op.sigmoid(x))),
    "a function and the convolution itself": lambda x: op.add(op.sigmoid(y := conv(x)), y),
    "concatenated": lambda x: op.concat([conv(x), conv(op.sigmoid(x))], 1),
    "concatenated with an input that is not converted": lambda x: conv(
        op.slice(op.concat([x, op.relu(conv(x))], 1), ints(2), ints(6), ints(1), ints(1))
    ),
    "moments": lambda x: op.subtract(conv(x), mean(mean(mean(conv(x), 4), -2), 2)),
    "a slice": lambda x: op.slice(conv(x), ints(1), ints(-1), ints(1), ints(-3)),
    "a node that is not converted, at the end": lambda x: op.relu(conv(x)),
    "attention": lambda x: op.softmax(op.reshape(conv(x), ints(2, 4, -1), False), 2),
    "the mean of channels": lambda x: op.reduce_mean(conv(x), ints(1), False),
    "float16 weights": lambda x: op.convolution(
        conv(x),
        op.convert(op.constant(WEIGHT.astype(np.float16)), "f32"),
        [2] * 3,
        [1] * 3,
        [0] * 3,
        [1] * 3,
    ),
}


def run(model: Any, x: Array) -> Array:
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    output: Array = core().compile_model(model, "CPU", hints)([x])[0]
    return output


def model(name: str) -> Any:
    parameter = op.parameter(SHAPE, np.float32, name="x")
    return openvino.Model([GRAPHS[name](parameter)], [parameter])


@pytest.mark.parametrize("with_ports", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_converted_graph_computes_the_same(name: str, with_ports: bool) -> None:
    x = RANDOM.standard_normal(SHAPE).astype(np.float32)
    truth = run(model(name), x)
    converted = channels_last.convert(model(name), winograd.convolve, with_ports)
    output = run(converted, np.ascontiguousarray(x.transpose(LAST)) if with_ports else x)
    output = output.transpose(FIRST) if with_ports and output.ndim == 5 else output
    np.testing.assert_allclose(output, truth, rtol=1e-4, atol=1e-4)


def test_what_follows_a_convolution_is_not_reordered_in_memory() -> None:
    parameter = op.parameter(SHAPE, np.float32, name="x")
    biased = op.add(conv(parameter), op.constant(WEIGHT[:, :1, :1, :1, 0]))
    graph = openvino.Model([op.add(biased, parameter)], [parameter])
    converted = channels_last.convert(graph, channels_last.convolve, True)
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    nodes = core().compile_model(converted, "CPU", hints).get_runtime_model().get_ordered_ops()
    kinds = [node.get_rt_info()["layerType"].value for node in nodes]
    assert "Convolution" in kinds and "Transpose" not in kinds
    size = SHAPE[0] * int(np.prod(SHAPE[2:]))
    reordered = [
        node.get_friendly_name()
        for node, kind in zip(nodes, kinds, strict=True)
        if kind == "Reorder" and np.prod(node.get_output_shape(0)) >= size
    ]
    assert reordered and all(name.endswith("_fake") for name in reordered)  # no copies
