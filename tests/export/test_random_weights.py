"""Random checkpoints: the layout of the official ones, and outputs that depend on every part."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from export import checkpoints, networks, random_weights
from export import variant as variants
from export.files import sha256
from export.variant import Variant
from tests.export.weights import tiny


def tiny_ct() -> Variant:
    """Return rflow-ct with a handful of channels."""
    official = variants.load("rflow-ct")
    small = copy.deepcopy(official.networks)
    for role, table in small.items():
        channels = "channels" if role == "mask_diffusion" else "num_channels"
        levels = 3 if "autoencoder" in role else 4
        table[channels] = [8, 8, 16, 16][:levels]
        table["num_res_blocks"] = [1] * levels if "autoencoder" in role else 1
        table["norm_num_groups"] = 4
        if "num_head_channels" in table:
            table["num_head_channels"] = [0, 0, 8, 8]
    small["controlnet"]["conditioning_embedding_num_channels"] = [8, 8, 8]
    return dataclasses.replace(official, name="tiny-ct", networks=small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    random_weights.write(tiny_ct(), folder)
    return folder


def test_files_have_the_official_layout(folder: Path) -> None:
    variant = tiny_ct()
    for role, name in variant.checkpoints.items():
        content = torch.load(folder / name, weights_only=True)
        assert ("scale_factor" in content) == (role in ("diffusion_unet", "mask_diffusion"))
        assert ("controlnet_state_dict" in content) == (role == "controlnet")
        read = checkpoints.read(folder / name, role)
        assert {value.dtype for value in read.state.values()} == {torch.float32}
        assert checkpoints.fit(networks.build(variant, role), read.state, role) == []
    assert "random numbers" in (folder / random_weights.MARK).read_text()


def test_nothing_is_zero_or_one_throughout(folder: Path) -> None:
    variant = tiny_ct()
    for role, name in variant.checkpoints.items():
        for key, value in checkpoints.read(folder / name, role).state.items():
            assert value.numel() == 1 or value.std() > 0, (role, key)


def test_the_mask_reaches_the_image_and_the_image_its_range(folder: Path) -> None:
    variant = tiny_ct()

    def load(role: str) -> Any:
        network = networks.build(variant, role).eval()
        state = checkpoints.read(folder / variant.checkpoints[role], role).state
        checkpoints.fit(network, state, role)
        return network

    torch.manual_seed(0)
    with torch.no_grad():
        mask = torch.randint(0, 2, (1, 8, 32, 32, 32)).float()
        time, labels = torch.tensor([500.0]), torch.tensor([1])
        x = torch.randn(1, 4, 8, 8, 8)
        down, middle = load("controlnet")(x, time, mask, class_labels=labels)
        assert min(residual.std() for residual in (*down, middle)) > 0.01
        image = load("autoencoder").decode(x)
    assert 0.2 < image.mean() < 0.8
    assert image.std() < 1


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    paths_again = random_weights.write(tiny_ct(), tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())
    for role, path in paths_again.items():
        first = folder / tiny_ct().checkpoints[role]
        assert sha256(path) == sha256(first), role
    random_weights.write(tiny_ct(), tmp_path, seed=1)
    path = paths_again["controlnet"]
    assert sha256(path) != sha256(folder / "models" / path.name)


def test_no_checkpoint_of_a_users_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / tiny().checkpoints["controlnet"]
    path.parent.mkdir(parents=True)
    path.write_text("months of training")
    with pytest.raises(
        ValueError, match=r"controlnet.safetensors exists; random weights do not rep"
    ):
        random_weights.write(tiny(), tmp_path)
    assert path.read_text() == "months of training"
    assert not (tmp_path / random_weights.MARK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rflow-ct", "ddpm-ct", "rflow-mr", "rflow-mr-brain"])
def test_official_sizes_are_written_and_read(name: str, tmp_path: Path) -> None:
    variant = variants.load(name)
    paths = random_weights.write(variant, tmp_path)
    for role, path in paths.items():
        read = checkpoints.read(path, role)
        assert checkpoints.fit(networks.build(variant, role), read.state, role) == []
    parameters = sum(path.stat().st_size for path in paths.values()) / 4
    # UNet 180 M and autoencoder 21 M; CT has 72 M of ControlNet and 203 M of mask networks more.
    assert parameters > (450e6 if name.endswith("ct") else 180e6)
