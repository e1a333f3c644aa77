"""OpenVINO: the fastest library for these networks on a CPU, see docs/benchmarks.md."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

INSTALL = "pip install openvino==2026.4.1"

Array = npt.NDArray[Any]


def cores() -> int:
    """Count the cores this process may use: its affinity, capped by the container's CPU quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or its quota is "max"
        return count


class Engine:
    """An ONNX file on the CPU, in float32 whatever its weights are."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the file; `threads` 0: every core we may use.

        Raises RuntimeError when it cannot be loaded, and where OpenVINO is not installed.
        """
        try:
            import openvino
        except ImportError as error:
            raise RuntimeError(f"this server lacks OpenVINO ({error}): {INSTALL}") from None
        self.compiled = openvino.Core().compile_model(
            str(path),
            "CPU",
            {
                # Where the CPU has bfloat16, OpenVINO by itself would compute in that.
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads or cores(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self.request = self.compiled.create_infer_request()
        self.outputs = {port.get_any_name(): port for port in self.compiled.outputs}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs [by name], which the next call overwrites.

        Raises RuntimeError for inputs that do not fit.
        """
        self.request.infer(dict(feeds), share_inputs=True)
        return {name: self.request.get_tensor(port).data for name, port in self.outputs.items()}

    def release(self) -> None:
        """Give back the memory that runs have taken; outputs are gone with it."""
        self.request = self.compiled.create_infer_request()
        self.compiled.release_memory()
        ctypes.CDLL(None).malloc_trim(0)  # glibc would keep what its threads have freed


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server and no source file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join((lines or [type(error).__name__])[-1].split())
    text = text if folder is None else text.replace(f"{folder}/", "")
    return "OpenVINO: " + re.sub(r"(?<!\w)/\S*/", "", text)
