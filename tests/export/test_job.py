"""The size limit of a job."""

from __future__ import annotations

import pytest

from export import variant as variants
from export.job import limit


def test_a_limit_is_published_and_must_fit() -> None:
    limited = limit(variants.load("mini"), (128, 128, 96))
    assert limited.serving["size"]["max"] == [128, 128, 96]
    assert limited.serving["size"]["max_voxels"] == 128 * 128 * 96
    assert variants.load("mini").serving["size"]["max"] == [256, 256, 256]
    for size in ((128, 128, 100), (16, 128, 128), (128, 128, 512)):
        with pytest.raises(ValueError, match=r"max-size: .* must be multiples of 16 from"):
            limit(variants.load("mini"), size)
