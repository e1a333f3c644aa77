"""Every graph of every official variant as ONNX, at sizes it was not traced with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import graphs, networks, onnx_export, random_weights
from export import variant as variants
from export.graphs import Graph
from export.onnx_export import TOLERANCE
from tests.export.weights import shrunk_graphs

OFFICIAL = ["rflow-ct", "rflow-mr", "rflow-mr-brain", "ddpm-ct"]


@pytest.fixture(scope="module")
def ddpm() -> dict[str, Graph]:
    return shrunk_graphs("ddpm-ct")[1]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param("flow", "fp32", marks=pytest.mark.slow),
        ("mask_decoder", "fp16"),
    ],
)
def test_graphs_that_mini_has_not(
    ddpm: dict[str, Graph], name: str, precision: str, tmp_path: Path
) -> None:
    path = onnx_export.write(ddpm[name], tmp_path / "new" / name, precision)
    # Labels: the share of voxels where another of 125 random, so nearly equal, scores is largest.
    allowed = 0.02 if name == "mask_decoder" else TOLERANCE[precision]
    assert onnx_export.verify(ddpm[name], path, allowed) <= allowed


def test_large_weights_go_into_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv3d(4, 64, 3, padding=1).half().float().requires_grad_(False)

        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(latent)
            return out

    monkeypatch.setattr(onnx_export, "INLINE", 10_000)
    module = Convolution()
    shapes = {"latent": (1, 4, "x", "y", "z")}, {"image": (1, 64, "x", "y", "z")}
    graph = Graph("convolution", module, *shapes, {"latent": "FP32", "image": "FP32"})
    path = onnx_export.write(graph, tmp_path, "fp32")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    weights = sum(p.numel() for p in module.parameters())
    # Weights that float16 holds exactly are stored so.
    assert 1.9 * weights < (tmp_path / "model.onnx.data").stat().st_size < 2.1 * weights
    assert onnx_export.verify(graph, path, 1e-5) < 1e-5


def test_differences_are_relative_and_of_labels_a_share() -> None:
    truth = np.array([3, 4], np.float32)
    assert onnx_export.difference(truth * 1.5, truth) == pytest.approx(0.5)
    assert onnx_export.difference(truth * np.nan, truth) == np.inf
    labels = np.array([1, 200, 3, 4], np.uint8)
    assert onnx_export.difference(labels[[0, 1, 2, 2]], labels) == 0.25


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(2**29 + 2**20, 1), requires_grad=False)

        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            return latent + self.table[-3:].sum() + self.table[:3].sum()

    shape = (1, 4, "x", "y", "z")
    types = {"latent": "FP32", "image": "FP32"}
    graph = Graph("large", Large(), {"latent": shape}, {"image": shape}, types)
    path = onnx_export.write(graph, tmp_path, "fp32")
    assert (tmp_path / "model.onnx.data").stat().st_size > 2**31
    assert path.stat().st_size < 1_000_000
    onnx.checker.check_model(path)
    assert onnx_export.verify(graph, path, 1e-6) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", OFFICIAL)
def test_every_graph_at_full_size(name: str, tmp_path: Path) -> None:
    variant = variants.load(name)
    random_weights.write(variant, tmp_path)
    for graph in graphs.graphs(variant, networks.load(variant, tmp_path)):
        for precision, bound in TOLERANCE.items():
            path = onnx_export.write(graph, tmp_path / graph.name / precision, precision)
            error = onnx_export.verify(graph, path, bound)
            print(f"{name}.{graph.name} {precision}: {error:.1e}", flush=True)
            shutil.rmtree(path.parent)
