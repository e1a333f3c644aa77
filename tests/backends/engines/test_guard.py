"""A network accepts requests of its variant's stages alone, with inputs that fit together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backends.engines import guard
from backends.engines.guard import Contract, Refused
from backends.engines.memory import OutOfMemory
from export import model_configs, variant
from server import control


def contract(network: str = "flow_masked", name: str = "mini") -> Contract:
    """Read a contract as a backend does, from the configuration that export writes."""
    message = model_configs.configs(variant.load(name), {}, "onnx", "fp32")[f"{name}.{network}"]
    config = {
        "name": message.name,
        "input": [
            {"name": tensor.name, "dims": list(map(str, tensor.dims))} for tensor in message.input
        ],
        "parameters": {
            key: {"string_value": p.string_value} for key, p in message.parameters.items()
        },
    }
    result = guard.contract(config)
    assert result is not None
    return result


def inputs(rows: int = 1, side: int = 8) -> dict[str, Any]:
    latent = np.zeros((1, 4, side, side, side), np.float32)
    return {
        "latent": latent,
        "z": latent,
        "coefficients": np.zeros(3, np.float32),
        "timestep": np.array([1000], np.float32),
        "guidance": np.zeros(1, np.float32),
        "class_labels": np.array([127, 0][:rows]),
        "spacing_mm100": np.zeros((rows, 3), np.float32),
        "embedding": np.zeros((rows, 32, side, side, side), np.float32),
    }


def volume(*sides: int, channels: int = 4, rows: int = 1) -> Any:
    return np.zeros((rows, channels, *sides), np.float32)


def test_inputs_of_the_stages_are_accepted() -> None:
    for rows in (1, 2):
        contract().check_inputs(inputs(rows))
    contract("vae_decoder").check_inputs({"latent": volume(8, 12, 16)})
    contract("vae_encoder").check_inputs({"image": volume(32, 48, 64, channels=1)})
    contract("mask_encoder").check_inputs({"labels": np.zeros((2, 32, 48, 64), np.uint8)})
    contract("mask_decoder", "ddpm-ct").check_inputs({"latent": volume(64, 64, 64)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"z": volume(16, 8, 8)},
            r"z: is for a volume of \[64, 32, 32\] voxels, but latent, z, emb",
        ),
        (
            {"embedding": volume(8, 8, 4, channels=32)},
            r"embedding: is for a volume of \[32, 32, 16\]",
        ),
        ({"latent": volume(8, 0, 8)}, r"latent: shape \[1, 4, 8, 0, 8\], but no side may be 0"),
        (
            {"class_labels": np.array([9, 9, 9])},
            "class_labels: the number of rows is 3, but class_labels, spacing",
        ),
        (
            {"class_labels": np.array([9, 0])},
            "spacing_mm100: the number of rows is 1, but class_labels, spacing_mm",
        ),
        (
            {"class_labels": np.array([], np.int64)},
            r"class_labels: shape \[0\], but no side",
        ),
        (
            {"class_labels": np.array([128])},
            "class_labels: 128 is outside the allowed range, 0 to",
        ),
        ({"class_labels": np.array([2**62])}, "class_labels: 4611686018427387904 is outside"),
        ({"class_labels": np.array([-1])}, "class_labels: -1 is outside"),
        ({"timestep": np.array([np.inf], np.float32)}, "timestep: holds NaN or infinite values"),
        ({"timestep": np.array([1001], np.float32)}, "timestep: 1001.0 is outside .* 0 to 1000"),
        ({"latent": volume(8, 8, 8) * np.nan}, "latent: holds NaN or infinite"),
        ({"guidance": np.array([-np.inf], np.float32)}, "guidance: holds NaN or infinite values"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(change: Any, sentence: str) -> None:
    with pytest.raises(Refused, match=f"^{sentence}") as caught:
        contract().check_inputs(inputs() | change)
    assert "\n" not in str(caught.value)


def test_rows_are_one_or_two() -> None:
    with pytest.raises(Refused, match="class_labels: the number of rows is 3, but class_labels"):
        contract().check_inputs(
            inputs()
            | {
                "class_labels": np.zeros(3, np.int64),
                "spacing_mm100": np.zeros((3, 3), np.float32),
                "embedding": volume(8, 8, 8, channels=32, rows=3),
            }
        )
    with pytest.raises(Refused, match="labels: the number of rows is 200"):
        contract("mask_encoder").check_inputs({"labels": np.zeros((200, 16, 16, 16), np.uint8)})


def test_volumes_are_bounded_by_the_largest_padded_request() -> None:
    max_voxels = 256**3 // 2  # mini's max_voxels
    decoder = contract("vae_decoder")
    assert decoder.max_voxels == max_voxels
    decoder.check_inputs({"latent": volume(64, 64, 32)})  # exactly as many
    decoder.check_inputs({"latent": volume(64, 64, 36)})  # 256 x 256 x 144, from 250 x 250 x 130
    with pytest.raises(Refused, match=r"192\] voxels, but at most 8388608 are allowed"):
        decoder.check_inputs({"latent": volume(64, 64, 48)})
    with pytest.raises(Refused, match=r"latent: \[28, 12, 20\] voxels, but sides must be"):
        decoder.check_inputs({"latent": volume(7, 3, 5)})
    masks = contract("mask_decoder", "ddpm-ct")
    with pytest.raises(Refused, match=r"128\] voxels, but \[256, 256, 256\] are needed"):
        masks.check_inputs({"latent": volume(64, 64, 32)})


@pytest.mark.parametrize("axis", range(3))
def test_a_thin_volume_has_no_side_longer_than_any_requests(axis: int) -> None:
    longest_sides = {"mini": [64, 64, 64], "rflow-mr": [128, 128, 64], "rflow-ct": [128, 128, 192]}
    for name, sides in longest_sides.items():
        decoder = contract("vae_decoder", name)
        step = decoder.multiple // decoder.factors["latent"]
        thin = [step] * 3
        thin[axis] = sides[axis]
        decoder.check_inputs({"latent": volume(*thin)})
        for excess in (step, 500 * step):
            thin[axis] = sides[axis] + excess
            with pytest.raises(Refused, match=r"^latent: .* voxels, but at most .* are allowed$"):
                decoder.check_inputs({"latent": volume(*thin)})


class Request:
    """The parameters of a request, as JSON."""

    def __init__(self, **parameters: Any) -> None:
        self.json_text = json.dumps(parameters)

    def parameters(self) -> str:
        return self.json_text


def test_only_requests_with_the_token_are_accepted() -> None:
    network = contract()
    network.check_caller(Request(maisi_token=network.token))
    surrogates = ("\ud800", "\ud800" * 32, network.token + "\udc80")
    wrong_tokens = ("", 1, "é" * 32, *surrogates, None, [], {})
    for parameters in ({}, *({"maisi_token": token} for token in wrong_tokens)):
        with pytest.raises(Refused, match=r"^mini\.flow_masked: only the stages of mini call it; "):
            network.check_caller(Request(**parameters))
    assert guard.contract({"parameters": {}}) is None  # no network of a variant: any caller
    guard.check_caller(None, Request())


def later(network: Contract, rows: int, volume: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    text = json.dumps({"rows": rows, "volume": volume})
    shapes = guard.later_shapes(network, Request(maisi_prepare=text))
    assert shapes is not None
    return shapes


def test_a_later_call_has_the_shapes_of_its_volume() -> None:
    for rows in (1, 2):
        shapes = {name: array.shape for name, array in inputs(rows).items()}
        assert later(contract(), rows, (32, 32, 32)) == shapes
    assert later(contract("vae_decoder"), 1, (32, 48, 64)) == {"latent": (1, 4, 8, 12, 16)}
    assert later(contract("mask_encoder"), 2, (32, 48, 64)) == {"labels": (2, 32, 48, 64)}
    assert guard.later_shapes(contract(), Request(maisi_token="x")) is None
    for rows, volume in ((1, (32, 32, 40)), (1, (32, 32, 512)), (3, (32, 32, 32))):
        with pytest.raises(Refused):
            later(contract(), rows, volume)


def test_a_missing_input_is_refused() -> None:
    for name in inputs():
        rest = {other: array for other, array in inputs().items() if other != name}
        with pytest.raises(Refused, match=rf"^{name}: is missing$"):
            contract().check_inputs(rest)


def test_a_server_without_a_token_and_a_damaged_contract_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = {"name": "mini.flow", "input": [], "parameters": {"network": {"string_value": "{}"}}}
    with pytest.raises(ValueError, match=r"`network` is damaged; export the model again"):
        guard.contract(config)
    monkeypatch.setenv(guard.ENV, "")
    with pytest.raises(ValueError, match=r"the environment has no MAISI_TOKEN, .* sets one"):
        contract()
    monkeypatch.delenv(guard.ENV)
    with pytest.raises(ValueError, match=r"the environment has no MAISI_TOKEN, .* sets one"):
        contract()


def test_a_short_token_is_refused_and_any_characters_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for short_token in ("x", "0" * 31):
        monkeypatch.setenv(guard.ENV, short_token)
        sentence = rf"^MAISI_TOKEN: {len(short_token)} characters, but 32 or"
        with pytest.raises(ValueError, match=sentence):
            contract()
    for secret in ("0" * 32, "\udcff" * 32):  # bytes that are no UTF-8
        monkeypatch.setenv(guard.ENV, secret)
        network = contract()
        network.check_caller(Request(maisi_token=secret))
        assert guard.probe_id() == control.probe_id(secret)
        with pytest.raises(Refused):
            network.check_caller(Request(maisi_token="?" * 32))


def test_each_error_has_its_code() -> None:
    class Codes:
        INVALID_ARG, UNAVAILABLE, INTERNAL = range(3)

    assert guard.status(Codes, Refused("x")) == Codes.INVALID_ARG
    assert guard.status(Codes, OutOfMemory("x")) == Codes.UNAVAILABLE
    assert guard.status(Codes, OSError(28, "No space left on device")) == Codes.UNAVAILABLE
    assert guard.status(Codes, RuntimeError("x")) == Codes.INTERNAL
