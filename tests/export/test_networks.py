"""Every role of every variant, loading strictly, and the modules that replace others."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from monai.networks.blocks import CrossAttentionBlock, SABlock
from safetensors.torch import load_file, save_file
from torch import nn

from export import networks
from export import variant as variants
from tests.export.weights import random_checkpoint, shrunk, tiny


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    random_checkpoint(tiny(), folder)
    return folder


@pytest.mark.parametrize("name", variants.names())
def test_every_network_is_built_to_compute_plainly(name: str) -> None:
    variant = variants.load(name)
    for role in variant.networks:
        with torch.device("meta"):
            network = networks.build(variant, role)
        for module in network.modules():
            assert not getattr(module, "use_flash_attention", False)
            assert not getattr(module, "norm_float16", False)
            assert not getattr(module, "use_checkpointing", False)
            assert getattr(module, "num_splits", 1) == 1


def test_the_official_networks_have_the_official_size() -> None:
    variant = variants.load("rflow-ct")
    counts = {}
    for role in variant.networks:
        with torch.device("meta"):
            network = networks.build(variant, role)
        counts[role] = round(sum(p.numel() for p in network.parameters()) / 1e6)
    assert counts == {
        "autoencoder": 21,
        "diffusion_unet": 181,
        "controlnet": 72,
        "mask_autoencoder": 5,
        "mask_diffusion": 197,
    }


@pytest.mark.parametrize("transposed", [False, True])
def test_a_volume_in_one_piece_gives_what_slabs_give(transposed: bool) -> None:
    # MONAI's own cutting, at sizes that its slabs divide: 8 of at least 4 voxels at every level.
    keywords = tiny().networks["autoencoder"] | {"use_convtranspose": transposed}
    variant = dataclasses.replace(tiny(), networks={"autoencoder": keywords})
    network = networks.build(variant, "autoencoder").eval()
    split = type(network)(**keywords | {"num_splits": 8}).eval()
    split.load_state_dict(network.state_dict())
    torch.manual_seed(0)
    latent, image = torch.randn(1, 4, 4, 32, 4), torch.rand(1, 1, 8, 128, 8)
    with torch.no_grad():
        for name, x in (("decode", latent), ("encode", image)):
            output, truth = getattr(network, name)(x), getattr(split, name)(x)
            if isinstance(output, tuple):
                output, truth = output[0], truth[0]
            assert (output - truth).norm() / truth.norm() < 1e-6, name


def test_loaded_networks_know_scale_and_digests(checkpoints: Path) -> None:
    loaded = networks.load(tiny(), checkpoints)
    assert loaded.scale_factor == 0.9
    assert loaded.mask_scale_factor == 0.9
    assert set(loaded.digests) == set(variants.ROLES)
    assert {len(digest) for digest in loaded.digests.values()} == {64}
    assert not loaded.diffusion_unet.training


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoints: Path) -> None:
    other = tiny()
    other.networks["autoencoder"]["num_res_blocks"] = [1, 1, 2]
    with pytest.raises(ValueError, match=r"autoencoder\.safetensors lacks .* parameters") as caught:
        networks.load(other, checkpoints)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_parameters_to_spare_is_refused(checkpoints: Path) -> None:
    other = tiny()
    other.networks["diffusion_unet"]["num_class_embeds"] = None
    with pytest.raises(ValueError, match=r"has 1 parameters more .* class_embedding\.weight"):
        networks.load(other, checkpoints)


def test_a_missing_checkpoint_is_named(checkpoints: Path) -> None:
    other = dataclasses.replace(tiny(), checkpoints={**tiny().checkpoints, "controlnet": "no.pt"})
    with pytest.raises(FileNotFoundError, match=r"no\.pt does not exist"):
        networks.load(other, checkpoints)


def test_a_checkpoint_without_scale_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    path = tmp_path / tiny().checkpoints["diffusion_unet"]
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match=r"diffusion_unet\.safetensors does not have its scale"):
        networks.load(tiny(), tmp_path)


def test_a_controlnet_has_from_its_unet_what_it_lacks(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    path = tmp_path / tiny().checkpoints["controlnet"]
    state = load_file(path)
    del state["conv_in.conv.weight"]
    save_file(state, path)
    loaded = networks.load(tiny(), tmp_path)
    weights = loaded.controlnet.conv_in.conv.weight, loaded.diffusion_unet.conv_in.conv.weight
    assert torch.equal(*weights)


@pytest.mark.parametrize("shape", [(2, 8, 5, 4, 3), (1, 8, 96, 96, 96)])
def test_group_norm_by_moments_is_accurate(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape) * 3 + 1
    with torch.no_grad():
        truth = norm.double()(x.double())
        output = networks.MomentsGroupNorm(norm.float())(x)
    assert (output - truth).norm() / truth.norm() < 1e-6


@pytest.mark.parametrize("include_fc", [False, True])
def test_attention_is_monais(include_fc: bool) -> None:
    torch.manual_seed(0)
    self_attention = SABlock(32, 4, qkv_bias=True, include_fc=include_fc, use_combined_linear=False)
    cross = CrossAttentionBlock(32, 4, context_input_size=10, dim_head=8)
    x, context = torch.randn(2, 60, 32), torch.randn(2, 3, 10)
    with torch.no_grad():
        for block, inputs in ((self_attention, (x,)), (cross, (x, context))):
            assert torch.allclose(networks.Attention(block)(*inputs), block(*inputs), atol=1e-6)


def test_prepared_networks_hold_none_of_what_exports_badly(checkpoints: Path) -> None:
    loaded = networks.load(tiny(), checkpoints)
    for network in (loaded.autoencoder, loaded.diffusion_unet, loaded.controlnet):
        kinds = {type(module).__name__ for module in networks.prepare(network).modules()}
        assert "MomentsGroupNorm" in kinds
        assert not {"GroupNorm", "MaisiGroupNorm3D", "SABlock", "CrossAttentionBlock"} & kinds


@pytest.mark.parametrize("updown", [False, True])
def test_a_doubled_grid_is_monais_with_a_third_of_the_work(updown: bool) -> None:
    variant = shrunk("rflow-ct")
    variant.networks["diffusion_unet"]["resblock_updown"] = updown
    network = networks.build(variant, "diffusion_unet").eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.1)
    prepared = networks.prepare(copy.deepcopy(network), fuse_upsampling=True)
    kinds = {type(module) for module in prepared.modules()}
    assert networks.UpsampleConv in kinds and (networks.UpsampleBlock in kinds) == updown
    assert networks.UpsampleConv not in {type(m) for m in networks.prepare(network).modules()}
    x, time = torch.randn(2, 4, 6, 8, 4), torch.tensor([300.0, 300.0])
    rows = {"class_labels": torch.tensor([1, 0]), "spacing_tensor": torch.rand(2, 3)}
    truth, output = network(x, time, **rows), prepared(x, time, **rows)
    assert (output - truth).norm() < 1e-5 * truth.norm()
    block = next(m for m in prepared.modules() if isinstance(m, networks.UpsampleConv))
    assert block.conv.weight.shape[2:] == (4, 4, 4) and block.conv.stride == (2, 2, 2)
