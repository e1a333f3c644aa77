"""A small variant with random weights, so that tests need neither a trained one nor minutes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from pathlib import Path

from export import graphs, networks, random_weights
from export import variant as variants
from export.graphs import Graph
from export.networks import Networks
from export.variant import Variant

TINY = Path(__file__).parent / "tiny"


def tiny() -> Variant:
    """Return a variant like mini with few channels, one UNet level, and mask networks."""
    return variants.load(TINY / "tiny.toml")


def random_checkpoint(variant: Variant, folder: Path, seed: int = 0) -> None:
    """Write float16 checkpoints of `chosen` below `folder`, as training would."""
    random_weights.write(variant, folder, seed, scale_factor=0.9)


def shrunk(name: str) -> Variant:
    """Return a shipped variant with two levels and a handful of channels in every network."""
    official = variants.load(name)
    keywords = copy.deepcopy(official.networks)
    for role, table in keywords.items():
        if "autoencoder" in role:
            table |= {"num_channels": [8, 8, 16], "num_res_blocks": [1, 1, 1]}
        else:
            channels = "channels" if role == "mask_diffusion" else "num_channels"
            table |= {channels: [16, 16], "attention_levels": [False, True]}
            table |= {"num_head_channels": [0, 8], "num_res_blocks": 1}
        table["norm_num_groups"] = 4
    if "controlnet" in keywords:
        keywords["controlnet"]["conditioning_embedding_num_channels"] = [8, 8, 8]
    return dataclasses.replace(official, networks=keywords)


@functools.cache
def shrunk_graphs(name: str) -> tuple[Networks, dict[str, Graph]]:
    """Return the networks of `shrunk(name)` with random weights, and its graphs by name.

    All tests share them: a test that changes a weight restores it.
    """
    variant = shrunk(name)
    with tempfile.TemporaryDirectory() as folder:
        random_weights.write(variant, Path(folder))
        loaded = networks.load(variant, Path(folder))
    return loaded, {graph.name: graph for graph in graphs.graphs(variant, loaded)}
