"""The backend `onnxruntime`: networks in ONNX files; see `backends/engines/network.py`.

It replaces Triton's backend of the same name, which would compute for any client.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines.network import TritonPythonModel

__all__ = ["TritonPythonModel"]
