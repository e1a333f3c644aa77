"""Features of slices from a network that PyTorch loads from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._errors import InvalidRequest, MaisiError
from .harmonising import Greys

_SIDE = 224  # pixels of each side of the input, as in ImageNet and RadImageNet
_DEPTHS = ([2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 23, 3], [3, 8, 36, 3])  # blocks, ResNet-18 to 152
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_KERAS_EPSILON = 1.001e-5  # epsilon of batch normalisation in the ResNets of Keras


@dataclass(frozen=True)
class Scale:
    """The mean and standard deviation by which each channel of grey levels 0 to 1 is normalised.

    Each set of weights was trained with one scale.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


IMAGENET = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's
SIGNED = Scale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # -1 to 1: pytorch_example.ipynb of RadImageNet
# In the order blue, green, red; from `subtract_mean` in compute_fid_2-5d_ct.py of NV-Generate-CTMR.
KERAS = Scale((0.406, 0.456, 0.485), (1.0, 1.0, 1.0))


class Network:
    """A network that maps pictures `[N, 3, 224, 224]`, normalised by a scale, to features."""

    def __init__(self, module: Any, scale: Scale) -> None:
        self._module = module
        self._scale = scale

    @staticmethod
    @lru_cache(maxsize=1)
    def load(path: Path) -> Network:
        """Return the network of a TorchScript file, or of ResNet weights.

        The weights may be those of torchvision or RadImageNet. Raises `MaisiError` without PyTorch,
        and for weights without MONAI. Raises `InvalidRequest` for any other file.
        """
        try:
            import torch
        except ImportError:
            raise MaisiError(
                "--features needs PyTorch, which is not installed: pip install torch"
            ) from None
        torch.set_num_threads(1)  # several processes share the cores
        try:
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return Network(module.eval(), IMAGENET)
        except (RuntimeError, ValueError, OSError):
            pass  # not TorchScript
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise InvalidRequest(
                f"--features is '{path}', which cannot be read: {error.strerror}"
            ) from error
        except Exception as error:  # any type; drop torch's advice to load the file without checks
            raise InvalidRequest(
                f"--features is '{path}'; TorchScript or the weights of a ResNet are expected"
            ) from error
        return Network(*_resnet(path, weights))

    def __call__(self, pictures: Sequence[Greys]) -> NDArray[np.float32]:
        """Return features `[N, F]` of slices with grey levels 0 to 1."""
        import torch

        batch = torch.from_numpy(np.stack([prepared(picture, self._scale) for picture in pictures]))
        with torch.inference_mode():
            output = self._module(batch)
        if not isinstance(output, torch.Tensor) or len(output) != len(pictures):
            raise InvalidRequest("the network of --features does not return a tensor of features")
        if output.ndim == 4:  # the network has no pooling at its end
            output = output.mean((2, 3))
        return np.asarray(output.flatten(1).float().numpy(), np.float32)


def prepared(picture: Greys, scale: Scale) -> NDArray[np.float32]:
    """Return a slice with grey levels 0 to 1 as a normalised colour picture `[3, 224, 224]`."""
    height, width = picture.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    fitted = np.asarray(
        Image.fromarray(square).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32
    )
    channels = [(fitted - m) / d for m, d in zip(scale.mean, scale.deviation, strict=True)]
    return np.asarray(channels, np.float32)


def _resnet(path: Path, weights: Any) -> tuple[Any, Scale]:
    """Return a ResNet without its last layer, and the scale of its pictures.

    The names of the weights give the depth. The weights have one of these forms:

    - torchvision's, with its names;
    - RadImageNet's for PyTorch (`ResNet50.pt`): the same network with numbered layers, because it
      is `nn.Sequential(*list(resnet50().children())[:9])`;
    - RadImageNet's for Keras, converted by `Warvito/radimagenet-models`, which upstream's
      `compute_fid_2-5d_ct.py` loads: torchvision's names, but the convolutions have biases, and the
      first convolution of a block has the stride.

    Raises `InvalidRequest` for other weights, and `MaisiError` without MONAI.
    """
    error = InvalidRequest(
        f"--features is '{path}', which does not have the weights of a ResNet; any other network"
        " must be saved as TorchScript"
    )
    if not isinstance(weights, dict):
        raise error
    names = [_unwrapped(str(key)) for key in weights]
    numbered = all(first in _SEQUENTIAL for first, *_ in names)
    if numbered:
        names = [[_SEQUENTIAL[first], *rest] for first, *rest in names]
    named = {".".join(name): value for name, value in zip(names, weights.values(), strict=True)}
    kept = {key: value for key, value in named.items() if not key.startswith("fc.")}
    depths = []
    for stage in range(1, 5):
        numbers = [int(key.split(".")[1]) for key in kept if key.startswith(f"layer{stage}.")]
        depths.append(max(numbers, default=-1) + 1)
    if depths not in _DEPTHS:
        raise error
    keras = "conv1.bias" in kept
    if keras:
        _fold_biases(kept)
    try:
        from monai.networks.nets import ResNet
    except ImportError:
        raise MaisiError(
            "weights of a ResNet need MONAI, which is not installed: pip install monai"
        ) from None
    module = ResNet(
        block="bottleneck" if "layer1.0.conv3.weight" in kept else "basic",
        layers=depths,
        block_inplanes=[64, 128, 256, 512],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    try:
        module.load_state_dict(kept)
    except RuntimeError:
        raise error from None
    if keras:
        _as_keras(module)
    return module.eval(), KERAS if keras else SIGNED if numbered else IMAGENET


def _fold_biases(weights: dict[str, Any]) -> None:
    """Subtract the bias of each convolution from the running mean of the next normalisation."""
    for key in [key for key in weights if key.endswith(".bias")]:
        layer, _, name = key.removesuffix(".bias").rpartition(".")
        if name.startswith("conv"):
            after = f"{layer}.bn{name[4:]}".lstrip(".")
        elif layer.endswith("downsample") and name == "0":
            after = f"{layer}.1"
        else:
            continue  # the bias of a normalisation
        mean = f"{after}.running_mean"
        weights[mean] = weights[mean] - weights.pop(key)


def _as_keras(module: Any) -> None:
    """Set the strides and the epsilon of a ResNet to those of Keras."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = _KERAS_EPSILON
    for stage in (module.layer2, module.layer3, module.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride


def _unwrapped(key: str) -> list[str]:
    """Return the parts of a weight's name without the names of wrapping modules."""
    return [part for part in key.split(".") if part not in ("module", "backbone", "model")]
