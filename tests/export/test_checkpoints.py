"""Checkpoint files that are read, and files that are refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from safetensors.torch import save_file
from torch import nn

from export import checkpoints


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"weight": torch.randn(3, 2), "bias": torch.randn(3)}


class Code:
    """Code in a hostile checkpoint: it creates the folder `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def write_torch(path: Path, content: object) -> None:
    torch.save(content, path)


def test_a_plain_state_dict_is_read(tmp_path: Path) -> None:
    path = tmp_path / "autoencoder_v1.pt"
    write_torch(path, state())
    checkpoint = checkpoints.read(path, "autoencoder")
    assert {key: value.tolist() for key, value in checkpoint.state.items()} == {
        key: value.tolist() for key, value in state().items()
    }
    assert checkpoint.scale_factor is None
    assert checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("key", ["unet_state_dict", "controlnet_state_dict"])
def test_what_training_leaves_beside_the_weights_is_no_harm(tmp_path: Path, key: str) -> None:
    path = tmp_path / "diff_unet.pt"
    content = {
        "epoch": 3,
        "loss": np.float64(0.5),
        "scale_factor": 1 / MetaTensor(torch.arange(8.0), meta={"spacing": 1}).std(),
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        key: {name: MetaTensor(value) for name, value in state().items()},
    }
    write_torch(path, content)
    checkpoint = checkpoints.read(path, "diffusion_unet")
    assert set(checkpoint.state) == {"weight", "bias"}
    assert {type(value) for value in checkpoint.state.values()} == {torch.Tensor}
    assert checkpoint.scale_factor == pytest.approx(1 / torch.arange(8.0).std().item())


class Reaching:
    """Pickled as a call of getattr on a class that may be unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (MetaTensor, "__init__")


def test_getattr_reaches_enumerations_alone(tmp_path: Path) -> None:
    path = tmp_path / "diff_unet.pt"
    write_torch(path, {"unet_state_dict": state(), "more": Reaching()})
    with pytest.raises(ValueError, match=r"holds code \(getattr\), and only weights are read"):
        checkpoints.read(path, "diffusion_unet")


def test_a_file_of_old_pytorch_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert set(checkpoints.read(path, "autoencoder").state) == {"weight", "bias"}


def test_safetensors_carry_the_scale_factor_as_metadata(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_file(state(), path, {"scale_factor": "0.9"})
    assert checkpoints.read(path, "diffusion_unet").scale_factor == 0.9


def test_tensors_of_an_archive_stay_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "big.pt"
    write_torch(path, {"weight": torch.zeros(1000)})
    weight = checkpoints.read(path, "autoencoder").state["weight"]
    # Written behind the reader's back, so only a mapped file shows it.
    data = bytearray(path.read_bytes())
    start = data.index(bytes(4000))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.float32(7).tobytes())
    assert weight.max() == 7


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_named_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"unet_state_dict": state(), "scale_factor": Code(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"evil.pt holds code \(posix.mkdir\)") as caught:
        checkpoints.read(path, "diffusion_unet")
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_a_whole_network_is_refused_as_code(tmp_path: Path) -> None:
    write_torch(tmp_path / "net.pt", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"holds code \(torch.nn.modules.linear.Linear\)"):
        checkpoints.read(tmp_path / "net.pt", "autoencoder")


def half_of(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def half(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Code(path.with_name("ran"))))


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        (
            "half.pt",
            half_of(lambda path: torch.save(state(), path)),
            "is truncated, or is not",
        ),
        ("bare.pt", bare_pickle, "is truncated, or is not"),
        ("text.pt", lambda path: path.write_text("version https://git-lfs"), "is truncated, or"),
        ("empty.pt", lambda path: path.touch(), "is truncated, or is not"),
        (
            "half.safetensors",
            half_of(lambda path: save_file(state(), path)),
            "is truncated or not a safetensors file: ",
        ),
        ("text.safetensors", lambda path: path.write_text("hello"), "is truncated or not a safe"),
        ("list.pt", lambda path: torch.save([1], path), "holds list, but a state dict is expected"),
        ("none.pt", lambda path: torch.save({"epoch": 1}, path), "holds no weights for autoenc"),
        (
            "word.pt",
            lambda path: torch.save({"unet_state_dict": "x"}, path),
            "holds str in place of a state dict",
        ),
        (
            "nan.pt",
            lambda path: torch.save({**state(), "scale_factor": torch.tensor(0.0)}, path),
            "scale_factor is 0.0, but a number above 0 is expected",
        ),
        (
            "two.pt",
            lambda path: torch.save({**state(), "scale_factor": torch.ones(2)}, path),
            "scale_factor is not one number",
        ),
    ],
)
def test_a_file_that_is_no_checkpoint_gets_one_sentence(
    tmp_path: Path, name: str, write: Callable[[Path], object], sentence: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=sentence) as caught:
        checkpoints.read(tmp_path / name, "autoencoder")
    assert str(caught.value).startswith(f"checkpoint: {tmp_path / name}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.pt does not exist"):
        checkpoints.read(tmp_path / "no.pt", "autoencoder")


def test_fitting_loads_every_parameter_and_tells_what_is_left() -> None:
    network = nn.Linear(2, 3)
    tensors = {**state(), "ema.weight": torch.zeros(1)}
    assert checkpoints.fit(network, tensors, "here") == ["ema.weight"]
    assert torch.equal(network.weight, state()["weight"])
    assert torch.equal(network.bias, state()["bias"])


def test_float16_weights_fit_a_float32_network() -> None:
    network = nn.Linear(2, 3)
    checkpoints.fit(network, {key: value.half() for key, value in state().items()}, "here")
    assert network.weight.dtype == torch.float32


def test_what_a_controlnet_lacks_comes_from_the_unet() -> None:
    network = nn.Linear(2, 3)
    controlnet, unet = {"bias": torch.ones(3)}, {**state(), "bias": torch.zeros(3)}
    assert checkpoints.fit(network, controlnet, "here", fallback=unet) == []
    assert torch.equal(network.weight, state()["weight"])
    assert network.bias.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "fallback", "sentence"),
    [
        ({"bias": None}, None, r"here lacks 1 of the network's 2 parameters, bias for one"),
        ({"bias": None}, {"bias": torch.zeros(4)}, r"here lacks 1 of the network's 2"),
        ({"bias": torch.zeros(4)}, None, r"here: bias has shape \[4\], and .* takes \[3\]"),
        ({"bias": torch.tensor([0, 1, float("nan")])}, None, r"bias holds NaN or infinite"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, None, r"bias is torch.int64, but torch.fl"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    change: dict[str, torch.Tensor | None],
    fallback: dict[str, torch.Tensor] | None,
    sentence: str,
) -> None:
    network = nn.Linear(2, 3)
    before = network.weight.clone()
    tensors = {key: value for key, value in {**state(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=sentence):
        checkpoints.fit(network, tensors, "here", fallback)
    assert torch.equal(network.weight, before)
