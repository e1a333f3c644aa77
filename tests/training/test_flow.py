"""The modules for training compute the same as MONAI's networks."""

from __future__ import annotations

import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from export import networks
from export import variant as variants
from training.anatomy import GREY, PAIRS, WMH
from training.autoencoder import plain_norms
from training.flow import DIFFERENCE, SMALL, Latents, Pair, bits, loss
from training.synthesis import MODALITIES


def test_bits_are_those_of_the_label() -> None:
    labels = torch.tensor([[[[0, 1, 150, 255]]]], dtype=torch.uint8)
    powers = (2 ** np.arange(8))[None, :, None, None, None]
    assert ((bits(labels).numpy() * powers).sum(1) == labels.numpy()).all()


def test_the_pair_is_controlnet_and_unet_as_monai_joins_them() -> None:
    torch.manual_seed(0)
    pair = Pair().eval()
    for parameter in pair.parameters():
        if not parameter.any():  # zero layers would hide a difference
            torch.nn.init.normal_(parameter, std=0.1)
    mini = variants.load("mini")
    unet, controlnet = (networks.build(mini, role) for role in ("diffusion_unet", "controlnet"))
    unet.load_state_dict(pair.unet.state_dict())
    controlnet.load_state_dict(pair.controlnet.state_dict())
    latent = torch.randn(2, 4, 4, 4, 8)
    mask = torch.randint(0, 255, (2, 16, 16, 32), dtype=torch.uint8)
    time, label, spacing = torch.tensor([900.0, 30.0]), torch.tensor([9, 11]), torch.ones(2, 3)
    with torch.no_grad():
        velocity = pair(latent, time, label, spacing, pair.embed(mask))
        down, middle = controlnet.eval()(
            x=latent, timesteps=time, controlnet_cond=bits(mask), class_labels=label
        )
        inputs: dict[str, Any] = {"x": latent, "timesteps": time, "class_labels": label}
        inputs |= {"spacing_tensor": spacing}
        without_mask = unet.eval()(**inputs)
        truth = unet(
            **inputs,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )
    assert not torch.allclose(without_mask, truth, atol=1e-2), "the mask changes nothing"
    torch.testing.assert_close(velocity, truth, rtol=1e-4, atol=1e-5)


def test_the_layer_that_reads_the_spacing_keeps_its_weights() -> None:
    names = [name for name, p in Pair().named_parameters() if not p.requires_grad]
    assert names and all("spacing_layer" in name for name in names)


def test_plain_norms_change_nothing() -> None:
    torch.manual_seed(0)
    network = networks.build(variants.load("mini"), "autoencoder").eval()
    image = torch.rand(1, 1, 16, 16, 32)
    with torch.no_grad():
        before = network.decode(network.encode(image)[0])
        plain_norms(network)
        after = network.decode(network.encode(image)[0])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_a_step_pairs_each_latent_with_the_label_of_its_modality(masked: bool) -> None:
    values = list(MODALITIES.values())
    clean = torch.arange(1.0, 9)[:, None, None, None, None].expand(8, 4, 8, 8, 8)
    mask = torch.full((32, 32, 32), 227, dtype=torch.uint8)
    subject = Latents(mask, clean, 2.0)
    for seed in range(12):  # a mask without a head is drawn in a fifth
        random.seed(seed)
        torch.manual_seed(seed)
        pair = Recorder()
        error = loss(pair, subject, masked, "cpu")  # type: ignore[arg-type]
        latent, timestep, label, spacing, embedding = pair.inputs
        share = (timestep / 1000).view(-1, 1, 1, 1, 1)
        assert len(set(timestep.tolist())) == 1
        assert (spacing == 200).all()
        assert (embedding is not None) == masked
        # The same noise for all: what differs is the clean latents.
        difference = (latent - latent[:1])[:, 0, 0, 0, 0] / (1 - share[:, 0, 0, 0, 0])
        names = [values.index(int(value)) if value else None for value in label]
        if names[0] is not None:
            for name, step in zip(names, difference.tolist(), strict=True):
                assert name is None or abs(step - (name - names[0])) < 1e-2
        if None not in names and share[0] > 0.1:
            noise = (latent - (1 - share) * clean[names]) / share
            target = clean[names] - noise
            expected = target.square().mean()
            if not masked:
                expected += DIFFERENCE * (target - target.mean(0)).square().mean()
            assert float(error) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("masked", [True, False])
def test_a_step_with_a_mask_follows_the_teacher(masked: bool) -> None:
    random.seed(1)
    torch.manual_seed(1)
    subject = Latents(
        torch.full((32, 32, 32), 227, dtype=torch.uint8), torch.rand(8, 4, 8, 8, 8), 2
    )
    pair, teacher = Recorder(), Recorder(velocity=3.0)
    error = loss(pair, subject, masked, "cpu", teacher)  # type: ignore[arg-type]
    if masked:
        assert float(error) == pytest.approx(9)
        for own, others in zip(pair.inputs, teacher.inputs, strict=True):
            torch.testing.assert_close(own, others)
    else:
        assert not hasattr(teacher, "inputs") and float(error) != pytest.approx(9)


@pytest.mark.parametrize("masked", [True, False])
def test_small_regions_have_a_larger_weight_and_no_teacher(masked: bool) -> None:
    mask = torch.full((32, 32, 32), GREY, dtype=torch.uint8)
    mask[:4, :4, :4] = PAIRS["pallidum"][0]
    mask[8:16, :4, :4] = WMH
    clean = torch.zeros(8, 4, 8, 8, 8)
    clean[:, :, 0, 0, 0], clean[:, :, 7, 7, 7] = 1, 2
    subject = Latents(mask, clean, 2.0)
    weights = 8**3 + SMALL * (1 + 2 * masked)
    with mock.patch("torch.randn_like", side_effect=torch.zeros_like):
        for teacher in (None, Recorder()):
            error = loss(Recorder(), subject, masked, "cpu", teacher)  # type: ignore[arg-type]
            elsewhere = 0 if masked and teacher else 2**2
            assert float(error) == pytest.approx((1 + SMALL + elsewhere) / weights)


class Recorder:
    """Keeps the inputs of the networks, and returns a velocity of the same value everywhere."""

    inputs: tuple[Any, ...]

    def __init__(self, velocity: float = 0.0) -> None:
        self.velocity = velocity

    def embed(self, mask: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1)

    def __call__(self, latent: torch.Tensor, *inputs: Any) -> torch.Tensor:
        self.inputs = (latent, *inputs)
        return torch.full_like(latent, self.velocity)
