"""Whatever is sent to an inner model, the next ordinary request gives the bytes of the first.

Every network of mini, of a small CT variant and of one without masks, with each kind of wrong
input, by a caller that shows the server's token and by one that does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc

from tests.conftest import TOKEN, Server

DTYPES = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_UINT8": np.uint8}
KINDS = {"f4": "FP32", "f8": "FP64", "i4": "INT32", "i8": "INT64", "u1": "UINT8", "O": "BYTES"}
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network's configuration, and the inputs of one small run."""

    name: str
    contract: Mapping[str, Any]
    tensors: Mapping[str, tuple[type, list[int]]]

    def good(self, voxels: int = 32, rows: int = 1) -> Inputs:
        sides = self.contract.get("size", [voxels] * 3)
        inputs = {}
        for name, (dtype, dims) in self.tensors.items():
            shape = [rows if side == -1 else side for side in dims]
            if name in self.contract["factors"]:
                shape[-3:] = [side // self.contract["factors"][name] for side in sides]
            inputs[name] = np.zeros(shape, dtype)
        return inputs

    def wrong(self) -> Iterator[tuple[str, list[Inputs]]]:
        """Yield each kind of inputs that do not fit together: its name, and some of it."""
        good, factors = self.good(), self.contract["factors"]
        spaces = [name for name in good if name in factors]
        rows = [name for name, (_, dims) in self.tensors.items() if dims[0] == -1]
        floats = [name for name in good if good[name].dtype == np.float32]
        yield "missing", [{key: good[key] for key in good if key != name} for name in good]
        yield "of another rank", [good | {name: good[name][None]} for name in good]
        yield "of another type", [good | {name: good[name].astype(np.int32)} for name in good]
        for value in (np.nan, np.inf):
            wrong = [good | {name: np.full_like(good[name], value)} for name in floats]
            yield f"of {value}", wrong
        if len(spaces) > 1 or "size" in self.contract:
            wrong = [good | {name: np.concatenate([good[name]] * 2, axis=-1)} for name in spaces]
            yield "twice as long", wrong
        yield "a side of 0", [good | {name: good[name][..., :0]} for name in spaces]
        odd = {name: good[name][..., :-1, :, :] for name in spaces}
        yield "sides that do not divide", [good | odd]
        if "size" not in self.contract:
            yield "more voxels than any volume", [self.good(96)]
        if rows:
            yield "rows", [self.good(rows=count) for count in (0, 3, 200)]
        if len(rows) > 1:
            two = {name: np.concatenate([good[name]] * 2) for name in rows}
            yield "two rows beside one", [good | {name: two[name]} for name in rows]
        for name, (low, high) in self.contract["ranges"].items():
            values = (low - 1, high + 1, 2**62)
            wrong = [good | {name: np.full_like(good[name], value)} for value in values]
            yield f"{name} out of range", wrong


def tensors(inputs: Inputs) -> list[grpc.InferInput]:
    made = []
    for name, value in inputs.items():
        array = np.asarray(value)
        made.append(grpc.InferInput(name, list(array.shape), KINDS[array.dtype.str.lstrip("|<")]))
        made[-1].set_data_from_numpy(array)
    return made


class Caller:
    """Asks a server for ordinary volumes and for runs of its networks."""

    def __init__(self, server: Server) -> None:
        self.client = grpc.InferenceServerClient(server.grpc)

    def ordinary(self, network: str) -> bytes:
        """Return the volume of a request whose stages call a network."""
        variant, _, short = network.partition(".")
        small = np.array([32, 32, 32], np.int32)
        mask = np.zeros(small, np.uint8)
        mask[8:24, 8:24, 8:24] = 22
        anatomy = {"anatomy": np.array([b"liver=0.5"], object), "size": small}
        asked: dict[str, Inputs] = {
            "vae_encoder": {"source": np.zeros(small, np.float32)},
            "mask_encoder": {"mask": mask},
            "flow_masked": {"mask": mask},
            "mask_flow": anatomy,
            "mask_decoder": anatomy,
        }
        inputs = asked.get(short, {"size": small})
        rest = {"seed": np.array([7]), "steps": np.array([1], np.int32)}
        result = self.client.infer(variant, tensors(inputs | rest), client_timeout=60)
        return bytes(result.as_numpy("image").tobytes())

    def run(self, model: str, inputs: Inputs, **parameters: str) -> None:
        self.client.infer(model, tensors(inputs), client_timeout=60, parameters=parameters)

    def refusal(self, model: str, inputs: Inputs, **parameters: str) -> str:
        with pytest.raises(grpc.InferenceServerException) as caught:
            self.run(model, inputs, **parameters)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        text = str(caught.value.message())
        assert "Traceback" not in text and "\n" not in text and "/" not in text
        return text

    def networks(self) -> list[Network]:
        """Read what the server has."""
        networks = []
        for model in self.client.get_inference_statistics().model_stats:
            config = self.client.get_model_config(model.name, as_json=True)["config"]
            if "network" in config["parameters"]:
                contract = json.loads(config["parameters"]["network"]["string_value"])
                described = {
                    tensor["name"]: (DTYPES[tensor["data_type"]], list(map(int, tensor["dims"])))
                    for tensor in config["input"]
                }
                networks.append(Network(model.name, contract, described))
        return networks


@pytest.fixture(scope="module", params=["mini", "official"])
def served(
    request: pytest.FixtureRequest,
    module_server: Callable[..., Server],
    official_repository: Path,
) -> Server:
    """Serve variants under a limit of 64^3 voxels, which holds for the networks, too."""
    folder = official_repository / "models" if request.param == "official" else None
    return module_server(folder, "--max-voxels=262144")


def test_each_kind_of_wrong_input_is_refused_and_the_next_request_is_as_ever(
    served: Server,
) -> None:
    caller = Caller(served)
    networks = caller.networks()
    processes = {network.name: served.stub(network.name).pid for network in networks}
    before = {network.name: caller.ordinary(network.name) for network in networks}
    count = 0
    for network in networks:
        for kind, wrong in network.wrong():
            for inputs in wrong:
                caller.refusal(network.name, inputs, maisi_token=TOKEN)
                count += 1
            assert caller.ordinary(network.name) == before[network.name], (network.name, kind)
    assert count > 40 * len(served.variants)
    assert {name: caller.ordinary(name) for name in before} == before
    assert {name: served.stub(name).pid for name in processes} == processes


def test_only_the_stages_may_call_a_network(served: Server) -> None:
    caller = Caller(served)
    for network in caller.networks():
        variant = network.name.partition(".")[0]
        sentence = f"{network.name}: only the stages of {variant} call it; "
        good: Callable[[], Inputs] = network.good
        for parameters in ({}, {"maisi_token": "guess"}, {"maisi_token": ""}):
            assert caller.refusal(network.name, good(), **parameters).startswith(sentence)
        caller.run(network.name, good(), maisi_token=TOKEN)
        huge = network.good(256) if "size" not in network.contract else good()
        assert caller.refusal(network.name, huge).startswith(sentence)
