"""Winograd's convolutions equal PyTorch's, of any size and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as op

from backends.engines import channels_last, winograd
from backends.engines.openvino import core, weight_bytes

Array = np.ndarray[Any, Any]


def convolution(x: Array, weight: Array, before: list[int], after: list[int]) -> Any:
    """Return a model of one convolution, [R, C, X, Y, Z]."""
    parameter = op.parameter(x.shape, np.float32, name="x")
    output = op.convolution(parameter, op.constant(weight), [1] * 3, before, after, [1] * 3)
    return openvino.Model([output], [parameter])


def run(model: Any, x: Array) -> Array:
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    output: Array = core().compile_model(model, "CPU", hints)([x])[0]
    return output


def products(model: Any) -> int:
    """Count matrix products, those of a loop's body too; Winograd's are seven a convolution."""
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    loops = [node for node in model.get_ordered_ops() if node.get_type_name() == "Loop"]
    return kinds.count("MatMul") + sum(products(loop.get_function()) for loop in loops)


@pytest.mark.parametrize(
    ("sides", "before", "after"),
    [
        ((18, 16, 16), [0, 1, 1], [0, 1, 1]),  # a slab with planes of its neighbours
        ((8, 8, 8), [1, 1, 1], [1, 1, 1]),
        ((5, 13, 11), [1, 1, 1], [1, 1, 1]),  # no side divides
        ((3, 30, 14), [0, 1, 1], [0, 1, 1]),  # a slab of one plane
        ((6, 64, 32), [0, 1, 0], [0, 1, 2]),  # several tiles, and uneven zeros
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_it_equals_the_convolution(
    sides: tuple[int, ...], before: list[int], after: list[int], rows: int
) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, 64, *sides), np.float32)
    weight = random.standard_normal((72, 64, 3, 3, 3), np.float32) / 40
    model = channels_last.convert(convolution(x, weight, before, after), winograd.convolve, False)
    assert products(model) == 7
    assert weight_bytes(model) >= 4 * weight.size  # also where they are in the body of a loop
    output = run(model, x)
    pads = [n for ends in zip(before[::-1], after[::-1], strict=True) for n in ends]
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), pads)
    truth = torch.nn.functional.conv3d(padded, torch.from_numpy(weight).double()).numpy()
    assert output.shape == truth.shape
    error = output - truth
    assert np.sqrt((error**2).mean()) < 2e-5 * truth.std()
    assert np.abs(error).max() < 5e-4 * truth.std()


@pytest.mark.parametrize(
    ("sides", "channels", "m"),
    [
        ((16, 128, 128), (64, 64), 4),
        ((8, 8, 8), (256, 512), 2),  # a matrix product of eight rows would read more weights
        ((4, 4, 4), (512, 512), 0),
        ((64, 64, 64), (64, 1), 0),
        ((64, 64, 64), (32, 64), 0),
    ],
)
def test_the_largest_m_that_is_faster(
    sides: tuple[int, ...], channels: tuple[int, ...], m: int
) -> None:
    assert winograd.factor(sides, channels) == m


@pytest.mark.parametrize(
    ("weights", "helps"),
    [
        ([(64, 4, 3), (64, 64, 3), (128, 64, 3)], True),
        ([(64, 4, 3), (64, 64, 1)], False),
        # not at full resolution, which takes most time
        ([(32, 4, 3), (64, 32, 3), (64, 64, 3)], False),
    ],
)
def test_networks_that_are_faster(weights: list[tuple[int, int, int]], helps: bool) -> None:
    parameter = op.parameter([1, -1, -1, -1, -1], np.float32)
    x = parameter
    for outputs, inputs, taps in weights:
        weight = op.constant(np.ones((outputs, inputs, taps, taps, taps), np.float32))
        x = op.convolution(x, weight, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    assert winograd.helps(openvino.Model([x], [parameter])) == helps


@pytest.mark.parametrize(("sides", "is_large"), [((16, 16, 16), False), ((16, 16, 17), True)])
def test_graphs_that_are_large_enough(sides: tuple[int, ...], is_large: bool) -> None:
    parameter = op.parameter([2, 64, *sides], np.float32)
    weight = op.constant(np.ones((64, 64, 3, 3, 3), np.float32))
    x = op.convolution(parameter, weight, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    x = op.convolution(x, weight, [2] * 3, [1] * 3, [1] * 3, [1] * 3)
    assert winograd.is_large(openvino.Model([x], [parameter])) == is_large


def test_convolutions_with_strides_stay_openvinos() -> None:
    parameter = op.parameter([1, 64, 16, 16, 16], np.float32)
    weight = np.ones((64, 64, 3, 3, 3), np.float32)
    output = op.convolution(parameter, op.constant(weight), [2] * 3, [1] * 3, [1] * 3, [1] * 3)
    x = np.random.default_rng(0).standard_normal((1, 64, 16, 16, 16), np.float32)
    plain = run(openvino.Model([output], [parameter]), x)
    model = channels_last.convert(openvino.Model([output], [parameter]), winograd.convolve, False)
    assert products(model) == 0
    np.testing.assert_allclose(run(model, x), plain, rtol=1e-5, atol=1e-3)


def test_float16_stays_float16_outside() -> None:
    parameter = op.parameter([1, 64, 16, 16, 16], np.float16)
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3, 3)).astype(np.float16) / 40
    output = op.convolution(parameter, op.constant(weight), [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    x = np.random.default_rng(0).standard_normal((1, 64, 16, 16, 16)).astype(np.float16)
    plain = run(openvino.Model([output], [parameter]), x)
    model = channels_last.convert(openvino.Model([output], [parameter]), winograd.convolve, False)
    assert products(model) == 7
    output = run(model, x)
    assert output.dtype == plain.dtype == np.float16
    np.testing.assert_allclose(output, plain, atol=5e-3)
