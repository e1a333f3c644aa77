"""Features of a network from a file: TorchScript, or weights of a ResNet."""

from __future__ import annotations

from pathlib import Path

import maisi_client
import numpy as np
import pytest
import torch
from maisi_client import InvalidRequest
from maisi_client._assess.network import IMAGENET, KERAS, SIGNED, Network, Scale, prepared

from tests.client.assess import resnet50

PICTURE = np.random.default_rng(0).random((40, 30), np.float32)


class Means(torch.nn.Module):
    """Return the mean of each of 16 squares of a picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures[:, :1], 56)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "means.pt"
    torch.jit.save(torch.jit.script(Means()), path)  # type: ignore[no-untyped-call]
    return path


def test_a_torchscript_network_sees_the_slice_in_a_square(script: Path) -> None:
    features = Network.load(script)([PICTURE, np.zeros((30, 40), np.float32)])
    assert features.shape == (2, 1)  # its map is pooled
    assert features[0] > features[1] == pytest.approx(-0.485 / 0.229, rel=1e-3)


def is_as_run_directly(path: Path, weights: resnet50.Weights, scale: Scale, keras: bool) -> None:
    """Assert that the features of a file are those of the same weights on pictures of a scale."""
    pictures = torch.from_numpy(prepared(PICTURE, scale))[None]
    with torch.inference_mode():
        expected = resnet50.features(weights, pictures, keras=keras).numpy()
    features = Network.load(path)([PICTURE])
    assert features.shape == (1, 2048) and expected.std() > 0.01
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3 * expected.std())


def test_weights_of_torchvision(tmp_path: Path) -> None:
    weights = resnet50.weights(biases=False)
    assert len(weights) == 318  # as `torchvision.models.resnet50` without `fc`
    last = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(weights | last, tmp_path / "resnet50.pth")
    is_as_run_directly(tmp_path / "resnet50.pth", weights, IMAGENET, keras=False)
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    is_as_run_directly(tmp_path / "wrapped.pth", weights, IMAGENET, keras=False)


def test_weights_of_radimagenet_for_pytorch(tmp_path: Path) -> None:
    weights = resnet50.weights(biases=False)
    torch.save(resnet50.numbered(weights), tmp_path / "ResNet50.pt")
    is_as_run_directly(tmp_path / "ResNet50.pt", weights, SIGNED, keras=False)


def test_weights_of_radimagenet_that_upstream_loads(tmp_path: Path) -> None:
    weights = resnet50.weights(biases=True)
    torch.save(weights, tmp_path / "RadImageNet-ResNet50_notop.pth")
    is_as_run_directly(tmp_path / "RadImageNet-ResNet50_notop.pth", weights, KERAS, keras=True)


def test_a_resnet_of_torchvision_itself(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    network = models.resnet50(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    is_as_run_directly(tmp_path / "resnet50.pth", network.state_dict(), IMAGENET, keras=False)
    numbered = torch.nn.ModuleDict({"backbone": torch.nn.Sequential(*list(network.children())[:9])})
    torch.save(numbered.state_dict(), tmp_path / "numbered.pt")
    is_as_run_directly(tmp_path / "numbered.pt", network.state_dict(), SIGNED, keras=False)


def test_another_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no weights")
    with pytest.raises(InvalidRequest, match="TorchScript or the weights of a ResNet are"):
        Network.load(tmp_path / "a.pt")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(InvalidRequest, match="does not have the weights of a ResNet"):
        Network.load(tmp_path / "b.pt")


@pytest.mark.slow
def test_an_assessment_by_a_network_has_its_distances(
    folders: dict[str, Path], script: Path, tmp_path: Path
) -> None:
    found = maisi_client.assess(
        folders["noisy"], real=folders["real"], features=script, to=tmp_path / "report"
    )
    assert found.report["settings"]["features"].endswith("means.pt")
    realism = found.report["realism"]
    assert realism["groups"] == {} and realism["fid"]["value"] > 0
