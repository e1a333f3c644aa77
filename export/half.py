"""Float16 where it is safe: weights, convolutions and matrix products; the rest stays float32.

docs/explanation/precision.md has the measured effect of each choice.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

# Their input is a phase of up to 1000 radians, a spacing or a region index: a few numbers per row,
# which every block of the network adds. They stay float32 throughout.
EMBEDDINGS = (
    "time_embed",
    "class_embedding",
    "spacing_layer",
    "top_region_index_layer",
    "bottom_region_index_layer",
)
# Projects those embeddings to the values that a block adds to its activations, once per block.
PROJECTION = "time_emb_proj"
_LAYERS = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear, nn.LayerNorm)


class Border(nn.Module):
    """A layer with a cast of its input to the layer's type and of its output to float16."""

    def __init__(self, layer: nn.Module, inside: torch.dtype) -> None:
        """Wrap `layer`, whose parameters are of type `inside`."""
        super().__init__()
        self.layer, self.inside = layer, inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Cast `x`, apply the layer, return float16."""
        y: torch.Tensor = self.layer(x.to(self.inside))
        return y.half()


def half(module: nn.Module) -> nn.Module:
    """Convert a prepared module to float16, in place, where that is safe; return it.

    Its inputs and outputs may stay float32: the first layer casts, and the modules in
    `graph_modules` cast back. Parameters are copied, so that those shared with another module stay
    unchanged. Raises ValueError for a weight beyond float16's range.
    """
    for name, child in module.named_children():
        if name in EMBEDDINGS:
            continue
        if name == PROJECTION:
            setattr(module, name, Border(child, torch.float32))
        elif isinstance(child, _LAYERS):
            setattr(module, name, Border(_rounded(child), torch.float16))
        else:
            half(child)
    return module


def _rounded(layer: nn.Module) -> nn.Module:
    layer = copy.deepcopy(layer).half()
    for name, weight in layer.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{name} of {layer} holds a number above 65504, float16's largest")
    return layer


def store_in_half(model: ir.Model) -> None:
    """Store in float16, with a cast back, every weight of an ONNX model that float16 holds exactly.

    This halves the files of float16 checkpoints; runtimes fold the casts at load.
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.dtype != ir.DataType.FLOAT or tensor.size <= 64:
            continue
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float16)
        if np.array_equal(rounded, array):
            name = value.name
            assert name is not None
            del graph.initializers[name]
            weight = ir.val(f"{name}_fp16", const_value=ir.tensor(rounded, name=f"{name}_fp16"))
            cast = ir.node("Cast", [weight], attributes={"to": ir.DataType.FLOAT})
            graph.register_initializer(weight)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
            cast.outputs[0].name = name
            cast.outputs[0].shape, cast.outputs[0].dtype = value.shape, value.dtype
            graph.insert_before(graph[0], cast)
