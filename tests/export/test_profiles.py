"""Optimization profiles follow from a variant's sizes."""

from __future__ import annotations

import torch

from export import profiles
from export import variant as variants
from export.graphs import Graph
from export.job import limit


def test_a_profile_follows_from_the_limits_of_a_variant() -> None:
    latent = (1, 4, "8*x", "8*y", "8*z")
    inputs = {"latent": latent, "coefficients": (3,), "spacing_mm100": ("rows", 3)}
    graph = Graph("flow", torch.nn.Identity(), inputs, {"next_latent": latent}, {})
    variant = variants.load("rflow-ct")
    rows = (1, 3), (1, 3), (2, 3)
    assert profiles.profile(inputs, profiles.sizes(variant, graph)) == {
        "latent": ((1, 4, 8, 8, 8), (1, 4, 64, 64, 32), (1, 4, 128, 128, 192)),
        "spacing_mm100": rows,
    }
    smaller = limit(variant, (256, 192, 96))
    assert profiles.profile(inputs, profiles.sizes(smaller, graph)) == {
        "latent": ((1, 4, 8, 8, 8), (1, 4, 64, 48, 24), (1, 4, 64, 48, 24)),
        "spacing_mm100": rows,
    }


def test_a_profile_counts_voxels_where_the_graph_does() -> None:
    labels = ("rows", "32*x", "32*y", "32*z")
    embedding = ("rows", 64, "8*x", "8*y", "8*z")
    graph = Graph(
        "mask_encoder", torch.nn.Identity(), {"labels": labels}, {"embedding": embedding}, {}
    )
    profile = profiles.profile(graph.inputs, profiles.sizes(variants.load("rflow-ct"), graph))
    assert profile == {"labels": ((1, 32, 32, 32), (1, 256, 256, 128), (2, 512, 512, 768))}


def test_guidance_by_default_makes_two_rows_the_usual() -> None:
    latent = (1, 4, "8*x", "8*y", "8*z")
    graph = Graph(
        "flow", torch.nn.Identity(), {"latent": latent, "class_labels": ("rows",)}, {}, {}
    )
    profile = profiles.profile(graph.inputs, profiles.sizes(variants.load("rflow-mr"), graph))
    assert profile["class_labels"] == ((1,), (2,), (2,))
