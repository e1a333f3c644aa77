"""ResNet-50 as functions of its weights, to compare networks with: as torchvision, or as Keras."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)
NUMBERS = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def weights(*, biases: bool) -> Weights:
    """Return random weights under torchvision's names, without the last layer.

    With `biases`, convolutions have them, as those of Keras do.
    """
    random = torch.Generator().manual_seed(0)
    made: Weights = {}

    def layer(conv: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        shape = (outputs, inputs, side, side)
        spread = (2 / (inputs * side * side)) ** 0.5
        made[f"{conv}.weight"] = spread * torch.randn(shape, generator=random)
        if biases:
            made[f"{conv}.bias"] = torch.randn(outputs, generator=random)
        for name in ("weight", "bias", "running_mean", "running_var"):
            made[f"{norm}.{name}"] = 0.5 + torch.rand(outputs, generator=random)
        made[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    layer("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            layer(f"{name}.conv1", f"{name}.bn1", width, inputs, 1)
            layer(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            layer(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1)
            if block == 0:
                layer(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    return made


def numbered(weights: Weights) -> Weights:
    """Return the weights under the names of RadImageNet's `ResNet50.pt`."""
    parts = ((*name.split(".", 1), value) for name, value in weights.items())
    return {f"backbone.{NUMBERS[first]}.{rest}": value for first, rest, value in parts}


def features(weights: Weights, pictures: Tensor, *, keras: bool) -> Tensor:
    """Return features `[N, 2048]` of pictures `[N, 3, H, W]`.

    The first convolution of a block has the stride in Keras, the second one in torchvision.
    """
    epsilon = 1.001e-5 if keras else 1e-5

    def layer(conv: str, norm: str, maps: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"{conv}.weight"]
        bias = weights.get(f"{conv}.bias")
        maps = functional.conv2d(maps, kernel, bias, stride, padding=kernel.shape[-1] // 2)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return functional.batch_norm(maps, mean, variance, scale, shift, eps=epsilon)

    maps = functional.max_pool2d(layer("conv1", "bn1", pictures, 2).relu(), 3, 2, padding=1)
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            first, second = (stride, 1) if keras else (1, stride)
            change = layer(f"{name}.conv1", f"{name}.bn1", maps, first).relu()
            change = layer(f"{name}.conv2", f"{name}.bn2", change, second).relu()
            change = layer(f"{name}.conv3", f"{name}.bn3", change)
            if not block:
                maps = layer(f"{name}.downsample.0", f"{name}.downsample.1", maps, stride)
            maps = (maps + change).relu()
    return maps.mean((2, 3))
