"""Inputs of mini's flow without a mask: valid ones, and each kind that makes an engine fail."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conftest import ROOT

FLOW = ROOT / "model_repository" / "mini.flow" / "1" / "model.onnx"
OUTPUTS = ["next_latent", "velocity"]


def good(side: int = 8) -> dict[str, Any]:
    random = np.random.default_rng(side)
    latent = random.normal(size=(1, 4, side, side, side)).astype(np.float32)
    return {
        "latent": latent,
        "z": latent,
        "coefficients": np.array([1, 0.1, 0], np.float32),
        "timestep": np.array([500], np.float32),
        "guidance": np.zeros(1, np.float32),
        "class_labels": np.array([9]),
        "spacing_mm100": np.full((1, 3), 200, np.float32),
    }


def _latents(*sides: int) -> dict[str, Any]:
    latent = np.zeros((1, 4, *sides), np.float32)
    return {"latent": latent, "z": latent}


WRONG: dict[str, dict[str, Any]] = {
    "z of another size": {"z": np.zeros((1, 4, 16, 8, 8), np.float32)},
    "sides that do not divide": _latents(7, 3, 5),
    "three class labels beside one spacing": {"class_labels": np.full(3, 9)},
    "a side of 0": _latents(8, 0, 8),
    "no row": {"class_labels": np.zeros(0, np.int64), "spacing_mm100": np.zeros((0, 3), "f4")},
    "two latents": {"latent": np.zeros((2, 4, 8, 8, 8), np.float32)},
    "five channels": {"latent": np.zeros((1, 5, 8, 8, 8), np.float32)},
    "four axes": {"latent": np.zeros((4, 8, 8, 8), np.float32)},
    "another type": {"timestep": np.array([500], np.float64)},
    "a class that is none": {"class_labels": np.array([2**62])},
}
