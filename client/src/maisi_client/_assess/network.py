"""Features of slices by a network from a file, by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._errors import InvalidRequest, MaisiError, first_line
from .harmonising import Greys

_SIDE = 224  # pixels of the network's input, as ImageNet's and RadImageNet's are
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_DEPTHS = ([2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 23, 3], [3, 8, 36, 3])  # of ResNet-18 to 152
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class Network:
    """A network that maps pictures `[N, 3, 224, 224]` to features."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @staticmethod
    @lru_cache(maxsize=1)
    def load(path: Path) -> Network:
        """Read a TorchScript file, or weights of a ResNet of torchvision's (RadImageNet's, too).

        Raises `MaisiError` without PyTorch, or without MONAI for weights; `InvalidRequest` for
        another file.
        """
        try:
            import torch
        except ImportError:
            raise MaisiError(
                "--features needs PyTorch, which is not installed: pip install torch"
            ) from None
        torch.set_num_threads(1)  # the processes share the processors
        try:
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return Network(module.eval())
        except (RuntimeError, ValueError, OSError):
            pass  # no TorchScript
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch raise anything
            raise InvalidRequest(
                f"--features is '{path}', neither TorchScript nor weights: {first_line(error)}"
            ) from error
        return Network(_resnet(path, weights))

    def __call__(self, pictures: Sequence[Greys]) -> NDArray[np.float32]:
        """Return features `[N, F]` of slices of grey levels 0 to 1, each fitted into a square."""
        import torch

        batch = torch.from_numpy(np.stack([_prepared(picture) for picture in pictures]))
        with torch.inference_mode():
            output = self._module(batch)
        if not isinstance(output, torch.Tensor) or len(output) != len(pictures):
            raise InvalidRequest("the network of --features does not return a tensor of features")
        if output.ndim == 4:  # without its pooling
            output = output.mean((2, 3))
        return np.asarray(output.flatten(1).float().numpy(), np.float32)


def _prepared(picture: Greys) -> NDArray[np.float32]:
    """Return a slice as a colour picture `[3, 224, 224]` on ImageNet's scale."""
    height, width = picture.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    fitted = np.asarray(
        Image.fromarray(square).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32
    )
    channels = [(fitted - m) / d for m, d in zip(_MEAN, _DEVIATION, strict=True)]
    return np.asarray(channels, np.float32)


def _resnet(path: Path, weights: Any) -> Any:
    """Return a ResNet without its last layer, of the depth that the names of its weights give."""
    wanted = InvalidRequest(
        f"--features is '{path}', which has no weights of a ResNet; another network is to be saved"
        " as TorchScript"
    )
    if not isinstance(weights, dict):
        raise wanted
    named = {_name(str(key)): value for key, value in weights.items()}
    kept = {key: value for key, value in named.items() if not key.startswith("fc.")}
    depths = []
    for stage in range(1, 5):
        numbers = [int(key.split(".")[1]) for key in kept if key.startswith(f"layer{stage}.")]
        depths.append(max(numbers, default=-1) + 1)
    if depths not in _DEPTHS:
        raise wanted
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
        raise wanted from None
    return module.eval()


def _name(key: str) -> str:
    """Return torchvision's name of a weight, whatever wraps the network."""
    parts = [part for part in key.split(".") if part not in ("module", "backbone", "model")]
    if parts and parts[0] in _SEQUENTIAL:
        parts[0] = _SEQUENTIAL[parts[0]]
    return ".".join(parts)
