"""The thickness of slabs."""

from __future__ import annotations

import dataclasses

import pytest

from backends.slabs import budget
from backends.slabs.chain import Chain, Subgraph
from tests.backends.slabs.blur import Blur

GB = 10**9


def decoder() -> Chain:
    """Return the widest subgraph of the official decoder: 128 channels at full resolution to 64."""
    return Chain(
        "x",
        "y",
        {"x": 4, "y": 4},
        {"x": 128, "y": 64},
        4,
        (Subgraph(Blur(), "x", "y", None, None, 0, False),),
    )


def test_slabs_are_as_thick_as_is_useful_and_equally_thick() -> None:
    chain = decoder()
    plane = (128 + 64) * 4 * 4**3  # bytes a latent column
    assert budget.engine_bytes(chain, (1, 128, 128, 128, 128)) == 5 * plane * 32 * 32
    thickness = budget.divide(chain, (1, 128, 128, 128, 128), 8 * GB, 100e6)
    assert thickness == int(100e6 / (plane * 32 * 32)) == 1
    assert budget.divide(chain, (1, 128, 32, 32, 32), 8 * GB, 100e6) == 8  # 8 fit into one slab
    assert (
        budget.divide(chain, (1, 128, 72, 32, 32), 8 * GB, 100e6) == 9
    )  # 18: two of 9, not 16 and 2


def test_a_small_budget_gives_thin_slabs_of_at_least_one_plane() -> None:
    for memory, thickest in ((GB, 6), (10**8, 1), (10**6, 1), (0, 1)):
        thickness = budget.divide(decoder(), (1, 128, 64, 64, 64), memory, 100e6)
        assert 1 <= thickness <= thickest


def test_tensors_have_at_most_the_elements_of_a_convolution_on_a_gpu() -> None:
    up = dataclasses.replace(decoder().subgraphs[0], up=True)
    chain = Chain("x", "y", {"x": 2, "y": 4}, {"x": 128, "y": 64}, 2, (up,))
    # Doubled, the input has 4 t + 4 planes of 4 y x 4 z voxels.
    assert budget.elements(chain, 1, 128, 192, 9) == 128 * 40 * 512 * 768 <= 2**31 - 1
    assert budget.thickest(chain, 1, 128, 192) == 9
    assert budget.thickest(chain, 2, 128, 192) == 4
    assert budget.elements(chain, 1, 128, 256, 7) == 2**31
    assert budget.thickest(chain, 1, 128, 256) == 6
    boundless = 10**6 * GB
    assert budget.divide(chain, (1, 128, 256, 256, 512), boundless, 1e15) == 6
    with pytest.raises(ValueError, match=r"^x: 1 x 4096 x 4096 latent voxels .* 2147483647 are"):
        budget.divide(chain, (1, 128, 256, 8192, 8192), boundless, 1e15)


def test_no_slab_is_thicker_than_its_plans_were_built_for() -> None:
    chain = dataclasses.replace(decoder(), thickest=3)
    assert budget.divide(decoder(), (1, 128, 32, 32, 32), 8 * GB, 100e6) == 8
    assert budget.divide(chain, (1, 128, 32, 32, 32), 8 * GB, 100e6) == 3
