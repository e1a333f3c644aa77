"""Variants as their servers know them."""

from __future__ import annotations

from typing import Any

import pytest

from export import variant


@pytest.fixture(scope="session")
def mini() -> dict[str, Any]:
    """Return the JSON that config.pbtxt publishes as `variant`."""
    return variant.load("mini").parameter({"autoencoder": "0" * 64})


@pytest.fixture(scope="session")
def regional(mini: dict[str, Any]) -> dict[str, Any]:
    """Return a variant steered by body regions and no class, as ddpm-ct is."""
    labels = {"0": "background", "1": "liver", "22": "brain", "28": "left lung upper lobe"}
    labels |= {"23": "lung tumor", "30": "right lung upper lobe", "93": "left femur", "200": "body"}
    return mini | {
        "name": "regional",
        "conditions": ["labels", "spacing_mm100", "top_region_index", "bottom_region_index"],
        "labels": labels,
        "lesions": {},
        "lesion_neighbours": {"23": [30, 28]},
        "regions": {
            "names": ["head", "chest", "abdomen", "lower"],
            "top": "chest",
            "bottom": "abdomen",
            "labels": {"head": [22, 120], "chest": [28, 30], "abdomen": [1], "lower": [93, 94]},
        },
        "schedule": {
            "kind": "ddpm",
            "train_timesteps": 1000,
            "beta_start": 0.0015,
            "beta_end": 0.0195,
        },
        "solvers": ["ddpm"],
        "defaults": mini["defaults"] | {"solver": "ddpm"},
        "mask_generation": variant.load("rflow-ct").serving["mask_generation"],
    }


@pytest.fixture(scope="session")
def head(mini: dict[str, Any]) -> dict[str, Any]:
    """Return a variant of heads that generates masks by rectified flow."""
    return mini | {
        "mask_generation": {
            "size": [32, 48, 32],
            "spacing": [2.0, 2.0, 2.0],
            "steps": 4,
            "schedule": {"kind": "rflow", "train_timesteps": 1000, "base_numel": 32768},
            "sizes": [
                {"name": "ventricles", "default": 0.3},
                {"name": "white matter hyperintensity", "default": -1, "label": 150},
                {"name": "brain tumor", "default": -1, "label": 176, "tumour": True},
            ],
            "cleanup": "head",
            "scattered": [120, 131, 156, 157, 168],
        }
    }


@pytest.fixture(scope="session")
def unmasked(mini: dict[str, Any]) -> dict[str, Any]:
    """Return a variant without ControlNet, as rflow-mr-brain is."""
    return mini | {"name": "unmasked", "conditions": ["class_labels", "spacing_mm100"]}
