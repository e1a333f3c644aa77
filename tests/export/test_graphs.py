"""Every graph computes the same as MONAI's networks in upstream's scripts."""

from __future__ import annotations

import pytest
import torch

from export import graphs, networks
from export import variant as variants
from export.networks import Networks
from export.onnx_export import random_inputs
from tests.export.weights import shrunk_graphs

FLOW = ["latent", "z", "coefficients", "timestep", "guidance"]
CT = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
CT += ["mask_flow", "mask_decoder"]
REGIONS = ["top_region_index", "bottom_region_index"]
LATENT, ROWS = (8, 8, 16), 2


@pytest.fixture(scope="module", params=["rflow-ct", "ddpm-ct"])
def loaded(request: pytest.FixtureRequest) -> tuple[Networks, dict[str, graphs.Graph]]:
    return shrunk_graphs(request.param)


@pytest.mark.parametrize(
    ("name", "names", "flow"),
    [
        ("mini", CT, [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-ct", CT, [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-mr", [CT[1], *CT[3:5]], [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-mr-brain", [CT[1], *CT[3:5]], [*FLOW, "class_labels", "spacing_mm100"]),
        ("ddpm-ct", CT, [*FLOW, "spacing_mm100", *REGIONS]),
    ],
)
def test_a_variant_has_the_graphs_and_inputs_of_its_networks(
    name: str, names: list[str], flow: list[str]
) -> None:
    variant = variants.load(name)
    with torch.device("meta"):
        meta = {role: networks.build(variant, role) for role in variant.networks}
    scale = 1.0 if "mask_diffusion" in meta else None
    empty = Networks(**meta, scale_factor=1.0, mask_scale_factor=scale, digests={})
    listed = {graph.name: graph for graph in graphs.graphs(variant, empty)}
    assert list(listed) == names
    assert list(listed["flow"].inputs) == flow
    assert listed["flow"].inputs["latent"] == (1, 4, *listed["flow"].inputs["z"][2:])
    for graph in listed.values():
        assert {*graph.inputs, *graph.outputs} <= set(graph.types)


def test_the_mask_encoder_unpacks_bits(loaded: tuple[Networks, dict[str, graphs.Graph]]) -> None:
    monai, by_name = loaded
    labels = torch.arange(256, dtype=torch.uint8).repeat(16).reshape(1, 16, 16, 16)
    bits = torch.stack([labels // 2**bit % 2 for bit in range(8)], 1).float()
    with torch.no_grad():
        truth = monai.controlnet.controlnet_cond_embedding(bits)
        assert torch.equal(by_name["mask_encoder"].module(labels=labels), truth)


@pytest.mark.parametrize("masked", [False, True])
def test_a_flow_is_networks_guidance_and_update(
    loaded: tuple[Networks, dict[str, graphs.Graph]], masked: bool
) -> None:
    monai, by_name = loaded
    graph = by_name["flow_masked" if masked else "flow"]
    inputs = random_inputs(graph, LATENT, ROWS)
    x, time = inputs["latent"].repeat(2, 1, 1, 1, 1), inputs["timestep"].repeat(2)
    conditions = {
        "class_labels": inputs.get("class_labels"),
        "spacing_tensor": inputs["spacing_mm100"],
        "top_region_index_tensor": inputs.get("top_region_index"),
        "bottom_region_index_tensor": inputs.get("bottom_region_index"),
    }
    residuals = {}
    with torch.no_grad():
        if masked:
            labels = torch.randint(0, 256, (2, 32, 32, 64), dtype=torch.uint8)
            bits = torch.stack([labels // 2**bit % 2 for bit in range(8)], 1).float()
            inputs["embedding"] = by_name["mask_encoder"].module(labels=labels)
            down, middle = monai.controlnet(
                x, time, controlnet_cond=bits, class_labels=inputs.get("class_labels")
            )
            residuals["down_block_additional_residuals"] = down
            residuals["mid_block_additional_residual"] = middle
        one, two = monai.diffusion_unet(x, time, **conditions, **residuals).chunk(2)
        next_latent, velocity = graph.module(**inputs)
    truth = two + inputs["guidance"] * (one - two)
    a, b, c = inputs["coefficients"]
    assert torch.allclose(velocity, truth, atol=1e-5)
    expected = a * inputs["latent"] + b * truth + c * inputs["z"]
    assert torch.allclose(next_latent, expected, atol=1e-5)
    assert velocity.std() > 0.05


def test_body_regions_steer_the_flow(loaded: tuple[Networks, dict[str, graphs.Graph]]) -> None:
    graph = loaded[1]["flow"]
    if "top_region_index" not in graph.inputs:
        assert "class_labels" in graph.inputs
        return
    inputs = random_inputs(graph, LATENT, ROWS)
    with torch.no_grad():
        _, before = graph.module(**inputs)
        for region in REGIONS:
            shifted = inputs | {region: inputs[region].roll(1, 1)}
            assert (graph.module(**shifted)[1] - before).norm() / before.norm() > 1e-3, region


def test_the_encoder_gives_the_scaled_mean(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    monai, by_name = loaded
    image = torch.rand(1, 1, 16, 32, 16)
    with torch.no_grad():
        truth = monai.autoencoder.encode(image)[0] * monai.scale_factor
        latent = by_name["vae_encoder"].module(image=image)
        decoded = by_name["vae_decoder"].module(latent=latent)
        back = monai.autoencoder.decode_stage_2_outputs(latent / monai.scale_factor)
    assert torch.equal(latent, truth)
    assert torch.equal(decoded, back)


def test_the_mask_flow_takes_anatomy_sizes(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    monai, by_name = loaded
    inputs = random_inputs(by_name["mask_flow"], LATENT, 1)
    with torch.no_grad():
        next_latent, out = by_name["mask_flow"].module(**inputs)
        truth = monai.mask_diffusion(
            inputs["latent"], inputs["timestep"], context=inputs["anatomy_sizes"][None]
        )
        other = monai.mask_diffusion(
            inputs["latent"], inputs["timestep"], context=-inputs["anatomy_sizes"][None]
        )
    a, b, c = inputs["coefficients"]
    assert torch.equal(out, truth)
    assert torch.allclose(next_latent, a * inputs["latent"] + b * truth + c * inputs["z"])
    assert not torch.allclose(other, truth)


def test_the_mask_decoder_gives_label_ids(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    monai, by_name = loaded
    latent = torch.randn(1, 4, 3, 4, 5)
    with torch.no_grad():
        labels = by_name["mask_decoder"].module(latent=latent)
        scores = monai.mask_autoencoder.decode_stage_2_outputs(latent / monai.mask_scale_factor)
    classes = scores.softmax(1).argmax(1)
    ids = torch.tensor(variants.load("rflow-ct").serving["mask_labels"])
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), ids[classes])
    assert len(labels.unique()) > 10
