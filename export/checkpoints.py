"""Checkpoint files, read without running what is in them, and fitted to networks strictly."""

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

# Where torch.save files of NV-Generate-CTMR keep the weights (scripts/diff_model_train.py,
# train_controlnet.py); a file without such a key is a state dict itself.
_KEYS = ("unet_state_dict", "controlnet_state_dict")
# What MONAI's training leaves beside the weights: numbers, which are data. How a numpy scalar is
# made has one name in files of numpy 1 and another in those of numpy 2.
_SCALAR = np.float64(0).__reduce__()[0]


def _member(owner: Any, name: str) -> Any:
    """Return a member of an enumeration; what else `getattr` could reach stays out of reach."""
    if not isinstance(owner, EnumMeta):
        raise ValueError("Unsupported GLOBAL getattr")
    return owner[name]


_SAFE: list[Any] = [
    # How Python before 3.11.4 writes the enumerations that MetaTensor holds.
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
    """What a file holds: `state` by parameter name, and the sha256 of it all.

    `scale_factor` is what latents were multiplied by in training, where the file tells.
    """

    state: dict[str, torch.Tensor]
    scale_factor: float | None
    digest: str


def read(path: Path, role: str) -> Checkpoint:
    """Read the checkpoint of `role` from a torch.save or safetensors file.

    Nothing in the file is run, and tensors stay on disk until used where the format allows that.
    Raises FileNotFoundError, and ValueError with a sentence for a file that holds code, is
    truncated, or is no checkpoint.
    """
    where = f"checkpoint: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{where} does not exist")
    try:
        digest = sha256(path)
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    is_safetensors = path.suffix == ".safetensors"
    state, scale = _safetensors(path, where) if is_safetensors else _torch(path, where)
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{where}: scale_factor is {scale}, and a number above 0 is allowed")
    if not state:
        raise ValueError(f"{where} holds no weights for {role}")
    return Checkpoint(state, scale, digest)


def fit(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    where: str,
    fallback: Mapping[str, torch.Tensor] | None = None,
) -> list[str]:
    """Load `state` into `network`, every parameter accounted for; return the keys not used.

    A key that `state` lacks is taken from `fallback` if that has it in the right shape, as
    upstream gives a ControlNet the weights of its UNet (MONAI's copy_model_state). Raises
    ValueError, with `where` in front, for a missing key, a wrong shape, and values not finite.
    """
    own, chosen = network.state_dict(), {}
    missing = []
    for key, wanted in own.items():
        given = state.get(key)
        if given is None and fallback is not None:
            given = fallback.get(key)
            given = None if given is None or given.shape != wanted.shape else given
        if given is None:
            missing.append(key)
        elif given.shape != wanted.shape:
            raise ValueError(
                f"{where}: {key} has shape {list(given.shape)}, and the network of this variant "
                f"takes {list(wanted.shape)}"
            )
        elif given.is_floating_point() != wanted.is_floating_point():
            raise ValueError(f"{where}: {key} is {given.dtype}, and {wanted.dtype} is wanted")
        elif given.is_floating_point() and not given.isfinite().all():
            raise ValueError(f"{where}: {key} holds NaN or infinite values")
        else:
            chosen[key] = given
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} of the network's {len(own)} parameters, "
            f"{missing[0]} for one"
        )
    network.load_state_dict(chosen, strict=True)
    return sorted(set(state) - set(own))


def _safetensors(path: Path, where: str) -> tuple[dict[str, torch.Tensor], float | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        reason = _line(error)
        raise ValueError(f"{where} is truncated or no safetensors file: {reason}") from error
    scale = metadata.get("scale_factor")
    return state, None if scale is None else _number(scale, where)


def _torch(path: Path, where: str) -> tuple[dict[str, torch.Tensor], float | None]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_SAFE):
            warnings.simplefilter("ignore")  # about formats; what follows says it in a sentence
            # Files older than PyTorch 1.6 are no archives, and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes the unpickler raise anything
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{where} holds code ({found[1]}), and only weights are read: save the state dict "
                "alone"
            ) from error
        raise ValueError(
            f"{where} is truncated, or is no file of torch.save with weights alone"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {type(content).__name__}, and a state dict is wanted")
    state = next((content[key] for key in _KEYS if key in content), content)
    if not isinstance(state, dict):
        raise ValueError(f"{where} holds {type(state).__name__} in place of a state dict")
    weights = {
        key: value.detach().as_subclass(torch.Tensor)
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor) and key != "scale_factor"
    }
    scale = content.get("scale_factor")
    return weights, None if scale is None else _number(scale, where)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: scale_factor is not one number: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
