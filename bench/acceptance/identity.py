"""Identify this machine and its installed packages."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench import page
from bench.acceptance import libcuda

PACKAGES = (
    *("numpy", "torch", "monai", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("cupy-cuda13x", "tensorrt", "tensorrt_rtx_cu13", "nvidia-pytriton", "tritonclient"),
)


def machine_and_packages() -> dict[str, Any]:
    """Return this machine, its GPU and driver, and the versions of packages."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    gpu, words = libcuda.first(), [page.machine()]
    if gpu:
        words += [gpu.name, f"driver {libcuda.driver()}, CUDA {libcuda.cuda()}"]
    return {"machine": words, "packages": versions}
