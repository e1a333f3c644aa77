"""The first row of a tensor by DLPack, exported and imported by PyTorch and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from backends.maisi.dlpack import import_first_row


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2,), (1, 3)])
def test_the_first_row_is_the_same_memory(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    rows = torch.arange(np.prod(shape)).reshape(shape).to(kind)
    row = import_first_row(to_dlpack(rows), from_dlpack)
    assert row.dtype == kind
    assert torch.equal(row, rows[:1])
    assert row.data_ptr() == rows.data_ptr()
    rows[0] = 9
    assert (row == 9).all()


def test_the_exporter_keeps_its_shape_and_the_row_outlives_it() -> None:
    class Exporter:
        """Exports one capsule to numpy."""

        def __init__(self, capsule: Any) -> None:
            self.capsule = capsule

        def __dlpack__(self, **options: Any) -> Any:
            return self.capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    rows = np.arange(12.0).reshape(2, 6)
    row = import_first_row(rows.__dlpack__(), lambda capsule: np.from_dlpack(Exporter(capsule)))
    assert rows.shape == (2, 6)
    del rows
    assert row.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_shape_is_restored_when_the_import_fails() -> None:
    def refuse(capsule: Any) -> Any:
        raise MemoryError

    capsule = to_dlpack(torch.zeros(2, 3))
    with pytest.raises(MemoryError):
        import_first_row(capsule, refuse)
    assert from_dlpack(capsule).shape == (2, 3)


def test_an_object_that_is_no_capsule_is_refused() -> None:
    capsule = to_dlpack(torch.zeros(2))
    from_dlpack(capsule)
    for wrong in (capsule, "capsule"):
        with pytest.raises(ValueError):
            import_first_row(wrong, from_dlpack)
