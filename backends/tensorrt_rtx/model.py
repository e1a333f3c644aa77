"""The backend `tensorrt_rtx`: networks in plans of TensorRT, see `backends/engines/network.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines.network import TritonPythonModel

__all__ = ["TritonPythonModel"]
