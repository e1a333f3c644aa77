"""Run networks from files in this process; all backends of this folder use these modules.

An engine is a network file that is loaded on a device: the class `Engine` of `onnx_runtime.py`,
`openvino.py` and `tensorrt.py`.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
