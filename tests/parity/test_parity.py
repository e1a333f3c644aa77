"""Volumes of the server equal those of MONAI's networks and scheduler, grey level by grey level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import variant as variants
from export.arrays import Array
from tests.conftest import ROOT
from tests.export.repository_of_tiny import official
from tests.export.weights import tiny
from tests.parity.compare import compare
from tests.parity.conftest import Caller

CASES = {
    "cubic": ((32, 32, 32), 0.0, True),
    "guided": ((32, 32, 32), 3.0, True),
    "not cubic": ((32, 48, 64), 0.0, True),
    "padded and guided": ((37, 33, 50), 2.0, True),
    "without mask": ((32, 48, 32), 0.0, False),
    "without mask, padded and guided": ((33, 40, 32), 2.5, False),
}
# Ids of ddpm-ct, tumours of lung (23) and liver (26) among them; the topmost region is the chest.
CT = (0, 1, 5, 23, 26, 28, 30, 93, 200)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name",
    [
        *("cubic", "padded and guided", "without mask, padded and guided"),
        *(slow(name) for name in ("guided", "not cubic", "without mask")),
    ],
)
def test_the_shipped_weights(name: str, caller: Caller, mask: Callable[..., Array]) -> None:
    compare(variants.load("mini"), ROOT / "export" / "checkpoints", caller, CASES[name], mask)


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("cubic", 0.55),
        ("without mask, padded and guided", 0.0),
        ("without mask, padded and guided", 1.0),
        slow("cubic", 0.0),
        slow("cubic", 1.0),
        slow("without mask, padded and guided", 0.55),
    ],
)
def test_image_to_image(
    name: str, strength: float, caller: Caller, mask: Callable[..., Array]
) -> None:
    checkpoints = ROOT / "export" / "checkpoints"
    compare(variants.load("mini"), checkpoints, caller, CASES[name], mask, strength=strength)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["padded and guided", "without mask, padded and guided"])
def test_random_weights_of_another_variant(
    name: str, tiny_caller: Caller, tiny_repository: Path, mask: Callable[..., Array]
) -> None:
    compare(tiny(), tiny_repository, tiny_caller, CASES[name], mask)


@pytest.mark.parametrize(
    ("name", "regions"),
    [
        ("cubic", ("chest", "lower")),
        ("padded and guided", ("chest", "lower")),
        ("without mask", ("chest", "abdomen")),
    ],
)
def test_body_regions_and_ddpm(
    name: str,
    regions: tuple[str, str],
    official_callers: dict[str, Caller],
    official_repository: Path,
    mask: Callable[..., Array],
    strength: float | None = None,
) -> None:
    def make(*shape: int) -> Array:
        labels = mask(*shape, ids=CT)
        labels[labels == 30] = 200
        labels[:2, :2, :2] = 30
        return labels

    caller, variant = official_callers["tiny-ddpm"], official("tiny-ddpm")
    compare(variant, official_repository, caller, CASES[name], make, "ct", regions, strength)


def test_image_to_image_of_ct(
    official_callers: dict[str, Caller], official_repository: Path, mask: Callable[..., Array]
) -> None:
    regions = ("chest", "lower")
    test_body_regions_and_ddpm("cubic", regions, official_callers, official_repository, mask, 0.7)


def test_image_to_image_of_mr_from_any_scanner(
    official_callers: dict[str, Caller], official_repository: Path, mask: Callable[..., Array]
) -> None:
    caller, variant = official_callers["tiny-brain"], official("tiny-brain")
    compare(variant, official_repository, caller, CASES["without mask"], mask, strength=0.8)


@pytest.mark.parametrize("name", ["without mask", "without mask, padded and guided"])
def test_a_variant_without_masks(
    name: str,
    official_callers: dict[str, Caller],
    official_repository: Path,
    mask: Callable[..., Array],
) -> None:
    caller, variant = official_callers["tiny-brain"], official("tiny-brain")
    compare(variant, official_repository, caller, CASES[name], mask)


def test_the_comparison_sees_the_mask_guidance_and_spacing(
    caller: Caller, mask: Callable[..., Array]
) -> None:
    def image(**changes: Any) -> Array:
        inputs: dict[str, Any] = {
            "mask": mask(32, 32, 32),
            "seed": np.array([1]),
            "steps": np.array([2], np.int32),
        }
        return caller.volume(**inputs | changes)[0]

    plain = image()
    inside = mask(32, 32, 32) > 0
    lesion = mask(32, 32, 32)
    lesion[lesion == 22] = 176
    for change in (
        {"mask": lesion},
        {"guidance": np.array([3], np.float32)},
        {"spacing": np.array([3, 3, 3], np.float32)},
        {"modality": np.array([b"mri_swi"], object)},
        {"solver": np.array([b"heun"], object)},
    ):
        assert (image(**change) != plain)[inside].mean() > 0.1, change
