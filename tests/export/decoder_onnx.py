"""A small graph like a decoder: latent -> image of four times its sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write(path: Path) -> Path:
    """Write the graph, with random weights of 1.8 MB."""
    random = np.random.default_rng(0)
    shapes = {"w1": (128, 4, 3, 3, 3), "w2": (128, 128, 3, 3, 3), "w3": (1, 128, 3, 3, 3)}
    weights = [
        numpy_helper.from_array((random.normal(size=shape) / 20).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    weights.append(numpy_helper.from_array(np.array([1, 1, 4, 4, 4], np.float32), "four"))
    nodes = [
        helper.make_node("Conv", ["latent", "w1"], ["a"], pads=[1] * 6),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 6),
        helper.make_node("Resize", ["c", "", "four"], ["d"], mode="nearest"),
        helper.make_node("Conv", ["d", "w3"], ["image"], pads=[1] * 6),
    ]
    latent, image = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("latent", [1, 4, "x", "y", "z"]), ("image", [1, 1, "p", "q", "r"]))
    )
    graph = helper.make_graph(nodes, "decoder", [latent], [image], weights)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path
