"""Whether the tensors of a network that TensorRT has parsed have few enough elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backends.slabs.budget import MOST_ELEMENTS


def check(
    trt: Any, network: Any, profile: Mapping[str, Sequence[Sequence[int]]], onnx: str
) -> None:
    """Raise ValueError for a tensor that has too many at the profile's largest shapes.

    Attention's weights are none where both products are float16: TensorRT compiles them and the
    softmax between into one kernel.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    free = [tuple(tensor.shape) for tensor in inputs]
    for tensor in inputs:  # with shapes that are fixed TensorRT knows those of all tensors
        if tensor.name in profile:
            tensor.shape = profile[tensor.name][2]

    def made(*kinds: Any) -> list[Any]:
        of = [layer for layer in layers if not kinds or layer.type in kinds]
        return [layer.get_output(index) for layer in of for index in range(layer.num_outputs)]

    weights = {tuple(tensor.shape) for tensor in made(trt.LayerType.SOFTMAX)}
    products = made(trt.LayerType.MATRIX_MULTIPLY)
    weights &= {tuple(x.shape) for x in products if x.dtype == trt.DataType.HALF}
    for tensor in (*inputs, *made()):
        count = math.prod(shape := tuple(tensor.shape))
        if count > MOST_ELEMENTS and shape not in weights:
            raise ValueError(
                f"{onnx}: tensor {tensor.name} is {list(shape)} at the largest size, {count}"
                f" elements, and at most {MOST_ELEMENTS} are possible: build with a smaller"
                " --max-size, and attention with --precision fp16"
            )
    for tensor, shape in zip(inputs, free, strict=True):
        tensor.shape = shape
