"""Every graph computes what MONAI's networks compute when they are used as upstream does."""

from __future__ import annotations

import pytest
import torch

from export import graphs, networks, random_weights, variant
from export.networks import Networks
from export.onnx_export import example
from tests.export.weights import shrunk

FLOW = ["latent", "z", "coefficients", "timestep", "guidance"]
CT = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
CT += ["mask_flow", "mask_decoder"]
REGIONS = ["top_region_index", "bottom_region_index"]
LATENT, ROWS = (8, 8, 16), 2


@pytest.fixture(scope="module", params=["rflow-ct", "ddpm-ct"])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Networks, dict[str, graphs.Graph]]:
    chosen, folder = shrunk(request.param), tmp_path_factory.mktemp("checkpoints")
    random_weights.write(chosen, folder)
    found = networks.load(chosen, folder)
    return found, {graph.name: graph for graph in graphs.graphs(chosen, found)}


@pytest.mark.parametrize(
    ("name", "made", "flow"),
    [
        ("mini", CT[:5], [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-ct", CT, [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-mr", [CT[1], *CT[3:5]], [*FLOW, "class_labels", "spacing_mm100"]),
        ("rflow-mr-brain", [CT[1], *CT[3:5]], [*FLOW, "class_labels", "spacing_mm100"]),
        ("ddpm-ct", CT, [*FLOW, "spacing_mm100", *REGIONS]),
    ],
)
def test_a_variant_has_the_graphs_and_inputs_of_its_networks(
    name: str, made: list[str], flow: list[str]
) -> None:
    chosen = variant.load(name)
    with torch.device("meta"):
        built = {role: networks.build(chosen, role) for role in chosen.networks}
    scale = 1.0 if "mask_diffusion" in built else None
    empty = Networks(**built, scale_factor=1.0, mask_scale_factor=scale, digests={})
    found = {graph.name: graph for graph in graphs.graphs(chosen, empty)}
    assert list(found) == made
    assert list(found["flow"].inputs) == flow
    assert found["flow"].inputs["latent"] == (1, 4, *found["flow"].inputs["z"][2:])
    for graph in found.values():
        assert {*graph.inputs, *graph.outputs} <= set(graph.types)


def test_the_mask_encoder_unpacks_bits(loaded: tuple[Networks, dict[str, graphs.Graph]]) -> None:
    found, made = loaded
    labels = torch.arange(256, dtype=torch.uint8).repeat(16).reshape(1, 16, 16, 16)
    bits = torch.stack([labels // 2**bit % 2 for bit in range(8)], 1).float()
    with torch.no_grad():
        truth = found.controlnet.controlnet_cond_embedding(bits)
        assert torch.equal(made["mask_encoder"].module(labels=labels), truth)


@pytest.mark.parametrize("masked", [False, True])
def test_a_flow_is_networks_guidance_and_update(
    loaded: tuple[Networks, dict[str, graphs.Graph]], masked: bool
) -> None:
    found, made = loaded
    graph = made["flow_masked" if masked else "flow"]
    given = example(graph, LATENT, ROWS)
    x, time = given["latent"].repeat(2, 1, 1, 1, 1), given["timestep"].repeat(2)
    conditions = {
        "class_labels": given.get("class_labels"),
        "spacing_tensor": given["spacing_mm100"],
        "top_region_index_tensor": given.get("top_region_index"),
        "bottom_region_index_tensor": given.get("bottom_region_index"),
    }
    residuals = {}
    with torch.no_grad():
        if masked:
            labels = torch.randint(0, 256, (2, 32, 32, 64), dtype=torch.uint8)
            bits = torch.stack([labels // 2**bit % 2 for bit in range(8)], 1).float()
            given["embedding"] = made["mask_encoder"].module(labels=labels)
            down, middle = found.controlnet(
                x, time, controlnet_cond=bits, class_labels=given.get("class_labels")
            )
            residuals["down_block_additional_residuals"] = down
            residuals["mid_block_additional_residual"] = middle
        one, two = found.diffusion_unet(x, time, **conditions, **residuals).chunk(2)
        next_latent, velocity = graph.module(**given)
    truth = two + given["guidance"] * (one - two)
    a, b, c = given["coefficients"]
    assert torch.allclose(velocity, truth, atol=1e-5)
    moved = a * given["latent"] + b * truth + c * given["z"]
    assert torch.allclose(next_latent, moved, atol=1e-5)
    assert velocity.std() > 0.05


def test_body_regions_steer_the_flow(loaded: tuple[Networks, dict[str, graphs.Graph]]) -> None:
    graph = loaded[1]["flow"]
    if "top_region_index" not in graph.inputs:
        assert "class_labels" in graph.inputs
        return
    given = example(graph, LATENT, ROWS)
    with torch.no_grad():
        _, before = graph.module(**given)
        for region in REGIONS:
            moved = given | {region: given[region].roll(1, 1)}
            assert (graph.module(**moved)[1] - before).norm() / before.norm() > 1e-3, region


def test_the_encoder_gives_the_scaled_mean(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    found, made = loaded
    image = torch.rand(1, 1, 16, 32, 16)
    with torch.no_grad():
        truth = found.autoencoder.encode(image)[0] * found.scale_factor
        latent = made["vae_encoder"].module(image=image)
        decoded = made["vae_decoder"].module(latent=latent)
        back = found.autoencoder.decode_stage_2_outputs(latent / found.scale_factor)
    assert torch.equal(latent, truth)
    assert torch.equal(decoded, back)


def test_the_mask_flow_takes_anatomy_sizes(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    found, made = loaded
    given = example(made["mask_flow"], LATENT, 1)
    with torch.no_grad():
        next_latent, out = made["mask_flow"].module(**given)
        truth = found.mask_diffusion(
            given["latent"], given["timestep"], context=given["anatomy_sizes"][None]
        )
        other = found.mask_diffusion(
            given["latent"], given["timestep"], context=-given["anatomy_sizes"][None]
        )
    a, b, c = given["coefficients"]
    assert torch.equal(out, truth)
    assert torch.allclose(next_latent, a * given["latent"] + b * truth + c * given["z"])
    assert not torch.allclose(other, truth)


def test_the_mask_decoder_gives_label_ids(
    loaded: tuple[Networks, dict[str, graphs.Graph]],
) -> None:
    found, made = loaded
    latent = torch.randn(1, 4, 3, 4, 5)
    with torch.no_grad():
        labels = made["mask_decoder"].module(latent=latent)
        scores = found.mask_autoencoder.decode_stage_2_outputs(latent / found.mask_scale_factor)
    classes = scores.softmax(1).argmax(1)
    ids = torch.tensor(variant.load("rflow-ct").serving["mask_labels"])
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), ids[classes])
    assert len(labels.unique()) > 10
