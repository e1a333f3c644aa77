"""Select the first row of a tensor, which may be on a GPU, without an array library for GPUs.

A tensor in C order begins with its first row, so the row is the same memory with a shorter shape.
Triton exports and imports tensors by DLPack, which stores the shape in a C struct.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")


class _DLTensor(ctypes.Structure):
    """The head of DLManagedTensor, https://dmlc.github.io/dlpack/latest/c_api.html."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def first_row(name: str, value: Any) -> Any:
    """Return the first row of a numpy array, or of Triton's tensor as a tensor called `name`.

    The memory is not copied.
    """
    if isinstance(value, np.ndarray):
        return value[:1]
    importer = functools.partial(type(value).from_dlpack, name)
    return import_first_row(value.to_dlpack(), importer)


def import_first_row(capsule: Any, importer: Callable[[Any], _T]) -> _T:
    """Return the result of `importer` for a DLPack capsule whose tensor is cut to its first row.

    `capsule` has a tensor in C order that is not imported yet, and keeps its memory alive.
    `importer` must copy the shape, as every importer does whose tensor outlives the exporter's.
    Raises ValueError for an object that is not such a capsule.
    """
    tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    rows = tensor.shape[0]
    # Restore the shape afterwards, because it may belong to the exporter.
    tensor.shape[0] = 1
    try:
        return importer(capsule)
    finally:
        tensor.shape[0] = rows
