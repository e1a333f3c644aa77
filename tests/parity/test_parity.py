"""What the server gives is what MONAI's networks and scheduler give, grey level by grey level."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import networks, variant
from export.variant import Variant
from tests.conftest import ROOT
from tests.export.weights import tiny
from tests.parity import reference
from tests.parity.conftest import Array, Caller

CASES = {
    "cubic": ((32, 32, 32), 0.0, True),
    "guided": ((32, 32, 32), 3.0, True),
    "not cubic": ((32, 48, 64), 0.0, True),
    "padded and guided": ((37, 33, 50), 2.0, True),
    "without mask": ((32, 48, 32), 0.0, False),
    "without mask, padded and guided": ((33, 40, 32), 2.5, False),
}


def compare(
    chosen: Variant,
    checkpoints: Path,
    caller: Caller,
    case: tuple[tuple[int, int, int], float, bool],
    make_mask: Callable[..., Array],
) -> None:
    """Generate both ways from the same noise; at most one level apart on 99.9 % of voxels."""
    shape, guidance, masked = case
    padded = tuple(-(-side // 16) * 16 for side in shape)
    noise = np.random.default_rng(1).standard_normal((1, 4, *(s // 4 for s in padded)), np.float32)
    x, y, z = shape
    given: dict[str, Any] = {"size": np.array(shape, np.int32)}
    grid = None
    if masked:
        given = {"mask": make_mask(*shape)}
        grid = np.zeros(padded, np.uint8)
        grid[:x, :y, :z] = given["mask"]
    image, report = caller.volume(
        **given,
        latent=noise,
        steps=np.array([4], np.int32),
        guidance=np.array([guidance], np.float32),
        spacing=np.array([1.5, 2, 0.9], np.float32),
        modality=np.array([b"mri_flair"], object),
    )
    loaded = networks.load(chosen, checkpoints)
    organs = {int(lesion): organ for lesion, organ in chosen.serving["lesions"].items()}
    truth = reference.volume(loaded, noise, grid, 11, (1.5, 2.0, 0.9), 4, guidance, organs)
    truth = truth[:x, :y, :z]
    if masked:
        truth[given["mask"] == 0] = 0
    assert image.shape == shape
    assert image.dtype == np.int16
    assert report["masked"] == masked
    assert truth.std() > 10, "the reference is flat: it could not tell right from wrong"
    assert (np.abs(image - truth) <= 1).mean() >= 0.999


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_shipped_weights(case: Any, caller: Caller, mask: Callable[..., Array]) -> None:
    compare(variant.load("mini"), ROOT / "export" / "checkpoints", caller, case, mask)


@pytest.mark.parametrize("name", ["padded and guided", "without mask, padded and guided"])
def test_random_weights_of_another_variant(
    name: str, tiny_caller: Caller, tiny_repository: Path, mask: Callable[..., Array]
) -> None:
    compare(tiny(), tiny_repository, tiny_caller, CASES[name], mask)


def test_the_comparison_sees_the_mask_guidance_and_spacing(
    tiny_caller: Caller, mask: Callable[..., Array]
) -> None:
    def made(**changed: Any) -> Array:
        given: dict[str, Any] = {
            "mask": mask(32, 32, 32),
            "seed": np.array([1]),
            "steps": np.array([2], np.int32),
        }
        return tiny_caller.volume(**given | changed)[0]

    plain = made()
    inside = mask(32, 32, 32) > 0
    lesion = mask(32, 32, 32)
    lesion[lesion == 22] = 176
    for changed in (
        {"mask": lesion},
        {"guidance": np.array([3], np.float32)},
        {"spacing": np.array([3, 3, 3], np.float32)},
        {"modality": np.array([b"mri_swi"], object)},
        {"solver": np.array([b"heun"], object)},
    ):
        assert (made(**changed) != plain)[inside].mean() > 0.1, changed
