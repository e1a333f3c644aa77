"""Loading strictly, and the modules that replace others."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from export import networks
from tests.export.weights import random_checkpoint, tiny


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    random_checkpoint(tiny(), folder)
    return folder


def test_loaded_networks_know_scale_and_digests(checkpoints: Path) -> None:
    loaded = networks.load(tiny(), checkpoints)
    assert loaded.scale_factor == 0.9
    assert {len(digest) for digest in loaded.digests.values()} == {64}
    assert not loaded.diffusion_unet.training


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoints: Path) -> None:
    other = tiny()
    other.networks["controlnet"]["num_res_blocks"] = 2
    with pytest.raises(ValueError, match=r"controlnet\.safetensors does not fit controlnet") as no:
        networks.load(other, checkpoints)
    assert "\n" not in str(no.value)


def test_a_missing_checkpoint_is_named(checkpoints: Path) -> None:
    other = dataclasses.replace(tiny(), checkpoints={**tiny().checkpoints, "controlnet": "no.pt"})
    with pytest.raises(FileNotFoundError, match=r"no\.pt does not exist"):
        networks.load(other, checkpoints)


@pytest.mark.parametrize("shape", [(2, 8, 5, 4, 3), (1, 8, 96, 96, 96)])
def test_group_norm_by_moments_is_accurate(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape) * 3 + 1
    with torch.no_grad():
        truth = norm.double()(x.double())
        ours = networks.MomentsGroupNorm(norm.float())(x)
    assert (ours - truth).norm() / truth.norm() < 1e-6


def test_prepared_networks_hold_none_of_what_exports_badly(checkpoints: Path) -> None:
    loaded = networks.load(tiny(), checkpoints)
    network = networks.prepare(loaded.autoencoder)
    kinds = {type(module).__name__ for module in network.modules()}
    assert "MomentsGroupNorm" in kinds
    assert not {"GroupNorm", "MaisiGroupNorm3D", "MaisiConvolution"} & kinds
