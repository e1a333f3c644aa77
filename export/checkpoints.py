"""Checkpoint files: read without running code from them, and loaded into networks strictly."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import EnumMeta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from safetensors import SafetensorError, safe_open
from torch import nn

from export.files import sha256

# Keys of the weights in torch.save files of NV-Generate-CTMR (scripts/diff_model_train.py,
# train_controlnet.py); a file without such a key is itself a state dict.
_KEYS = ("unet_state_dict", "controlnet_state_dict")
# MONAI's training stores numpy scalars beside the weights. The function that unpickles a scalar has
# one name in files of numpy 1 and another in those of numpy 2.
_SCALAR = np.float64(0).__reduce__()[0]


def _member(owner: Any, name: str) -> Any:
    """Return a member of an enumeration, in place of `getattr`, which returns any object."""
    if not isinstance(owner, EnumMeta):
        raise ValueError("Unsupported GLOBAL getattr")
    return owner[name]


_SAFE: list[Any] = [
    # The form in which Python before 3.11.4 pickles the enumerations of MetaTensor.
    (_member, "builtins.getattr"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    MetaTensor,
]


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: `state` by parameter name, and the sha256 of the file.

    `scale_factor` is the factor of latents in training, None where the file has none.
    """

    state: dict[str, torch.Tensor]
    scale_factor: float | None
    digest: str


def read(path: Path, role: str) -> Checkpoint:
    """Read the checkpoint of `role` from a torch.save or safetensors file.

    No code from the file runs, and tensors stay on disk until used where the format allows that.
    Raises FileNotFoundError, and ValueError for a file that holds code, is truncated, or is not a
    checkpoint.
    """
    prefix = f"checkpoint: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{prefix} does not exist")
    try:
        digest = sha256(path)
    except OSError as error:
        raise ValueError(f"{prefix} cannot be read: {error.strerror}") from error
    is_safetensors = path.suffix == ".safetensors"
    state, scale = _safetensors(path, prefix) if is_safetensors else _torch(path, prefix)
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{prefix}: scale_factor is {scale}, but a number above 0 is expected")
    if not state:
        raise ValueError(f"{prefix} holds no weights for {role}")
    return Checkpoint(state, scale, digest)


def fit(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    prefix: str,
    fallback: Mapping[str, torch.Tensor] | None = None,
) -> list[str]:
    """Load `state` into `network`, which sets every parameter; return the unused keys.

    A key that `state` lacks is read from `fallback` if its shape fits, as upstream copies the
    weights of a UNet to its ControlNet (MONAI's copy_model_state). Raises ValueError, prefixed with
    `prefix`, for a missing key, a wrong shape or type, and values that are not finite.
    """
    parameters, tensors = network.state_dict(), {}
    missing = []
    for key, parameter in parameters.items():
        tensor = state.get(key)
        if tensor is None and fallback is not None:
            tensor = fallback.get(key)
            tensor = None if tensor is None or tensor.shape != parameter.shape else tensor
        if tensor is None:
            missing.append(key)
        elif tensor.shape != parameter.shape:
            raise ValueError(
                f"{prefix}: {key} has shape {list(tensor.shape)}, and the network of this variant "
                f"takes {list(parameter.shape)}"
            )
        elif tensor.is_floating_point() != parameter.is_floating_point():
            raise ValueError(
                f"{prefix}: {key} is {tensor.dtype}, but {parameter.dtype} is expected"
            )
        elif tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{prefix}: {key} holds NaN or infinite values")
        else:
            tensors[key] = tensor
    if missing:
        raise ValueError(
            f"{prefix} lacks {len(missing)} of the network's {len(parameters)} parameters, "
            f"{missing[0]} for one"
        )
    network.load_state_dict(tensors, strict=True)
    return sorted(set(state) - set(parameters))


def _safetensors(path: Path, prefix: str) -> tuple[dict[str, torch.Tensor], float | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        reason = _line(error)
        raise ValueError(f"{prefix} is truncated or not a safetensors file: {reason}") from error
    scale = metadata.get("scale_factor")
    return state, None if scale is None else _number(scale, prefix)


def _torch(path: Path, prefix: str) -> tuple[dict[str, torch.Tensor], float | None]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_SAFE):
            warnings.simplefilter("ignore")  # about formats; the errors below are clearer
            # Files of PyTorch before 1.6 are not zip archives and cannot be memory-mapped.
            mmap = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # for a damaged file the unpickler raises any exception
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{prefix} holds code ({match[1]}), and only weights are read: save the state dict "
                "alone"
            ) from error
        raise ValueError(
            f"{prefix} is truncated, or is not a file of torch.save with only weights"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{prefix} holds {type(content).__name__}, but a state dict is expected")
    state = next((content[key] for key in _KEYS if key in content), content)
    if not isinstance(state, dict):
        raise ValueError(f"{prefix} holds {type(state).__name__} in place of a state dict")
    weights = {
        key: value.detach().as_subclass(torch.Tensor)
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor) and key != "scale_factor"
    }
    scale = content.get("scale_factor")
    return weights, None if scale is None else _number(scale, prefix)


def _number(value: Any, prefix: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{prefix}: scale_factor is not one number: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
