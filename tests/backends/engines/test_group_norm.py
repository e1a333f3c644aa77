"""A fused norm computes the same, and only norms are fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from backends.engines import group_norm
from backends.engines.openvino import core
from tests.backends.engines import flows

Array = np.ndarray[Any, Any]


def norm(
    x: Any, weight: Array, bias: Array, groups: int, eps: float = 1e-6, power: float = 2
) -> Any:
    """Build a norm of [R, C, X, Y, Z] as graphs have it."""
    channels = len(weight)

    def group_mean(value: Any) -> Any:
        for axis in (4, 3, 2):
            value = op.reduce_mean(value, op.constant(np.array([axis])), True)
        value = op.reshape(value, op.constant(np.array([-1, groups, channels // groups])), False)
        value = op.reduce_mean(value, op.constant(np.array([2])), True)
        shape = op.constant(np.array([1, groups, channels // groups]))
        value = op.broadcast(value, shape, broadcast_spec="BIDIRECTIONAL")
        return op.reshape(value, op.constant(np.array([-1, channels, 1, 1, 1])), False)

    mean = group_mean(x)
    variance = group_mean(op.power(op.subtract(x, mean), op.constant(np.float32(power))))
    deviation = op.sqrt(op.add(variance, op.constant(np.float32(eps))))
    inverse = op.divide(op.constant(np.float32(1)), deviation)
    scale = op.multiply(op.constant(weight[:, None, None, None]), inverse)
    shift = op.subtract(op.constant(bias[:, None, None, None]), op.multiply(mean, scale))
    return op.add(op.multiply(x, scale), shift)


def run(model: Any, x: Array) -> Array:
    result: Array = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    return result


@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 32, 7, 5, 3), 8), ((1, 16, 64, 64, 64), 4), ((1, 8, 6, 6, 6), 8)]
)
def test_a_fused_norm_has_the_digits_of_float64(
    shape: tuple[int, ...], groups: int, mean: float
) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + mean).astype(np.float32)
    weight, bias = rng.normal(size=(2, shape[1])).astype(np.float32)
    parameter = op.parameter([-1, shape[1], -1, -1, -1], np.float32)
    model = openvino.Model([norm(parameter, weight, bias, groups)], [parameter])
    assert group_norm.fuse(model) == 1
    assert not {"Sqrt", "ReduceMean"} & {node.get_type_name() for node in model.get_ops()}
    rows = x.astype(np.float64).reshape(shape[0], groups, -1)
    centred = rows - rows.mean(2, keepdims=True)
    rows = centred / np.sqrt(rows.var(2, keepdims=True) + 1e-6)
    expected = rows.reshape(shape) * weight[:, None, None, None] + bias[:, None, None, None]
    error = np.linalg.norm(run(model, x) - expected) / np.linalg.norm(expected)
    assert error < 5e-6


def test_what_only_resembles_a_norm_is_not_fused() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 8)).astype(np.float32)
    x, other = (op.parameter([1, 8, 4, 4, 4], np.float32) for _ in range(2))
    cubed = norm(x, weight, bias, 4, power=3)
    last = norm(x, weight, bias, 4)
    foreign = op.add(
        op.multiply(other, last.input_value(0).get_node().input_value(1)), last.input_value(1)
    )
    model = openvino.Model([cubed, foreign], [x, other])
    assert group_norm.fuse(model) == 0


def test_the_flow_has_no_other_norms() -> None:
    model = core().read_model(str(flows.FLOW))
    norms = sum(node.get_type_name() == "Sqrt" for node in model.get_ops())
    assert group_norm.fuse(model) == norms > 0
