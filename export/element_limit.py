"""The check of the number of elements of each tensor in a network that TensorRT has parsed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backends.slabs.budget import MOST_ELEMENTS


def check(
    trt: Any, network: Any, profile: Mapping[str, Sequence[Sequence[int]]], onnx: str
) -> None:
    """Raise ValueError if a tensor has more than MOST_ELEMENTS at the profile's largest shapes.

    Attention weights are exempt where both products are float16: TensorRT compiles these and
    the softmax between them into one kernel, which never stores the weights.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dynamic_shapes = [tuple(tensor.shape) for tensor in inputs]
    for tensor in inputs:  # from fixed shapes of inputs TensorRT infers those of all tensors
        if tensor.name in profile:
            tensor.shape = profile[tensor.name][2]

    def outputs(*kinds: Any) -> list[Any]:
        matches = [layer for layer in layers if not kinds or layer.type in kinds]
        return [layer.get_output(index) for layer in matches for index in range(layer.num_outputs)]

    weights = {tuple(tensor.shape) for tensor in outputs(trt.LayerType.SOFTMAX)}
    products = outputs(trt.LayerType.MATRIX_MULTIPLY)
    weights &= {tuple(x.shape) for x in products if x.dtype == trt.DataType.HALF}
    for tensor in (*inputs, *outputs()):
        count = math.prod(shape := tuple(tensor.shape))
        if count > MOST_ELEMENTS and shape not in weights:
            raise ValueError(
                f"{onnx}: tensor {tensor.name} is {list(shape)} at the largest size, {count}"
                f" elements, and at most {MOST_ELEMENTS} are possible: build with a smaller"
                " --max-size, and attention with --precision fp16"
            )
    for tensor, shape in zip(inputs, dynamic_shapes, strict=True):
        tensor.shape = shape
