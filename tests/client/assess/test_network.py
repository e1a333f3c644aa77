"""Features of a network from a file: TorchScript, or weights of a ResNet."""

from __future__ import annotations

from pathlib import Path

import maisi_client
import numpy as np
import pytest
import torch
from maisi_client import InvalidRequest
from maisi_client._assess.network import Network, _prepared
from monai.networks.nets import ResNet

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


def test_weights_of_a_resnet_are_read_whatever_wraps_them(tmp_path: Path) -> None:
    shape = {"block_inplanes": [64, 128, 256, 512], "spatial_dims": 2, "n_input_channels": 3}
    network = ResNet(
        "basic", [2, 2, 2, 2], conv1_t_size=7, conv1_t_stride=2, bias_downsample=False, **shape
    )
    weights = network.state_dict()
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "fc.weight"} < weights.keys()
    torch.save(weights, tmp_path / "plain.pt")
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    wrapped = {
        ".".join(["module.backbone", str(numbers[first]), *rest]): value
        for (first, *rest), value in ((key.split("."), value) for key, value in weights.items())
        if first != "fc"
    }
    torch.save(wrapped, tmp_path / "wrapped.pt")
    one, other = (Network.load(tmp_path / f"{n}.pt")([PICTURE]) for n in ("plain", "wrapped"))
    assert one.shape == (1, 512)
    np.testing.assert_array_equal(one, other)


def test_weights_of_torchvision_give_its_features(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    network = models.resnet50(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    features = Network.load(tmp_path / "resnet50.pth")([PICTURE])
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = network(torch.from_numpy(_prepared(PICTURE))[None]).numpy()
    assert expected.shape == (1, 2048)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)


def test_another_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no weights")
    with pytest.raises(InvalidRequest, match="neither TorchScript nor weights"):
        Network.load(tmp_path / "a.pt")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(InvalidRequest, match="no weights of a ResNet"):
        Network.load(tmp_path / "b.pt")


def test_an_assessment_by_a_network_has_its_distances(
    folders: dict[str, Path], script: Path, tmp_path: Path
) -> None:
    found = maisi_client.assess(
        folders["noisy"], real=folders["real"], features=script, to=tmp_path / "report"
    )
    assert found.report["settings"]["features"].endswith("means.pt")
    realism = found.report["realism"]
    assert realism["groups"] == {} and realism["fid"]["value"] > 0
