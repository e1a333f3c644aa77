"""What the server gives is what MONAI's networks and scheduler give, grey level by grey level."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import networks, reference, variant
from export.variant import Variant
from tests.conftest import ROOT
from tests.export.repository_of_tiny import official
from tests.export.weights import tiny
from tests.parity.conftest import Array, Caller

CASES = {
    "cubic": ((32, 32, 32), 0.0, True),
    "guided": ((32, 32, 32), 3.0, True),
    "not cubic": ((32, 48, 64), 0.0, True),
    "padded and guided": ((37, 33, 50), 2.0, True),
    "without mask": ((32, 48, 32), 0.0, False),
    "without mask, padded and guided": ((33, 40, 32), 2.5, False),
}
SEED, STEPS, SPACING = 2**40 + 7, 4, (1.5, 2.0, 0.9)
# Ids of ddpm-ct, tumours of lung (23) and liver (26) among them; the topmost region is the chest.
CT = (0, 1, 5, 23, 26, 28, 30, 93, 200)


def compare(
    chosen: Variant,
    checkpoints: Path,
    caller: Caller,
    case: tuple[tuple[int, int, int], float, bool],
    make_mask: Callable[..., Array],
    modality: str = "mri_flair",
    regions: tuple[str, str] | None = None,
    strength: float | None = None,
) -> None:
    """Generate both ways from the same noise; at most one level apart on 99.9 % of voxels.

    With a `strength`, from the same image.
    """
    shape, guidance, masked = case
    serving = chosen.serving
    multiple = serving["size"]["multiple"]
    padded = tuple(-(-side // multiple) * multiple for side in shape)
    noise = np.random.default_rng(1).standard_normal((1, 4, *(s // 4 for s in padded)), np.float32)
    x, y, z = shape
    given: dict[str, Any] = {"size": np.array(shape, np.int32)}
    grid = healthy = None
    if masked:
        given = {"mask": make_mask(*shape)}
        grid = np.zeros(padded, np.uint8)
        grid[:x, :y, :z] = given["mask"]
        healthy = grid.copy()
        for lesion, organ in serving["lesions"].items():
            healthy[grid == int(lesion)] = organ
        if "lesion_neighbours" in serving:
            healthy[grid == 23] = 28  # see CT: its lobes are 28 and, rarer, 30
    more: dict[str, Any] = {}
    if strength is not None:
        source = np.random.default_rng(2).gamma(2, 200, shape).astype(np.float32)
        given = {key: given[key] for key in given if key != "size"}
        given |= {"source": source, "strength": np.array([strength], np.float32)}
        more = {
            "source": np.pad(
                unit(serving, source), [(0, p - s) for p, s in zip(padded, shape, strict=True)]
            )
        }
        more["strength"] = strength
    image, report = caller.volume(
        **given,
        latent=noise,
        seed=np.array([SEED]),
        steps=np.array([STEPS], np.int32),
        guidance=np.array([guidance], np.float32),
        spacing=np.array(SPACING, np.float32),
        modality=np.array([modality.encode()], object),
    )
    loaded = networks.load(chosen, checkpoints)
    rows: dict[str, Any] = {"spacing_tensor": SPACING}
    if loaded.diffusion_unet.num_class_embeds is not None:
        rows["class_labels"] = [serving["modalities"][modality]]
    if regions is not None:
        assert (report["top_region"], report["bottom_region"]) == regions
        for end, region in zip(("top", "bottom"), regions, strict=True):
            names = ["head", "chest", "abdomen", "lower"]
            rows[f"{end}_region_index_tensor"] = [float(name == region) for name in names]
    fresh = reference.fresh_noise(SEED, noise.shape) if serving["solvers"] == ["ddpm"] else None
    truth = reference.volume(loaded, noise, rows, STEPS, guidance, fresh, grid, healthy, **more)
    low, high = (-1000, 1000) if modality == "ct" else (0, 1000)
    truth = truth[:x, :y, :z].clip(0, 1 if modality == "ct" else None) * (high - low) + low
    if masked:
        truth[given["mask"] == 0] = low
    assert image.shape == shape
    assert image.dtype == np.int16
    assert report["masked"] == masked
    assert truth.std() > 10, "the reference is flat: it could not tell right from wrong"
    assert (np.abs(image - truth) <= 1).mean() >= 0.999


def unit(serving: dict[str, Any], source: Array) -> Array:
    """Put grey levels onto 0..1 as upstream's transforms do."""
    scale = serving["intensity"]
    low, high = scale["min"], scale["max"]
    if "percentile" in scale:
        low, high = np.percentile(source, 0), np.percentile(source, scale["percentile"])
    found = (source - low) / (high - low)
    return (found.clip(0, 1) if scale["clip_above"] else found.clip(0)).astype(np.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_shipped_weights(case: Any, caller: Caller, mask: Callable[..., Array]) -> None:
    compare(variant.load("mini"), ROOT / "export" / "checkpoints", caller, case, mask)


@pytest.mark.parametrize("strength", [0.0, 0.55, 1.0])
@pytest.mark.parametrize("name", ["cubic", "without mask, padded and guided"])
def test_image_to_image(
    name: str, strength: float, caller: Caller, mask: Callable[..., Array]
) -> None:
    checkpoints = ROOT / "export" / "checkpoints"
    compare(variant.load("mini"), checkpoints, caller, CASES[name], mask, strength=strength)


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
        made = mask(*shape, ids=CT)
        made[made == 30] = 200
        made[:2, :2, :2] = 30
        return made

    caller, chosen = official_callers["tiny-ddpm"], official("tiny-ddpm")
    compare(chosen, official_repository, caller, CASES[name], make, "ct", regions, strength)


def test_image_to_image_of_ct(
    official_callers: dict[str, Caller], official_repository: Path, mask: Callable[..., Array]
) -> None:
    regions = ("chest", "lower")
    test_body_regions_and_ddpm("cubic", regions, official_callers, official_repository, mask, 0.7)


def test_image_to_image_of_mr_from_any_scanner(
    official_callers: dict[str, Caller], official_repository: Path, mask: Callable[..., Array]
) -> None:
    caller, chosen = official_callers["tiny-brain"], official("tiny-brain")
    compare(chosen, official_repository, caller, CASES["without mask"], mask, strength=0.8)


@pytest.mark.parametrize("name", ["without mask", "without mask, padded and guided"])
def test_a_variant_without_masks(
    name: str,
    official_callers: dict[str, Caller],
    official_repository: Path,
    mask: Callable[..., Array],
) -> None:
    caller, chosen = official_callers["tiny-brain"], official("tiny-brain")
    compare(chosen, official_repository, caller, CASES[name], mask)


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
