"""Place networks on GPUs, and size Triton's memory pool for tensors between models."""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

NETWORKS = ("onnxruntime", "slabs", "tensorrt_rtx")  # backends that run networks
_DRIVER = "libcuda.so.1"
_POOL = 64 << 20  # bytes of Triton's default pool
_ROWS = 2  # most rows of conditioning, the same as in backends/engines/guard.py
_REQUESTS = 2  # most requests per GPU, the same as in backends/maisi/gate.py
# A working request has each input of a call three times, because Triton 2.51 copies it twice
# (python_be.cc). A paused one has it once. On average that is twice.
_COPIES = 2


def parse(text: str) -> tuple[int, ...]:
    """Return the numbers in the option --gpus, () for `none`; raises ValueError."""
    words = [] if text in ("", "none") else text.split(",")
    if not all(re.fullmatch("[0-9]{1,4}", word) for word in words):
        raise ValueError(f"--gpus: {text!r}, but numbers of GPUs such as 0,1 or none are expected.")
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--gpus: {text!r}, but each GPU is expected once.")
    return numbers


def count(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Return the number of GPUs that CUDA finds; raises OSError without a working driver."""
    driver = load(_DRIVER)
    gpu_count = ctypes.c_int()
    if status := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(gpu_count)):
        raise OSError(f"CUDA's driver failed with status {status}")
    return gpu_count.value


def check(numbers: Collection[int], load: Callable[[str], Any] = ctypes.CDLL) -> None:
    """Raise ValueError if one of these GPUs does not exist."""
    if not numbers:
        return
    option = ",".join(map(str, numbers))
    try:
        gpu_count = count(load)
    except OSError as error:
        raise ValueError(f"--gpus: {option}, but no GPU can be used: {error}.") from None
    if max(numbers) >= gpu_count:
        raise ValueError(
            f"--gpus: {option}, but numbers below {gpu_count}, the number of GPUs, are expected."
        )


def select(
    choice: Collection[int] | None, load: Callable[[str], Any] = ctypes.CDLL
) -> tuple[int, ...]:
    """Return the GPUs for the networks: `choice`, or all GPUs if it is None."""
    if choice is not None:
        return tuple(choice)
    try:
        return tuple(range(count(load)))
    except OSError:
        return ()


def place(config: pb.ModelConfig, numbers: Collection[int]) -> None:
    """Set the instances of a variant's model: a network runs on each GPU, or else on the CPU.

    Sampler and decoder get an instance for each GPU, and the stream processes as many requests at a
    time.
    """
    devices = max(1, len(numbers))
    role = config.parameters["role"].string_value if config.backend == "maisi" else None
    if role == "stream":
        config.parameters["devices"].string_value = str(devices)
    elif role in ("sampler", "decoder"):
        config.instance_group[0].count = devices
    elif config.backend in NETWORKS:
        kind = pb.ModelInstanceGroup.KIND_GPU if numbers else pb.ModelInstanceGroup.KIND_CPU
        del config.instance_group[:]
        config.instance_group.add(count=1, kind=kind, gpus=numbers)


def read_config(path: Path) -> pb.ModelConfig:
    """Return the configuration of a model; raises ValueError if it cannot be parsed."""
    try:
        return text_format.Parse(path.read_text(), pb.ModelConfig())
    except text_format.ParseError as error:
        name = f"{path.parent.name}/{path.name}"
        raise ValueError(f"{name} is no configuration of a model: {error}.") from None


def pool_bytes(repository: Path, models: Collection[str]) -> int:
    """Return the bytes of Triton's memory pool on a GPU for tensors between models.

    The pool has space for the tensors of one call of the largest network, and for the copies of its
    inputs that Triton makes, for two requests. Tensors that do not fit are allocated outside of the
    pool. This is slower, and such tensors were reported to be lost. `models` has the names of the
    models to load.
    """
    largest = 0
    for model in models:
        path = repository / model / "config.pbtxt"
        config = read_config(path)
        # Outputs that the stages do not read (`_READ` in backends/maisi/inner_models.py) stay on
        # the GPU. The output of the mask encoder is an input of the flow.
        is_flow = model.endswith((".flow", ".flow_masked", ".mask_flow"))
        if is_flow and "network" in config.parameters:  # else it is of an earlier version
            largest = max(largest, _bytes(config))
    return max(_POOL, _REQUESTS * _COPIES * largest)


def _bytes(config: pb.ModelConfig) -> int:
    """Return the bytes of a network's inputs and outputs that depend on the largest volume."""
    contract = json.loads(config.parameters["network"].string_value)
    total = 0
    for tensor in (*config.input, *config.output):
        if len(tensor.dims) < 5:  # its size does not depend on the volume
            continue
        factor = contract["factors"].get(tensor.name, contract["factors"]["latent"])
        voxels = min(math.prod(contract["max"]), contract["max_voxels"]) // factor**3
        rows, channels = (int(dim) for dim in tensor.dims[:2])
        item = triton_to_np_dtype(pb.DataType.Name(tensor.data_type).removeprefix("TYPE_"))
        size = (_ROWS if rows == -1 else rows) * channels * voxels
        total += size * int(item().itemsize)
    return total
