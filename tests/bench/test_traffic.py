"""The counted traffic and operations of a decoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import cost, traffic
from export import networks, variant
from export.chains import Activation, Chain, Subgraph


def test_operations_are_those_that_pytorch_counts() -> None:
    with torch.device("meta"):
        network = networks.build(variant.load("rflow-ct"), "autoencoder")
        latent = torch.empty(1, 4, 8, 8, 8)
    with FlopCounterMode(display=False) as counter:
        network.decoder(network.post_quant_conv(latent))
    counted = traffic.operations(cost.cut_decoder())
    assert counted == pytest.approx(counter.get_total_flops() / 32**3, rel=1e-6)


def test_bytes_of_two_subgraphs() -> None:
    conv = nn.Conv3d(8, 8, 3)
    chain = Chain(
        "latent",
        "image",
        {
            "latent": Activation(4, 1),
            "a": Activation(8, 1),
            "s": Activation(8, 1),
            "image": Activation(1, 2),
        },
        [
            Subgraph("latent", "a", conv, shortcut=conv, shortcut_to="s", moments=True),
            Subgraph("a", "image", conv, resize="up", skip="s"),
        ],
    )
    # Elements per voxel: 4 / 8 of the latent, 1 of a, 1 of s, 1 of the image.
    assert traffic.count(chain) == traffic.Traffic(
        convolutions=2 * (0.5 + 0.5 + 1 + 1 + 1 + 1 + 1),
        moments=2 * 2 * 1,
        doubling=2 * 6 * 8,
        layout=2 * 2 * (1 + 1 + 1 + 1),
        slabs=2 * 2 * (1 + 1),
    )


def test_the_decoder_moves_fewer_bytes_than_before() -> None:
    usual, innermost, least = (
        float(row[1].replace(",", "")) for row in traffic.rows(cost.cut_decoder())
    )
    assert usual > 1.5 * innermost > 1.5 * least
