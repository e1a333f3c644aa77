"""The training step and the sampling of masks, and how the shipped networks follow sizes."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backends.maisi import anatomy
from export import variant
from training import mask_flow
from training.masks import ABSENT, LABELS, SIZES, sizes


def test_sizes_are_those_of_the_variant_in_its_order() -> None:
    entries = variant.load("mini").serving["mask_generation"]["sizes"]
    assert [entry["name"] for entry in entries] == [size.name for size in SIZES]
    for entry, size in zip(entries, SIZES, strict=True):
        assert entry.get("label", size.labels[0]) == size.labels[0]
        assert sorted(entry.get("labels", size.labels)) == sorted(size.labels)
        ends = [f"{ml / 1000:g} l" if ml >= 1000 else f"{ml:g} ml" for ml in (size.low, size.high)]
        assert f"0 is {ends[0]}, 1 is {ends[1]}" in entry["meaning"]


def test_lesions_and_ventricles_get_the_volume_of_their_size() -> None:
    requested = [0.3, 0.4, 0.9, 0.5]
    volumes = anatomy.volumes(variant.load("mini").serving, requested)
    expected = {SIZES[i].name: SIZES[i].millilitres(requested[i]) for i in (0, 1, 2)}
    assert volumes == pytest.approx(expected)
    assert anatomy.volumes(variant.load("mini").serving, [-1, -1, -1, 0.5]) == {}


def test_a_step_pairs_each_latent_with_its_sizes_and_weight() -> None:
    torch.manual_seed(0)
    values = [1.0, 5.0]
    masks = [
        mask_flow.Latents(
            torch.full((4, 4, 4, 4), value),
            torch.full((4,), value),
            torch.full((1, 4, 4, 4), value),
        )
        for value in values
    ]
    seen: dict[str, torch.Tensor] = {}

    def unet(latent: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        share = (timestep / 1000)[:, None, None, None, None]
        clean = context[:, 0, 0][:, None, None, None, None].expand_as(latent)
        noise = (latent - (1 - share) * clean) / share
        seen.update(noise=noise, context=context)
        return clean - noise + clean  # an error of 1 in the first mask, of 5 in the second

    error = mask_flow.loss(unet, masks, "cpu")
    assert seen["context"].shape == (2, 1, 4)
    assert float(seen["noise"].std()) == pytest.approx(1, abs=0.2)
    assert float(error) == pytest.approx((1 * 1 + 5 * 25) / 6, rel=1e-3)


def test_latents_of_sized_structures_weigh_more() -> None:
    mask = np.full((16, 16, 16), 227, np.uint8)
    mask[5, 5, 5] = 176
    weight = mask_flow.weights(mask)[0]
    additional = mask_flow.WEIGHTS[2]
    assert weight[1, 1, 1] == 1 + additional
    assert weight[0, 1, 2] == 1 + additional / 2
    assert weight[3, 1, 1] == 1


def test_half_of_the_masks_of_steps_have_a_tumour() -> None:
    def mask(tumour: float) -> mask_flow.Latents:
        empty = torch.zeros(0)
        return mask_flow.Latents(empty, torch.tensor([0.3, -1, tumour, 0.5]), empty)

    random.seed(0)
    masks = [mask(0.4), *[mask(-1) for _ in range(9)]]
    drawn = [float(mask_flow.draw(masks).sizes[2]) for _ in range(200)]
    assert 70 < sum(size > 0 for size in drawn) < 130
    assert mask_flow.draw(masks[:1]) is masks[0]


def test_sampling_with_the_true_velocity_gives_the_mask() -> None:
    index = torch.zeros(96, 112, 96, dtype=torch.int64)
    index[20:70, 20:90, 20:80] = LABELS.index(22)
    index[30:40, 30:40, 30:40] = LABELS.index(176)
    goal = torch.nn.functional.avg_pool3d(index[None, None].float(), 4).expand(1, 4, -1, -1, -1)
    tumour = SIZES[2].of(np.array(LABELS, np.uint8)[index.numpy()])
    requested = np.array([0.3, ABSENT, tumour, 0.5], np.float32)

    def unet(latent: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        assert context.tolist() == [[requested.tolist()]]
        share = timestep / 1000
        return goal - (latent - (1 - share) * goal) / share

    class Autoencoder:
        def decode_stage_2_outputs(self, latent: torch.Tensor) -> torch.Tensor:
            torch.testing.assert_close(latent, goal / 2, rtol=1e-3, atol=1e-3)
            return torch.nn.functional.one_hot(index, len(LABELS)).permute(3, 0, 1, 2)[None].float()

    nets = SimpleNamespace(
        mask_diffusion=unet, mask_autoencoder=Autoencoder(), mask_scale_factor=2.0
    )

    def draw(sizes: Any) -> Any:
        return mask_flow.generate(nets, sizes, seed=3, steps=4)

    mask = draw(requested)
    assert (mask == np.array(LABELS)[index.numpy()]).all()
    requested[2] = ABSENT  # the cleanup replaces a lesion that was not requested
    assert set(np.unique(draw(requested))) == {0, 22}


def test_shipped_networks_follow_sizes() -> None:
    draw = mask_flow.drawing(Path("export/checkpoints"))
    small, large = np.array([[0.2, -1, -1, 0.3], [0.7, 0.6, 0.7, 0.7]], np.float32)
    of_small, of_large = sizes(draw(small, 1)), sizes(draw(large, 1))
    assert of_small[1] == of_small[2] == ABSENT
    assert of_large[[1, 2]] == pytest.approx([0.6, 0.7], abs=0.05)
    assert (of_large[[0, 3]] > of_small[[0, 3]] + 0.1).all()
