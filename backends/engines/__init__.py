"""Networks in files, run in this process: what the backends of this folder share.

An engine is a network file that is loaded and runs on a device: the class `Engine` of
`onnx_runtime.py`, `openvino.py` and `tensorrt.py`.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
