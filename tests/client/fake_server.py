"""A gRPC server whose answers a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc
from tritonclient.utils import np_to_triton_dtype

REPORT = {"variant": "mini", "modality": "mri_t1", "seed": 1, "spacing": [1, 2, 3]}
MINI = ("mini", "mini.stream")
Answer = Callable[[pb.ModelInferRequest, grpc.ServicerContext], Iterator[Any]]


@contextmanager
def fake_server(
    answer: Answer | None = None,
    configs: Iterable[model_config.ModelConfig] = (),
    compression: grpc.Compression = grpc.Compression.NoCompression,
    threads: int = 4,
) -> Iterator[tuple[str, list[pb.ModelInferRequest]]]:
    """Answer each streamed request by `answer`; yield the url and the list of requests.

    A part None of an answer ends the stream. `configs` are those of its models, which it reports as
    ready, and `mini` too unless an ensemble is among them. It compresses messages by `compression`,
    and has `threads` for requests.
    """
    requests: list[pb.ModelInferRequest] = []

    class Servicer(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelStreamInfer(self, stream: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            for request in stream:
                requests.append(request)
                assert answer is not None
                for part in answer(request, context):
                    if part is None:
                        return
                    yield part

        def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
            ensembles = any(config.platform == "ensemble" for config in models.values())
            names = {*models} if ensembles else {*models, *MINI}
            statistics = [pb.ModelStatistics(name=name) for name in names]
            return pb.ModelStatisticsResponse(model_stats=statistics)

        def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
            if request.name not in models:
                context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
            return pb.ModelConfigResponse(config=models[request.name])

    models = {config.name: config for config in configs}
    anything = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(threads), options=anything, compression=compression)
    rpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", requests
    finally:
        server.stop(0).wait()


def message(final: bool = False, **tensors: Any) -> pb.ModelStreamInferResponse:
    response = pb.ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = final
    for name, value in tensors.items():
        if isinstance(value, (str, bytes)):
            datatype, raw = "UINT8", value.encode() if isinstance(value, str) else value
            shape = [len(raw)]
        elif isinstance(value, tuple):  # type, shape and bytes that no array could have
            datatype, shape, raw = value
        else:
            datatype, raw, shape = np_to_triton_dtype(value.dtype), value.tobytes(), value.shape
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return pb.ModelStreamInferResponse(infer_response=response)


def progress(fraction: float) -> pb.ModelStreamInferResponse:
    return message(stage="sampler", progress=np.array([fraction], np.float32))


def volume(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    image = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    seed = np.frombuffer(contents(request)["seed"], np.int64).item()
    done = {"stage": "done", "progress": np.array([1], np.float32)}
    return message(**done, image=image, report=json.dumps({**REPORT, "seed": seed}))


def contents(request: pb.ModelInferRequest) -> dict[str, bytes]:
    return dict(zip((i.name for i in request.inputs), request.raw_input_contents, strict=True))
