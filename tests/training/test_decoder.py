"""The decoder learns from the latents of the flow, and the encoder keeps its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import networks, variant
from tests.training.painted import held_out_masks, paint
from training import decoder
from training.autoencoder import plain_norms
from training.synthesis import CONTRASTS, MODALITIES

SCALE = 0.5


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a folder with one painted subject, of which each latent is a constant."""
    mask = held_out_masks()[0][16:48, 32:64, 32:64]
    images = np.stack([paint(mask, index) for index in range(len(CONTRASTS))]).astype(np.float16)
    for folder in ("subjects", "latents"):
        (tmp_path / folder).mkdir()
    for seed in (0, 100_000):
        path = tmp_path / "subjects" / f"{seed}.npz"
        np.savez(path, mask=mask, images=images, spacing=np.array(2.0))
    clean = torch.arange(8.0)[:, None, None, None, None].expand(8, 4, 8, 8, 8) / SCALE
    file = {"mask": torch.from_numpy(mask), "clean": clean.contiguous(), "spacing": 2.0}
    torch.save(file, tmp_path / "latents" / "0.pt")
    return tmp_path


class Exact:
    """The velocity towards latents of the value that is the modality's position in MODALITIES."""

    def embed(self, mask: torch.Tensor) -> torch.Tensor:
        assert mask.shape == (1, 32, 32, 32)
        return torch.zeros(1, 1)

    def __call__(self, latent: torch.Tensor, timestep: torch.Tensor, *inputs: Any) -> torch.Tensor:
        label, spacing, embedding = inputs
        assert (spacing == 200).all() and len(embedding) == len(latent)
        values = list(MODALITIES.values())
        target = torch.tensor([float(values.index(int(value))) for value in label])
        return (target.view(-1, 1, 1, 1, 1) - latent) / (timestep / 1000).view(-1, 1, 1, 1, 1)


def test_latents_are_generated_again_for_their_modalities(cache: Path) -> None:
    decoder.regenerate(cache, Exact(), SCALE, "cpu")  # type: ignore[arg-type]
    file = torch.load(cache / "regenerated/0.pt", weights_only=True)
    assert len(set(file["modalities"])) == decoder.MODALITIES_A_SUBJECT
    for index, latent in zip(file["modalities"], file["latents"], strict=True):
        torch.testing.assert_close(latent, torch.full((4, 8, 8, 8), index / SCALE))


def test_only_the_decoder_learns_and_a_run_resumes(cache: Path) -> None:
    decoder.regenerate(cache, Exact(), SCALE, "cpu")  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = plain_norms(networks.build(variant.load("mini"), "autoencoder"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    decoder.train(cache, 3, "cpu", network)
    state = torch.load(cache / "decoder.pt", weights_only=True)
    assert state["done"] == 3
    for name, value in before.items():
        trained = state["model"][f"autoencoder.{name}"]
        decoding = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(trained, value) != decoding or not value.any(), name
    decoder.train(cache, 5, "cpu", network)
    assert torch.load(cache / "decoder.pt", weights_only=True)["done"] == 5


def test_decoder_and_discriminator_learn_in_opposite_directions() -> None:
    torch.manual_seed(0)
    critic = decoder.discriminator()
    output = torch.rand(1, 1, 32, 32, 32, requires_grad=True)
    loss = torch.nn.functional.softplus(critic(decoder._reversed(output))).mean()
    (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
    weights = list(critic.parameters())
    for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.data -= 1e-2 * slope / (slope.norm() + 1e-9)
    with torch.no_grad():
        after = torch.nn.functional.softplus(critic(output)).mean()
        assert after < loss, "a step of the discriminator finds the output less real"
        step = output - 1e-1 * gradient / gradient.norm()
        assert torch.nn.functional.softplus(critic(step)).mean() > after, "that of the decoder more"
