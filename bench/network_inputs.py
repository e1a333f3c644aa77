"""Make consistent and inconsistent inputs for the networks of a variant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import np_to_triton_dtype

from backends.engines.guard import PARAMETER

_DTYPES = {"TYPE_FP16": "f2", "TYPE_FP32": "f4", "TYPE_INT64": "i8", "TYPE_UINT8": "u1"}
Inputs = dict[str, Any]


@dataclass(frozen=True)
class NetworkInputs:
    """The inputs that a network takes, and the limits of its contract.

    `name` is the name of the model. `export/model_configs.py` writes `contract`. `inputs` has the
    dtype and the sides of each input; the side -1 has any length.
    """

    name: str
    contract: Mapping[str, Any]
    inputs: Mapping[str, tuple[np.dtype[Any], Sequence[int]]]

    def good(self, voxels: int = 32, rows: int = 1) -> Inputs:
        """Return consistent inputs, all 0, for `rows` rows and `voxels` voxels per side."""
        sides = self.contract.get("size", [voxels] * 3)
        inputs = {}
        for name, (dtype, dims) in self.inputs.items():
            shape = [rows if side == -1 else side for side in dims]
            if name in self.contract["factors"]:
                shape[-3:] = [side // self.contract["factors"][name] for side in sides]
            inputs[name] = np.zeros(shape, dtype)
        return inputs

    def _thin(self, axis: int) -> Inputs:
        """Return inputs of a volume with a side that is too long and two minimal sides."""
        thin = [self.contract["multiple"]] * 3
        thin[axis] += self.contract["max"][axis]
        inputs = self.good()
        for name, factor in self.contract["factors"].items():
            sides = (*inputs[name].shape[:-3], *(side // factor for side in thin))
            inputs[name] = np.zeros(sides, inputs[name].dtype)
        return inputs

    def wrong(self) -> Iterator[tuple[str, list[Inputs]]]:
        """Yield the name of each kind of inconsistent inputs, and examples of it.

        The example with more voxels than allowed has 96 voxels per side.
        """
        good, factors = self.good(), self.contract["factors"]
        spaces = [name for name in good if name in factors]
        rows = [name for name, (_, dims) in self.inputs.items() if dims[0] == -1]
        floats = [name for name in good if good[name].dtype.kind == "f"]
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
            yield "a side beyond any volume's", [self._thin(axis) for axis in range(3)]
        if rows:
            yield "rows", [self.good(rows=count) for count in (0, 3, 200)]
        if len(rows) > 1:
            two = {name: np.concatenate([good[name]] * 2) for name in rows}
            yield "two rows beside one", [good | {name: two[name]} for name in rows]
        for name, (low, high) in self.contract["ranges"].items():
            values = (low - 1, high + 1, 2**62)
            wrong = [good | {name: np.full_like(good[name], value)} for value in values]
            yield f"{name} out of range", wrong


def of_server(client: grpc.InferenceServerClient) -> list[NetworkInputs]:
    """Return the inputs of each network of a server."""
    listed = []
    for model in client.get_inference_statistics().model_stats:
        config = client.get_model_config(model.name, as_json=True)["config"]
        if "network" in config.get("parameters", {}):
            contract = json.loads(config["parameters"]["network"]["string_value"])
            inputs = {
                tensor["name"]: (
                    np.dtype(_DTYPES[tensor["data_type"]]),
                    [int(side) for side in tensor["dims"]],
                )
                for tensor in config["input"]
            }
            listed.append(NetworkInputs(model.name, contract, inputs))
    return listed


def infer_inputs(arrays: Mapping[str, Any]) -> list[grpc.InferInput]:
    """Return arrays as inputs of tritonclient."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def infer_requests(network: NetworkInputs, token: str) -> list[Any]:
    """Return requests with the `token` of a stage: one is consistent, the others are not."""
    requests = []
    for inputs in (network.good(), *(inputs for _, some in network.wrong() for inputs in some)):
        request = grpc.service_pb2.ModelInferRequest(model_name=network.name)
        for name, array in inputs.items():
            kind = np_to_triton_dtype(array.dtype)
            request.inputs.add(name=name, datatype=kind, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        request.parameters[PARAMETER].string_param = token
        requests.append(request)
    return requests
