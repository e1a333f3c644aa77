"""Masks are translated, completed, generated and resampled."""

from __future__ import annotations

from typing import Any

import monai.transforms
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from backends.maisi import masks
from backends.maisi.advice import warnings
from backends.maisi.errors import InvalidRequest
from backends.maisi.request import complete
from export import variant

Array = np.ndarray[Any, Any]
Variant = dict[str, Any]
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="session")
def ct() -> Variant:
    parameter = variant.load("rflow-ct").parameter({})
    small = parameter["mask_generation"] | {"size": [32, 64, 32], "steps": 4}
    return parameter | {"mask_generation": small}


def text(value: str) -> Array:
    return np.array([value], object)


@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((40, 40, 40), (1.5, 1.5, 1.5)),
        ((20, 33, 64), (1.5, 2.0, 0.7)),
        ((24, 90, 16), (0.8, 0.8, 3.0)),
        ((41, 17, 30), (1.37, 2.9, 1.5)),
    ],
)
def test_it_is_resampled_as_upstream(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    mask = RANDOM.integers(0, 200, (32, 40, 24)).astype(np.uint8)
    image = MetaTensor(
        torch.from_numpy(mask)[None], affine=torch.diag(torch.tensor([1.5] * 3 + [1.0]))
    )
    respace = monai.transforms.Spacing(pixdim=spacing, mode="nearest")
    crop_or_pad = monai.transforms.ResizeWithPadOrCrop(spatial_size=size)
    truth = crop_or_pad(respace(image))[0].numpy()
    resampled = masks.resample(mask, (1.5, 1.5, 1.5), size, spacing)
    assert resampled.shape == size
    assert (resampled == truth).mean() > 0.999  # halves may be rounded either way


def test_a_vocabulary_is_translated_before_the_checks(ct: Variant) -> None:
    mask = np.zeros((32, 32, 32), np.uint8)
    mask[8:20, 8:20, 8:20], mask[20:24, 8:20, 8:20] = 2, 200 - 199
    inputs = {"mask": mask, "vocabulary": text("totalsegmentator-v2")}
    translated = masks.translate(ct, inputs)["mask"]
    assert (translated[mask == 2] == 5).all()  # the right kidney
    assert (translated[mask == 1] == 3).all()  # the spleen
    assert masks.translate(ct, {"mask": mask})["mask"] is mask
    with pytest.raises(InvalidRequest, match="vocabulary: needs a mask"):
        masks.translate(ct, {"vocabulary": text("maisi-124")})


def test_the_body_is_added_only_where_it_is_missing(ct: Variant) -> None:
    mask = np.zeros((48, 48, 32), np.uint8)
    mask[16:32, 16:32, 8:24] = 1
    inputs = {"mask": mask, "spacing": np.array([3, 3, 3], np.float32)}
    plan = complete(ct, inputs)
    assert plan.body_added
    filled = masks.add_body_and_augment(ct, plan, inputs)
    assert filled is not None
    assert (filled[mask == 1] == 1).all()
    assert filled[14, 24, 16] == 200
    assert filled[0, 0, 16] == 0
    inputs["mask"] = filled
    plan = complete(ct, inputs)
    assert not plan.body_added
    assert masks.add_body_and_augment(ct, plan, inputs) is filled


def test_the_body_is_taken_from_a_source(ct: Variant) -> None:
    mask = np.zeros((48, 48, 48), np.uint8)
    mask[20:28, 20:28, 20:28] = 1
    image = np.full(mask.shape, -1000, np.float32)
    image[8:40, 12:36, :] = 40
    inputs = {"mask": mask, "source": image}
    filled = masks.add_body_and_augment(ct, complete(ct, inputs), inputs)
    assert filled is not None
    assert (filled[10:38, 14:34] > 0).all()
    assert (filled[image == -1000] == 0).all()


def test_a_mask_is_generated_step_by_step(ct: Variant) -> None:
    network_calls: list[tuple[str, dict[str, Any]]] = []

    def engine(model: str, inputs: dict[str, Any], outputs: Any) -> list[Any]:
        network_calls.append((model, inputs))
        if model == "mask_flow":
            return [inputs["latent"] * 0.5]
        labels = np.zeros((1, 32, 64, 32), np.uint8)
        labels[:, 4:28, 8:56, 4:28] = 200
        labels[:, 8:16, 16:40, 8:24] = 1
        labels[:, 10:12, 20:24, 12:16] = 26  # a tumour that was not requested
        return [labels]

    progress: list[tuple[int, int]] = []
    inputs = {
        "anatomy": text("liver=0.7"),
        "seed": np.array([3]),
        "size": np.array([32, 64, 32]),
        "spacing": np.array([1.5] * 3, np.float32),
    }
    plan = complete(ct, inputs)
    assert plan.masked
    mask = masks.generate(ct, plan, engine, lambda *steps_done: progress.append(steps_done))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [model for model, _ in network_calls] == ["mask_flow"] * 4 + ["mask_decoder"]
    assert [float(inputs["timestep"][0]) for _, inputs in network_calls[:-1]] == [999, 666, 333, 0]
    first, second = network_calls[0][1], network_calls[1][1]
    assert first["latent"].shape == (1, 4, 8, 16, 8)
    assert (first["z"] != second["z"]).any()
    np.testing.assert_allclose(first["anatomy_sizes"], [[0.5, 0.7, 0.5, 0.5, 0.5] + [-1] * 5])
    assert set(np.unique(mask)) == {0, 1, 200}
    repeated = masks.generate(ct, plan, engine, lambda *steps_done: None)
    assert (repeated == mask).all()


def test_a_head_is_generated_by_rectified_flow_and_cleaned_as_a_head(head: Variant) -> None:
    network_calls: list[dict[str, Any]] = []

    def engine(model: str, inputs: dict[str, Any], outputs: Any) -> list[Any]:
        if model == "mask_flow":
            network_calls.append(inputs)
            return [inputs["latent"] * 0.5]
        labels = np.zeros((1, 32, 48, 32), np.uint8)
        labels[:, 4:28, 8:40, 4:28] = 168
        labels[:, 8:12, 16:20, 8:12] = 150  # requested
        labels[:, 16:20, 16:20, 8:12] = 176  # not requested
        labels[:, 10, 30, 10] = 220
        return [labels]

    inputs = {
        "anatomy": text("ventricles=0.8, white matter hyperintensity=0.4"),
        "seed": np.array([3]),
        "size": np.array([32, 48, 32]),
        "spacing": np.array([2] * 3, np.float32),
    }
    plan = complete(head, inputs)
    mask = masks.generate(head, plan, engine, lambda *steps_done: None)
    latent = torch.prod(torch.tensor(network_calls[0]["latent"].shape[2:]))
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(4, input_img_size_numel=latent)
    assert [float(call["timestep"][0]) for call in network_calls] == scheduler.timesteps.tolist()
    for call in network_calls:
        a, b, c = call["coefficients"]
        assert (a, c) == (1, 0) and 0 < b < 1
        np.testing.assert_allclose(call["anatomy_sizes"], [[0.8, 0.4, -1]])
    assert {int(id_): int((mask == id_).sum()) for id_ in np.unique(mask) if id_ != 168} == {
        0: 32 * 48 * 32 - 24 * 32 * 24,
        22: 64,
        150: 64,
    }


def test_a_lesion_that_the_mask_lacks_is_a_warning(head: Variant) -> None:
    plan = complete(head, {"anatomy": text("white matter hyperintensity=0.4, brain tumor=0.5")})
    mask = np.full((32, 32, 32), 150, np.uint8)
    (warning,) = [one for one in warnings(head, plan, mask) if one.startswith("anatomy")]
    assert warning == (
        "anatomy: the generated mask has no brain tumor at this size, spacing and seed"
    )
    mask[16:] = 22
    mask[20, 20, 20] = 176
    assert not any(one.startswith("anatomy") for one in warnings(head, plan, mask))
    assert sum(one.startswith("anatomy") for one in warnings(head, plan, mask * 0)) == 2


@pytest.mark.parametrize("volume", ["mask", "source"])
def test_an_anatomy_excludes_a_volume(ct: Variant, volume: str) -> None:
    kind = np.uint8 if volume == "mask" else np.float32
    inputs = {"anatomy": text("liver=0.5"), volume: np.ones((32, 32, 32), kind)}
    with pytest.raises(InvalidRequest, match=f"anatomy: cannot be combined with a {volume}"):
        complete(ct, inputs)
