"""Run networks from files in this process; all backends of this folder use these modules.

An engine is a network file that is loaded on a device: the class `Engine` of `onnx_runtime.py`,
`openvino.py` and `tensorrt.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

# Returns the array that an output is written to, or None for an array of the engine's own. Its
# arguments: the output's name, its shape [R, C, X, Y, Z] and dtype, and whether C is innermost in
# memory.
Target = Callable[[str, tuple[int, ...], Any, bool], Any]
