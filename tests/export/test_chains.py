"""Networks cut into chains of subgraphs."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import SpatialAttentionBlock

from export import chains, networks
from export import variant as variants


def test_the_official_decoder_has_sixteen_subgraphs_with_thirteen_norms() -> None:
    with torch.device("meta"):
        autoencoder = networks.build(variants.load("rflow-ct"), "autoencoder")
    chain = chains.decoder(autoencoder, 1.0)
    assert len(chain.subgraphs) == 16
    assert sum(subgraph.norm is not None for subgraph in chain.subgraphs) == 13
    assert [subgraph.resize for subgraph in chain.subgraphs if subgraph.resize] == ["up", "up"]
    assert chain.activations["image"] == chains.Activation(1, 4)
    widest = max(x.channels * x.planes**3 for x in chain.activations.values())
    assert widest == 128 * 4**3


def test_attention_cannot_be_cut() -> None:
    attention = SpatialAttentionBlock(spatial_dims=3, num_channels=8, norm_num_groups=4)
    cutter = chains._Cutter("image", 1, 4)
    with pytest.raises(ValueError, match="SpatialAttentionBlock cannot be cut into slabs"):
        cutter.walk([attention])
