"""A source volume: its grey levels, its padding and its noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from backends.maisi import schedule, source
from backends.maisi.errors import InvalidRequest
from backends.maisi.request import complete
from export import variant

Variant = dict[str, Any]
RANDOM = np.random.default_rng(0)


def test_ct_is_clipped_at_both_ends() -> None:
    ct = variant.load("rflow-ct").parameter({})
    image = np.array([[[-2000, -1000, 0, 500, 3000]]], np.float32)
    assert source.unit(ct, image).tolist() == [[[0, 0, 0.5, 0.75, 1]]]


def test_mr_of_any_scanner_is_scaled_by_percentiles() -> None:
    brain = variant.load("rflow-mr-brain").parameter({})
    image = RANDOM.gamma(2, 300, (20, 20, 20)).astype(np.float32) + 7
    scaled = source.unit(brain, image)
    assert scaled.min() == 0
    assert np.percentile(scaled, 99.5) == pytest.approx(1, abs=1e-5)
    assert scaled.max() > 1
    np.testing.assert_allclose(source.unit(brain, 3 * image + 5), scaled, atol=1e-4)
    np.testing.assert_allclose(source.unit(brain, 1e-12 * image), scaled, atol=1e-4)  # m²/s
    assert np.isfinite(source.unit(brain, np.full((2, 2, 2), 4, np.float32))).all()


def test_a_value_that_is_not_finite_is_refused(mini: Variant) -> None:
    with pytest.raises(InvalidRequest, match="source: holds NaN or infinite values"):
        source.unit(mini, np.array([[[np.nan]]], np.float32))


def test_it_is_padded_and_encoded(mini: Variant) -> None:
    volume = np.full((33, 32, 40), 500, np.float32)
    network_calls = []

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        network_calls.append((model, inputs["image"], outputs))
        return [np.ones((1, 4, 12, 8, 12), np.float32)]

    latent = source.encode(mini, complete(mini, {"source": volume}), volume, engine)
    ((model, image, outputs),) = network_calls
    assert (model, outputs) == ("vae_encoder", ["latent"])
    assert image.shape == (1, 1, 48, 32, 48)
    assert (image[0, 0, :33, :32, :40] == 0.5).all()
    assert image.sum() == 0.5 * volume.size
    assert latent.shape == (1, 4, 12, 8, 12)


@pytest.mark.parametrize("strength", [0.0, 0.35, 0.6, 1.0])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ddpm"])
def test_noise_is_added_as_by_monai_at_the_first_time(
    mini: Variant, regional: Variant, solver: str, strength: float
) -> None:
    variant_json = regional if solver == "ddpm" else mini
    inputs = {
        "source": np.zeros((32, 32, 32), np.float32),
        "strength": np.array([strength], np.float32),
        "steps": np.array([1000 if solver == "ddpm" else 20]),
        "solver": np.array([solver], object),
    }
    plan = complete(variant_json, inputs)
    encoded, noise = RANDOM.standard_normal((2, 1, 4, 8, 8, 8), np.float32)
    noised = source.noised(variant_json, plan, encoded, noise)
    assert noised.dtype == np.float32
    calls = schedule.steps(variant_json["schedule"], 512, plan.steps, solver, strength)
    if strength == 0:
        assert calls == []
        assert (noised == encoded).all()
        return
    assert 0.9 * strength < calls[0].timestep / 1000 <= strength
    scheduler: Any = RFlowScheduler(num_train_timesteps=1000)
    if solver == "ddpm":
        scheduler = DDPMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195)
    time = torch.tensor([calls[0].timestep])
    time = time.long() if solver == "ddpm" else time
    truth = scheduler.add_noise(torch.from_numpy(encoded), torch.from_numpy(noise), time)
    np.testing.assert_allclose(noised, truth.numpy(), atol=2e-6)
