"""Requests to the mini variant."""

from __future__ import annotations

import json
import queue

import numpy as np
import tritonclient.grpc as grpc

from tests.conftest import PATIENCE
from tests.server.metrics import until_answered


def tensors(seed=5, steps=2, masked=False):
    mask = np.zeros((40, 33, 35), np.uint8)
    mask[8:30, 6:28, 9:29] = 22
    values = {
        "seed": (np.array([seed], np.int64), "INT64"),
        "steps": (np.array([steps], np.int32), "INT32"),
        **(
            {"mask": (mask, "UINT8")}
            if masked
            else {"size": (np.array([40, 33, 35], np.int32), "INT32")}
        ),
    }
    inputs = []
    for name, (array, kind) in values.items():
        inputs.append(grpc.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def sized(side):
    """Return the inputs of a volume in one step."""
    inputs = []
    for name, values in (("size", [side] * 3), ("steps", [1])):
        inputs.append(grpc.InferInput(name, [len(values)], "INT32"))
        inputs[-1].set_data_from_numpy(np.array(values, np.int32))
    return inputs


def volume(server, **request):
    """Return the image of a request and its report."""
    with grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer("mini", tensors(**request), client_timeout=PATIENCE)
        report = json.loads(result.as_numpy("report").tobytes())
        return result.as_numpy("image"), report


def stream(server, **request):
    """Start a streamed request; return the queue of its results and errors, and its client."""
    messages = queue.Queue()
    client = grpc.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: messages.put(error or result))
    client.async_stream_infer("mini.stream", tensors(**request), enable_empty_final_response=True)
    return messages, client


def last(messages):
    """Return the image that ends a stream, or its error."""
    while True:
        message = messages.get(timeout=PATIENCE)
        if isinstance(message, Exception):
            return message
        if (image := message.as_numpy("image")) is not None:
            return image


def until_sampling(server, flow="mini.flow_masked", before=None):
    """Wait until a flow network has begun to answer, as `until_answered`."""
    until_answered(server.grpc, flow, before)
