"""A volume to start from: its grey levels, its padding, its noise."""

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


def test_ct_is_cut_at_both_ends() -> None:
    ct = variant.load("rflow-ct").parameter({})
    given = np.array([[[-2000, -1000, 0, 500, 3000]]], np.float32)
    assert source.unit(ct, given).tolist() == [[[0, 0, 0.5, 0.75, 1]]]


def test_mr_of_any_scanner_is_put_on_percentiles() -> None:
    brain = variant.load("rflow-mr-brain").parameter({})
    given = RANDOM.gamma(2, 300, (20, 20, 20)).astype(np.float32) + 7
    found = source.unit(brain, given)
    assert found.min() == 0
    assert np.percentile(found, 99.5) == pytest.approx(1, abs=1e-5)
    assert found.max() > 1
    np.testing.assert_allclose(source.unit(brain, 3 * given + 5), found, atol=1e-4)
    assert np.isfinite(source.unit(brain, np.full((2, 2, 2), 4, np.float32))).all()


def test_what_is_not_finite_is_refused(mini: Variant) -> None:
    with pytest.raises(InvalidRequest, match="source: holds NaN or infinite values"):
        source.unit(mini, np.array([[[np.nan]]], np.float32))


def test_it_is_padded_and_encoded(mini: Variant) -> None:
    given = np.full((33, 32, 40), 500, np.float32)
    seen = []

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        seen.append((model, inputs["image"], outputs))
        return [np.ones((1, 4, 12, 8, 12), np.float32)]

    found = source.encode(mini, complete(mini, {"source": given}), given, engine)
    ((model, image, outputs),) = seen
    assert (model, outputs) == ("vae_encoder", ["latent"])
    assert image.shape == (1, 1, 48, 32, 48)
    assert (image[0, 0, :33, :32, :40] == 0.5).all()
    assert image.sum() == 0.5 * given.size
    assert found.shape == (1, 4, 12, 8, 12)


@pytest.mark.parametrize("strength", [0.0, 0.35, 0.6, 1.0])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ddpm"])
def test_noise_is_what_monai_adds_at_the_first_time(
    mini: Variant, regional: Variant, solver: str, strength: float
) -> None:
    of = regional if solver == "ddpm" else mini
    given = {
        "source": np.zeros((32, 32, 32), np.float32),
        "strength": np.array([strength], np.float32),
        "steps": np.array([1000 if solver == "ddpm" else 20]),
        "solver": np.array([solver], object),
    }
    plan = complete(of, given)
    encoded, noise = RANDOM.standard_normal((2, 1, 4, 8, 8, 8), np.float32)
    found = source.noised(of, plan, encoded, noise)
    assert found.dtype == np.float32
    calls = schedule.steps(of["schedule"], 512, plan.steps, solver, strength)
    if strength == 0:
        assert calls == []
        assert (found == encoded).all()
        return
    assert 0.9 * strength < calls[0].timestep / 1000 <= strength
    scheduler: Any = RFlowScheduler(num_train_timesteps=1000)
    if solver == "ddpm":
        scheduler = DDPMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195)
    time = torch.tensor([calls[0].timestep])
    time = time.long() if solver == "ddpm" else time
    truth = scheduler.add_noise(torch.from_numpy(encoded), torch.from_numpy(noise), time)
    np.testing.assert_allclose(found, truth.numpy(), atol=2e-6)
